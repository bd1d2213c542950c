"""MatrixEntropy: the protocol for each kernel and order."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics.matrix_entropy import MatrixEntropy
from tests.metrics._tester import Batch, MetricTester, merge


def samples(n: int) -> Batch:
    return {"x": torch.randn(n, 3, generator=torch.Generator().manual_seed(n))}


class TestVonNeumannGaussian(MetricTester):
    batches: ClassVar = [samples(n) for n in (7, 20, 12, 9)]
    differentiable_arguments = ("x",)
    settings: ClassVar[dict[str, Any]] = {}

    def make(self, **kwargs: Any) -> MatrixEntropy:
        return MatrixEntropy(**self.settings, **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        return functional.matrix_entropy(**merge(batches), **self.settings)


class TestCollisionCosine(TestVonNeumannGaussian):
    settings: ClassVar = {"alpha": 2.0, "kernel": "cosine"}


class TestFixedBandwidth(TestVonNeumannGaussian):
    settings: ClassVar = {"alpha": 0.5, "bandwidth": 2.0}


def test_bad_arguments_are_refused_when_made() -> None:
    for arguments, name in (
        ({"alpha": -1.0}, "alpha"),
        ({"kernel": "linear"}, "kernel"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"max_exact": 0}, "max_exact"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            MatrixEntropy(**arguments)
