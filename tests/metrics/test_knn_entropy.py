"""KNNEntropy: the protocol."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics.knn_entropy import KNNEntropy
from tests.metrics._tester import Batch, MetricTester, merge


def samples(n: int) -> Batch:
    return {"x": torch.randn(n, 2, generator=torch.Generator().manual_seed(n))}


class TestKNNEntropy(MetricTester):
    batches: ClassVar = [samples(n) for n in (7, 30, 12, 9)]
    differentiable_arguments = ("x",)

    def make(self, **kwargs: Any) -> KNNEntropy:
        return KNNEntropy(k=4, **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        return functional.knn_entropy(**merge(batches), k=4)


def test_one_dimension_needs_no_second_axis() -> None:
    x = samples(20)["x"][:, 0]
    metric = KNNEntropy()
    metric.update(x[:8])
    metric.update(x[8:, None])
    assert float(metric.compute()) == float(functional.knn_entropy(x))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="`k` to be positive but got 0"):
        KNNEntropy(k=0)
    with pytest.raises(ValueError, match=r"`x` to have shape \[n, d\].* but got \[2, 2, 2\]"):
        KNNEntropy().update(torch.zeros(2, 2, 2))
    with pytest.raises(ValueError, match="`x` to hold finite values but got 1 of 2"):
        KNNEntropy().update(torch.tensor([1.0, torch.inf]))
