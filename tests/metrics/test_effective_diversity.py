"""EffectiveDiversity: the protocol, with and without sources, and its limits."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics import EffectiveDiversity
from tests.metrics._tester import Batch, MetricTester, merge


def batch(n: int, seed: int) -> Batch:
    return {"embeddings": torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))}


def sourced(n: int, seed: int) -> Batch:
    return {**batch(n, seed), "source": torch.arange(n) % 2}


class TestPooled(MetricTester):
    batches: ClassVar = [batch(n, n) for n in (9, 12, 7, 10)]
    differentiable_arguments = ("embeddings",)
    rtol = 1e-4

    def make(self, **kwargs: Any) -> EffectiveDiversity:
        return EffectiveDiversity(**kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        x = merge(batches)["embeddings"].double()
        directions = x / x.norm(dim=1, keepdim=True)
        share = torch.linalg.eigvalsh(directions @ directions.T / len(x)).clamp_min(1e-300)
        return (-(share * share.log()).sum()).exp()


class TestPerSource(TestPooled):
    batches: ClassVar = [sourced(n, n) for n in (10, 12, 8, 14)]

    def make(self, **kwargs: Any) -> EffectiveDiversity:
        return EffectiveDiversity(sources=["web", "model"], **kwargs)

    def reference(self, batches: list[Batch]) -> dict[str, torch.Tensor]:
        merged = merge(batches)
        x, source = merged["embeddings"], merged["source"]
        return {
            name: super(TestPerSource, self).reference([{"embeddings": x[source == code]}])
            for code, name in enumerate(("web", "model"))
        }


def test_copies_count_once_and_orthogonal_samples_each() -> None:
    metric = EffectiveDiversity()
    metric.update(torch.eye(6))
    assert metric.compute() == pytest.approx(6.0, rel=1e-6)
    metric.reset()
    metric.update(torch.ones(6, 3))
    assert metric.compute() == pytest.approx(1.0, rel=1e-6)


def test_the_order_of_rows_does_not_matter() -> None:
    x = batch(20, 0)["embeddings"]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    value = functional.effective_diversity(x, kernel="gaussian")
    assert functional.effective_diversity(x[order], kernel="gaussian") == pytest.approx(float(value), rel=1e-6)


def test_an_unseen_source_is_unknown() -> None:
    metric = EffectiveDiversity(sources=["web", "model"])
    metric.update(torch.eye(3), torch.zeros(3, dtype=torch.long))
    assert metric.compute()["model"].isnan()


def test_errors_name_argument_and_cure() -> None:
    with pytest.raises(ValueError, match="`source` to be None; name the `sources`"):
        EffectiveDiversity().update(torch.eye(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"`source` to have shape \[3\] but got None"):
        EffectiveDiversity(sources=["web"]).update(torch.eye(3))
    with pytest.raises(ValueError, match=r"`source` to hold indices below 1 but got values in \[0, 1\]"):
        EffectiveDiversity(sources=["web"]).update(torch.eye(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="`alpha` to be in"):
        EffectiveDiversity(alpha=0.0)
