"""WeightInformation: the protocol, streams, and memory that does not grow."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics import WeightInformation
from tests.metrics._tester import Batch, MetricTester, merge


def pairs(n: int, seed: int, drop: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    final = 2 + torch.rand(n, generator=generator)
    return {"first_nll": final + drop + torch.randn(n, generator=generator), "final_nll": final}


class TestMixture(MetricTester):
    batches: ClassVar = [pairs(n, seed) for seed, n in enumerate((7, 1, 12, 5))]
    differentiable_arguments = ("first_nll", "final_nll")

    def make(self, **kwargs: Any) -> WeightInformation:
        return WeightInformation(**kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        merged = merge(batches)
        return (merged["first_nll"] - merged["final_nll"]).sum()


class TestLossDifference(MetricTester):
    batches: ClassVar = [pairs(50, seed) for seed in range(4)]
    half_rtol = 0.3  # rounding moves pairs across the edges of bins

    def make(self, **kwargs: Any) -> WeightInformation:
        return WeightInformation(estimator="loss_difference", **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        merged = merge(batches)
        share = functional.pointwise_weight_information(**merged, estimator="loss_difference")
        return share.sum()


def test_first_visits_may_come_long_before_the_final_lengths() -> None:
    metric, paired = WeightInformation(confidence=0.9), WeightInformation(confidence=0.9)
    batches = [pairs(40, seed) for seed in range(3)]
    for batch in batches:
        metric.update(first_nll=batch["first_nll"])
        paired.update(**batch)
    assert metric.compute().value.isnan(), "nothing is known of the final weights yet"  # type: ignore[attr-defined]
    for batch in batches[::-1]:
        metric.update(final_nll=batch["final_nll"])
    apart, together = metric.compute(), paired.compute()
    assert apart.value == pytest.approx(float(together.value), rel=1e-6)  # type: ignore[attr-defined]
    merged = merge(batches)
    unpaired = (merged["first_nll"].var() + merged["final_nll"].var()) / (
        merged["first_nll"] - merged["final_nll"]
    ).var()
    width = (apart.high - apart.low) / (together.high - together.low)  # type: ignore[attr-defined]
    assert width == pytest.approx(float(unpaired.sqrt()), rel=1e-5)


def test_final_lengths_of_a_subsample_stand_for_all_first_visits() -> None:
    metric = WeightInformation()
    metric.update(first_nll=torch.full((100,), 3.0))
    metric.update(final_nll=torch.full((10,), 1.0))
    assert metric.compute() == 200.0


@pytest.mark.parametrize("estimator", ["mixture", "loss_difference"])
def test_memory_does_not_grow_with_the_run(estimator: str) -> None:
    metric = WeightInformation(estimator)
    empty = [state.numel() for state in metric.metric_state.values()]
    for _ in range(100):
        metric.update(torch.rand(8), torch.rand(8))
    assert [state.numel() for state in metric.metric_state.values()] == empty


def test_sums_of_many_long_code_lengths_keep_their_digits() -> None:
    metric = WeightInformation()
    for _ in range(2000):
        metric.update(torch.full((500,), 700.25), torch.full((500,), 700.0))
    assert metric.compute() == 250_000.0


def test_null_control_of_twins_covers_zero_and_a_mixture_has_none() -> None:
    metric = WeightInformation("loss_difference", confidence=0.99)
    for batch in TestLossDifference.batches:
        metric.update(**batch)
    assert metric.compute().low > 0  # type: ignore[attr-defined]
    controls = [metric.null_control(seed) for seed in range(40)]
    # a binomial with mean .4: five misses or more have probability 1e-4
    assert sum(not bool(low <= 0 <= high) for _, low, high in controls) < 5
    assert len({float(control.value) for control in controls}) > 10  # type: ignore[attr-defined]
    with pytest.raises(NotImplementedError, match="WeightInformation has no null control"):
        WeightInformation().null_control()


def test_errors_name_argument_and_cure() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match="`first_nll`, `final_nll` or both but got neither"):
        WeightInformation().update()
    with pytest.raises(ValueError, match="`final_nll` to hold the losses of the other twins"):
        WeightInformation("loss_difference").update(x)
    with pytest.raises(ValueError, match="`first_nll` to hold finite values but got 1 of 2 that are NaN or infinite"):
        WeightInformation().update(torch.tensor([1.0, torch.inf]), torch.ones(2))
    with pytest.raises(ValueError, match=r"`final_nll` to have shape \[n\]"):
        WeightInformation().update(final_nll=torch.ones(3, 2))
    with pytest.raises(ValueError, match="`estimator` to be one of"):
        WeightInformation("exact")
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `level`"):
        WeightInformation(level=3)


def test_without_validation_a_nan_shows_in_the_value() -> None:
    metric = WeightInformation(validate_args=False)
    metric.update(torch.tensor([1.0, torch.nan]), torch.ones(2))
    assert metric.compute().isnan()
