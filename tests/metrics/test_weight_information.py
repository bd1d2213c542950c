"""WeightInformation: the protocol, streams, and memory that does not grow."""

from __future__ import annotations

from typing import Any, ClassVar

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
