"""Intervals: closed forms, coverage, reproducibility."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from scipy import stats

from ggmi_callbacks.functional import Interval, bootstrap_interval, mean_interval
from ggmi_callbacks.functional._interval import mean_and_variance, moments


def test_mean_interval_is_the_student_t_interval() -> None:
    x = torch.randn(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value, low, high = mean_interval(x, confidence=0.9)
    expected = stats.t.interval(0.9, 11, loc=x.mean().item(), scale=stats.sem(x.numpy()))
    assert (float(low), float(high)) == pytest.approx(expected, rel=1e-12)
    assert value == pytest.approx(x.mean().item(), rel=1e-12)


def test_mean_interval_of_gaussians_covers_the_mean_as_often_as_it_says() -> None:
    draws = torch.randn(1000, 6, generator=torch.Generator().manual_seed(1))
    covered = sum(bool(low < 0 < high) for _, low, high in (mean_interval(x, 0.9) for x in draws))
    assert abs(covered / 1000 - 0.9) < 0.038  # four standard errors, sqrt(.09 / 1000) each


def test_moments_of_a_split_stream_add_up() -> None:
    x = torch.randn(100, generator=torch.Generator().manual_seed(2)) * 3 + 500
    mean, variance = mean_and_variance(moments(x[:37]) + moments(x[37:]))
    assert mean == pytest.approx(x.double().mean().item(), rel=1e-12)
    assert variance == pytest.approx(x.double().var().item() / 100, rel=1e-8)


def test_one_sample_gives_an_infinite_interval() -> None:
    _, low, high = mean_interval(torch.tensor([2.0]), confidence=0.95)
    assert (float(low), float(high)) == (-torch.inf, torch.inf)


def test_bootstrap_of_a_mean_approaches_its_normal_interval() -> None:
    x = torch.randn(400, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value, low, high = bootstrap_interval(torch.mean, x, confidence=0.95, resamples=4000)
    half = 1.96 * x.std(correction=0).item() / 20
    # The 2.5 % point of 4000 draws has standard error .0423 standard deviations: 4 x .0423 / 1.96 = 9 %.
    assert float(value - low) == pytest.approx(half, rel=0.09)
    assert float(high - value) == pytest.approx(half, rel=0.09)


def test_bootstrap_keeps_pairs_together() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(4))
    _, low, high = bootstrap_interval(lambda a, b: (a - b).abs().max(), x, x, confidence=0.9, resamples=50)
    assert low == high == 0


def test_bootstrap_is_reproducible_in_any_chunks_and_moves_no_global_random_state() -> None:
    x = torch.randn(30, generator=torch.Generator().manual_seed(5))
    before = torch.get_rng_state()
    first = bootstrap_interval(torch.mean, x, confidence=0.9, resamples=64)
    again = bootstrap_interval(torch.mean, x, confidence=0.9, resamples=64, chunk=32)
    assert torch.equal(torch.get_rng_state(), before)
    assert [float(a) for a in first] == pytest.approx([float(b) for b in again], rel=1e-6)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, "high"])
def test_confidence_must_be_a_probability(confidence: object) -> None:
    with pytest.raises(ValueError, match=r"`confidence` to be None or a float in \(0, 1\)"):
        mean_interval(torch.ones(3), confidence)


def test_bootstrap_refuses_samples_of_different_length() -> None:
    with pytest.raises(ValueError, match="same number of rows"):
        bootstrap_interval(torch.mean, torch.ones(3), torch.ones(4), confidence=0.9)


# -- the interval as a tensor


def interval() -> Interval:
    return Interval(*torch.tensor([2.0, 1.5, 3.0]))


def test_an_interval_is_its_value_wherever_a_tensor_is_wanted() -> None:
    x = interval()
    for result, expected in ((x + 1, 3.0), (x.exp().log(), 2.0), (torch.stack([x, x]).mean(), 2.0), (x.value, 2.0)):
        assert type(result) is torch.Tensor
        assert float(result) == pytest.approx(expected)
    assert float(x) == 2.0
    assert f"{x:.2f}" == "2.00"
    assert (x.shape, x.numel()) == ((), 1)


def test_an_interval_unpacks_into_plain_tensors() -> None:
    value, low, high = interval()
    assert [type(part) for part in (value, low, high)] == [torch.Tensor] * 3
    assert (value, low, high) == (2.0, 1.5, 3.0)


def test_an_interval_keeps_its_ends_in_another_precision_place_or_copy() -> None:
    x = interval()
    for y in (x.double(), x.to(torch.float64), x.cpu(), x.clone(), x.detach(), x.squeeze()):
        assert list(map(float, y)) == [2.0, 1.5, 3.0]
    assert {part.dtype for part in x.double()} == {torch.float64}
    for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
        assert isinstance(y, Interval)
        assert list(map(float, y)) == [2.0, 1.5, 3.0]


def test_gradients_flow_through_the_value_and_the_ends() -> None:
    x = torch.rand(6, dtype=torch.float64).requires_grad_()
    found = mean_interval(x, 0.9)
    (direct,) = torch.autograd.grad(found + 0, x, retain_graph=True)
    (through,) = torch.autograd.grad(found.low + found.high, x)
    torch.testing.assert_close(direct, torch.full_like(x, 1 / 6))
    torch.testing.assert_close(through, torch.full_like(x, 2 / 6))
