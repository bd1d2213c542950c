"""GGMIUpperBound: the protocol, the identity, slack and a*."""

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
    third = "cross_nll" if split == "anchor" else "generator_nll"
    return {**lengths, third: 1 + torch.rand(n, generator=generator)}


def entropies(batches: list[Batch]) -> list[Tensor]:
    """Arguments of the functional twin, in order."""
    anchors, synthetic = (merge([b for b in batches if b["split"] == split]) for split in ("anchor", "synthetic"))
    parts = (
        synthetic["generator_nll"],
        anchors["first_nll"],
        synthetic["first_nll"],
        synthetic["final_nll"],
        anchors["final_nll"],
        anchors["cross_nll"],
    )
    return [part.double().sum() for part in parts]


class TestGGMIUpperBound(MetricTester):
    batches: ClassVar = [
        batch(n, n, split) for n, split in ((9, "anchor"), (6, "synthetic"), (3, "anchor"), (4, "synthetic"))
    ]
    batchwise = False  # a batch of one set alone has no bound
    differentiable_arguments = ("first_nll", "final_nll")

    def make(self, **kwargs: Any) -> GGMIUpperBound:
        return GGMIUpperBound(a=0.5, **kwargs)

    def reference(self, batches: list[Batch]) -> Tensor:
        return functional.ggmi_upper_bound(*entropies(batches), a=0.5)


def filled(**kwargs: Any) -> GGMIUpperBound:
    metric = GGMIUpperBound(**kwargs)
    for part in TestGGMIUpperBound.batches:
        metric.update(**part)
    return metric


def test_terms_equal_the_functional_twin() -> None:
    for a in (0.0, 0.5):
        expected = functional.ggmi_upper_bound_terms(*entropies(TestGGMIUpperBound.batches), a=a)
        assert flat(filled(a=a).terms()) == pytest.approx(flat(expected), rel=1e-9)


def test_ggmi_beside_the_bound_is_that_of_the_ggmi_metric() -> None:
    ggmi = GGMI(confidence=0.9)
    for part in TestGGMIUpperBound.batches:
        ggmi.update(part["first_nll"], part["final_nll"], split=part["split"])
    assert flat(filled(confidence=0.9).terms().ggmi) == pytest.approx(flat(ggmi.compute()), rel=1e-5)


def test_the_interval_of_the_bound_is_that_of_the_sum_of_its_parts_per_sample() -> None:
    anchors, synthetic = (
        merge([b for b in TestGGMIUpperBound.batches if b["split"] == split]) for split in ("anchor", "synthetic")
    )
    a = (2 * anchors["first_nll"] - anchors["final_nll"]).double()
    g = (synthetic["generator_nll"] - 2 * synthetic["first_nll"] + synthetic["final_nll"]).double()
    error = (len(a) * a.var() + len(g) * g.var()).sqrt()
    bound = filled(confidence=0.9).terms().bound
    assert isinstance(bound, Interval)
    assert float(bound.high - bound.value) == pytest.approx(1.8331129 * float(error), rel=1e-6)  # t, 9 degrees


def test_code_lengths_under_w_may_be_left_out_but_for_a_star() -> None:
    metric = GGMIUpperBound(confidence=0.9)
    for part in TestGGMIUpperBound.batches:
        metric.update(**{name: x for name, x in part.items() if name != "cross_nll"})
    assert flat(metric.terms()[:3]) == pytest.approx(flat(filled(confidence=0.9).terms()[:3]), rel=1e-9)
    assert metric.terms().a_star.isnan()
    assert not filled().terms().a_star.isnan()


def test_a_random_subsample_stands_for_the_whole_set() -> None:
    metric = filled(anchor_total=1200, synthetic_total=1000)  # of 12 and 10 seen
    assert flat(metric.terms()[:3]) == pytest.approx([100 * x for x in flat(filled().terms()[:3])], rel=1e-9)


def test_missing_or_misplaced_code_lengths_are_refused() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match="`generator_nll` and no `cross_nll` with split='synthetic'"):
        GGMIUpperBound().update(x, x, split="synthetic")
    with pytest.raises(ValueError, match="no argument `generator_nll` with split='anchor'"):
        GGMIUpperBound().update(x, x, split="anchor", generator_nll=x)
    with pytest.raises(ValueError, match="`cross_nll` if a > 0"):
        GGMIUpperBound(a=1.0).update(x, x, split="anchor")
    with pytest.raises(ValueError, match="`a` to be at least 0 but got -1"):
        GGMIUpperBound(a=-1)
