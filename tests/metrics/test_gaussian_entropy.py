"""GaussianEntropy: the protocol, and memory that does not grow."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics.gaussian_entropy import GaussianEntropy
from tests.metrics._tester import Batch, MetricTester, merge


def samples(n: int) -> Batch:
    return {"x": 3 + torch.randn(n, 2, generator=torch.Generator().manual_seed(n))}


class TestGaussianEntropy(MetricTester):
    batches: ClassVar = [samples(n) for n in (7, 30, 12, 5)]
    differentiable_arguments = ("x",)

    def make(self, **kwargs: Any) -> GaussianEntropy:
        return GaussianEntropy(**kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        return functional.gaussian_entropy(**merge(batches))


def test_a_batch_of_one_sample_may_come() -> None:
    metric = GaussianEntropy()
    for row in samples(30)["x"]:
        metric.update(row[None])
    assert float(metric.compute()) == pytest.approx(float(functional.gaussian_entropy(**samples(30))), abs=1e-5)


def test_the_state_is_one_small_matrix() -> None:
    metric = GaussianEntropy()
    for seed in range(50):
        metric.update(samples(seed + 1)["x"])
    assert metric.sums.shape == (3, 3)


def test_too_few_samples_are_told() -> None:
    metric = GaussianEntropy()
    metric.update(samples(3)["x"])
    with pytest.raises(ValueError, match="3 samples in 2 dimensions that do not span them"):
        metric.compute()
