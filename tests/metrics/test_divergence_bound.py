"""DivergenceBound: the protocol, its terms, and the null control."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics import DivergenceBound
from tests.metrics._tester import Batch, MetricTester, flat, merge

SHIFT = {"real": 0.0, "generated": 1.0, "synthetic": 2.5}


def batch(n: int, seed: int, split: str) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return {"embeddings": torch.randn(n, 3, generator=generator) + SHIFT[split], "split": split}


def sets(batches: list[Batch]) -> list[torch.Tensor]:
    return [merge([b for b in batches if b["split"] == split])["embeddings"] for split in SHIFT]


class TestDivergenceBound(MetricTester):
    batches: ClassVar = [batch(40, seed, split) for seed, split in enumerate([*SHIFT, *SHIFT])]
    batchwise = stepwise = False  # a batch or two, of three sets, have no divergence
    half_rtol = 0.2  # rounded embeddings fall into other folds

    def make(self, **kwargs: Any) -> DivergenceBound:
        return DivergenceBound(constant=3.0, **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        real, generated, synthetic = sets(batches)
        first = functional.total_variation_lower_bound(real, generated)
        return 3 * (first + functional.total_variation_lower_bound(generated, synthetic))


def test_terms_equal_the_functional_twin() -> None:
    metric = TestDivergenceBound().filled(confidence=0.9)
    expected = functional.divergence_terms(*sets(TestDivergenceBound.batches), constant=3.0, confidence=0.9)
    for term, twin in zip(metric.terms(), expected, strict=True):
        assert flat(term) == pytest.approx(flat(twin), rel=1e-5)


def test_null_control_covers_zero() -> None:
    metric = TestDivergenceBound().filled(confidence=0.99)
    assert metric.compute().low > 0
    controls = [metric.null_control(seed) for seed in range(20)]
    # a binomial with mean .2: four misses or more have probability 6e-5; folds correlate, so one more is allowed
    assert sum(not bool(low <= 0 <= high) for _, low, high in controls) < 5
    assert len({float(control.value) for control in controls}) > 5


def test_divergence_is_unknown_until_all_three_sets_are_seen() -> None:
    metric = DivergenceBound(confidence=0.9)
    metric.update(torch.randn(9, 2), split="real")
    metric.update(torch.randn(9, 2), split="synthetic")
    assert metric.compute().value.isnan()  # type: ignore[attr-defined]
    assert not metric.terms().real_synthetic.value.isnan()  # type: ignore[attr-defined]


def test_errors_name_argument_and_cure() -> None:
    with pytest.raises(ValueError, match=r"`embeddings` to have shape \[n, d\] but got \[2, 3, 4\]; pool"):
        DivergenceBound().update(torch.ones(2, 3, 4), split="real")
    with pytest.raises(ValueError, match="`split` to be one of"):
        DivergenceBound().update(torch.ones(2, 3), split="anchor")
    with pytest.raises(ValueError, match="`constant` to be positive"):
        DivergenceBound(constant=0.0)


def test_nan_is_never_turned_into_a_number() -> None:
    metric = DivergenceBound(validate_args=False)
    for part in TestDivergenceBound.batches:
        metric.update(**part)
    metric.update(torch.full((4, 3), torch.nan), split="real")
    assert metric.compute().isnan()
    assert metric.terms().real_synthetic.isnan()
    assert metric.null_control().isnan()
