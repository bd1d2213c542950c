"""Gain: the streaming mean with its normal interval, per source."""

from __future__ import annotations

import io
from typing import Any, ClassVar

import pytest
import scipy.stats
import torch
from torch import Tensor

from ggmi_callbacks.metrics.gain import Gain
from tests.metrics._tester import Batch, MetricTester, merge

NAN = float("nan")


def stream(n: int, seed: int) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    gain = 2 + torch.randn(n, generator=draw)
    gain[n // 3 :: 5] = NAN
    source = torch.randint(0, 3, (n,), generator=draw)
    return {"gain": gain, "source": source, "weight": torch.rand(n, generator=draw).sub(0.3).clamp_min(0)}


class TestGain(MetricTester):
    batches: ClassVar = [stream(n, seed) for seed, n in enumerate((7, 4, 12, 5))]

    def make(self, **kwargs: Any) -> Gain:
        return Gain(num_sources=3, **kwargs)

    def reference(self, batches: list[Batch]) -> Tensor:
        gain = merge(batches)["gain"].double()
        return gain[~gain.isnan()].mean()


def test_the_summary_is_that_of_all_samples_at_once() -> None:
    batches = [stream(n, seed) for seed, n in enumerate((40, 1, 25))]
    metric = Gain(num_sources=3)
    for batch in batches:
        metric.update(**batch)
    whole, summary = merge(batches), metric.summary()
    gain, scored = whole["gain"].double(), ~whole["gain"].isnan()
    n, mean, deviation = int(scored.sum()), gain[scored].mean(), gain[scored].std()
    # The closed form: mean -+ t s / sqrt(n), s^2 with n - 1 below; float32 at the end.
    half = float(scipy.stats.t.ppf(0.975, n - 1) * deviation / n**0.5)
    assert summary["mean"] == pytest.approx(float(mean), rel=1e-6)
    assert summary["low"] == pytest.approx(float(mean) - half, rel=1e-6)
    assert summary["high"] == pytest.approx(float(mean) + half, rel=1e-6)
    assert summary["coverage"] == pytest.approx(n / len(gain))
    for i in range(3):
        mine = whole["source"] == i
        assert summary["gain"][i] == pytest.approx(float(gain[mine & scored].mean()), rel=1e-6)
        assert summary["kept"][i] == pytest.approx(float((whole["weight"][mine] > 0).double().mean()), rel=1e-6)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    # Exact for normal gains, however few: 400 intervals of 4, standard error 1.1 % (a normal interval covers 86 %).
    draw, hits = torch.Generator().manual_seed(0), 0
    for _ in range(400):
        metric = Gain()
        metric.update(1.5 + 2 * torch.randn(4, generator=draw))
        summary = metric.summary()
        hits += int(summary["low"] < 1.5 < summary["high"])
    assert 0.91 < hits / 400 < 0.985


def test_samples_without_gain_count_only_as_seen() -> None:
    metric = Gain(2)
    metric.update(torch.tensor([NAN, NAN]), torch.tensor([0, 1]), torch.tensor([1.0, 1.0]))
    summary = metric.summary()
    assert metric.compute().isnan()
    assert summary["coverage"] == 0
    assert summary["kept"].tolist() == [1, 1]
    metric.update(torch.tensor([3.0, NAN]), torch.tensor([0, 1]))
    assert metric.compute() == 3
    assert metric.summary()["coverage"] == 0.25


def test_a_single_gain_has_a_mean_and_says_nothing_of_its_error() -> None:
    metric = Gain()
    metric.update(torch.tensor([0.1]))
    summary = metric.summary()
    assert summary["mean"] == torch.tensor(0.1)
    assert summary["low"] == -torch.inf
    assert summary["high"] == torch.inf


def test_equal_gains_have_an_interval_of_no_length() -> None:
    metric = Gain()
    metric.update(torch.full((10,), 0.1))
    summary = metric.summary()
    # Squares and mean cancel to rounding: sqrt(1e-16) in float64.
    assert summary["high"] - summary["low"] < 1e-7


@pytest.mark.parametrize("gains", [[float("inf"), 1.0], [float("inf"), float("-inf"), 1.0]])
def test_an_infinite_gain_is_not_averaged_away(gains: list[float]) -> None:
    metric = Gain()
    metric.update(torch.tensor(gains))
    assert not metric.compute().isfinite()


def test_the_state_survives_a_checkpoint() -> None:
    metric, resumed = Gain(3), Gain(3)
    metric.persistent(True)
    resumed.persistent(True)
    metric.update(**stream(20, 0))
    saved = io.BytesIO()
    torch.save(metric.state_dict(), saved)
    saved.seek(0)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(resumed.summary()["gain"], metric.summary()["gain"])


def test_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`num_sources` to be at least 1 but got 0"):
        Gain(0)
    with pytest.raises(ValueError, match=r"`gain` to have shape \[n\], one number per sample, but got \[2, 3\]"):
        Gain().update(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": torch.ones(2)}, r"`weight` to have shape \[3\], one number per sample, but got \[2\]"),
        ({"source": torch.zeros(2, dtype=torch.long)}, r"`source` to have shape \[3\], one integer per sample"),
        ({"source": torch.zeros(3, 1, dtype=torch.long)}, r"`source` to have shape \[3\], .* but got \[3, 1\]"),
        ({"source": torch.zeros(3)}, r"`source` to have shape \[3\], one integer per sample, .* of torch.float32"),
        ({"source": torch.tensor([0, 1, 2])}, r"`source` to hold indices below 2 but got values in \[0, 2\]"),
        ({"source": torch.tensor([0, 1, -1])}, r"`source` to hold indices below 2 but got values in \[-1, 1\]"),
    ],
)
def test_an_update_that_is_refused_changes_no_state(arguments: Batch, message: str) -> None:
    metric = Gain(2)
    metric.update(torch.ones(3))
    before = {name: state.clone() for name, state in metric.metric_state.items()}
    with pytest.raises(ValueError, match=message):
        metric.update(torch.ones(3), **arguments)
    assert all(torch.equal(state, before[name]) for name, state in metric.metric_state.items())
