"""GGMIUpperBound: the protocol, the identity, the slack, and what the theorem assumes."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import functional
from ggmi_callbacks.functional import Interval
from ggmi_callbacks.metrics import GGMI, GGMIUpperBound
from tests.metrics._tester import Batch, MetricTester, flat, merge


def batch(n: int, seed: int, split: str) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    final = 2 + torch.rand(n, generator=generator)
    lengths = {"first_nll": final + 1 + torch.rand(n, generator=generator), "final_nll": final, "split": split}
    others = ("prompt_nll", "cross_nll") if split == "anchor" else ("generator_nll",)
    return lengths | {name: 1 + torch.rand(n, generator=generator) for name in others}


def entropies(batches: list[Batch]) -> dict[str, Tensor]:
    """Arguments of the functional twin."""
    anchors, synthetic = (merge([b for b in batches if b["split"] == split]) for split in ("anchor", "synthetic"))
    return {
        "information_gain": synthetic["generator_nll"].double().sum(),
        "anchor_entropy": anchors["first_nll"].double().sum(),
        "synthetic_entropy": synthetic["first_nll"].double().sum(),
        "synthetic_given_weights": synthetic["final_nll"].double().sum(),
        "anchor_given_anchor_weights": anchors["final_nll"].double().sum(),
        "anchor_given_prompt": anchors["prompt_nll"].double().sum(),
    }


def cross(batches: list[Batch]) -> Tensor:
    return torch.cat([b["cross_nll"] for b in batches if b["split"] == "anchor"]).double().sum()


class TestGGMIUpperBound(MetricTester):
    batches: ClassVar = [
        batch(n, n, split) for n, split in ((9, "anchor"), (6, "synthetic"), (3, "anchor"), (4, "synthetic"))
    ]
    batchwise = False  # a batch of one set alone has no bound
    differentiable_arguments = ("first_nll", "final_nll")

    def make(self, **kwargs: Any) -> GGMIUpperBound:
        return GGMIUpperBound(**kwargs)

    def reference(self, batches: list[Batch]) -> Tensor:
        return functional.ggmi_upper_bound(**entropies(batches))


BATCHES = TestGGMIUpperBound.batches


def filled(**kwargs: Any) -> GGMIUpperBound:
    metric = GGMIUpperBound(**kwargs)
    for part in BATCHES:
        metric.update(**part)
    return metric


def test_terms_equal_the_functional_twin() -> None:
    expected = functional.ggmi_upper_bound_terms(**entropies(BATCHES), anchor_given_weights=cross(BATCHES))
    assert flat(filled().terms()) == pytest.approx(flat(expected), rel=1e-9)


def test_ggmi_beside_the_bound_is_that_of_the_ggmi_metric() -> None:
    ggmi = GGMI(confidence=0.9)
    for part in BATCHES:
        ggmi.update(part["first_nll"], part["final_nll"], split=part["split"])
    assert flat(filled(confidence=0.9).terms().ggmi) == pytest.approx(flat(ggmi.compute()), rel=1e-5)


def test_the_interval_of_the_bound_is_that_of_the_sum_of_its_parts_per_sample() -> None:
    anchors, synthetic = (merge([b for b in BATCHES if b["split"] == split]) for split in ("anchor", "synthetic"))
    a = (2 * anchors["first_nll"] - anchors["final_nll"] - anchors["prompt_nll"]).double()
    g = (synthetic["generator_nll"] - 2 * synthetic["first_nll"] + synthetic["final_nll"]).double()
    error = (len(a) * a.var() + len(g) * g.var()).sqrt()
    bound = filled(confidence=0.9).terms().bound
    assert isinstance(bound, Interval)
    assert float(bound.high - bound.value) == pytest.approx(1.8331129 * float(error), rel=1e-6)  # t, 9 degrees


def test_the_bound_and_its_slack_do_not_ask_for_code_lengths_under_w() -> None:
    metric = GGMIUpperBound(confidence=0.9)
    for part in BATCHES:
        metric.update(**{name: x for name, x in part.items() if name != "cross_nll"})
    assert flat(metric.terms()[:3]) == pytest.approx(flat(filled(confidence=0.9).terms()[:3]), rel=1e-9)
    assert metric.terms().a.isnan()
    assert metric.terms().epsilon.isnan()
    assert filled().terms().a.isfinite()


def test_a_random_subsample_stands_for_the_whole_set() -> None:
    metric = filled(anchor_total=1200, synthetic_total=1000)  # of 12 and 10 seen
    assert flat(metric.terms()[:3]) == pytest.approx([100 * x for x in flat(filled().terms()[:3])], rel=1e-9)
    assert metric.terms().a == pytest.approx(float(filled().terms().a))


def test_missing_or_misplaced_code_lengths_are_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match="`generator_nll` with split='synthetic' but got none"):
        GGMIUpperBound().update(x, x, split="synthetic")
    with pytest.raises(ValueError, match=r"`prompt_nll` with split='anchor' but got none; .* 0 where it holds them"):
        GGMIUpperBound().update(x, x, split="anchor")
    with pytest.raises(ValueError, match="`prompt_nll` with split='anchor' but got generator_nll in its place"):
        GGMIUpperBound().update(x, x, split="anchor", generator_nll=x)
    with pytest.raises(ValueError, match="`generator_nll` with split='synthetic' but got cross_nll in its place"):
        GGMIUpperBound().update(x, x, split="synthetic", generator_nll=x, cross_nll=x)
