"""GeneralizationBound: the protocol, and what the constants do."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics import GeneralizationBound
from tests.metrics._tester import Batch, MetricTester, merge
from tests.metrics.test_weight_information import pairs


class TestMixture(MetricTester):
    batches: ClassVar = [pairs(n, seed, drop=3.0) for seed, n in enumerate((7, 5, 12, 6))]
    differentiable_arguments = ("first_nll", "final_nll")

    def make(self, **kwargs: Any) -> GeneralizationBound:
        return GeneralizationBound(sigma=2.0, layers=3, eta=0.5, **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        merged = merge(batches)
        per_sample = (merged["first_nll"] - merged["final_nll"]).mean()
        return math.exp(-1.5 * math.log(2)) * (2 * 4 * per_sample).sqrt()


class TestLossDifference(MetricTester):
    batches: ClassVar = [pairs(60, seed) for seed in range(4)]
    half_rtol = 0.3  # rounding moves pairs across the edges of bins

    def make(self, **kwargs: Any) -> GeneralizationBound:
        return GeneralizationBound("loss_difference", **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        merged = merge(batches)
        information = functional.loss_difference_information(merged["final_nll"], merged["first_nll"])
        return functional.generalization_bound(information, 1, sigma=1.0)


def test_default_sigma_is_that_of_a_loss_in_the_unit_interval() -> None:
    assert (GeneralizationBound().sigma, GeneralizationBound("loss_difference").sigma) == (0.5, 1.0)


@pytest.mark.parametrize("constants", [{"sigma": -1.0}, {"eta": 0.0}, {"eta": 2.0}, {"layers": -1}])
def test_bad_constants_are_refused_at_once(constants: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(constants))}`"):
        GeneralizationBound(**constants)
