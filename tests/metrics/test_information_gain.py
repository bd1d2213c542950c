"""InformationGain: the protocol for log-probabilities and for embeddings."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics import InformationGain
from tests.metrics._tester import Batch, MetricTester, merge


def tokens(n: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(6) < torch.randint(1, 7, (n, 1), generator=generator)
    log_probs = -torch.rand(n, 6, generator=generator)
    return {"log_probs": log_probs, "mask": mask}


def embeddings(n: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randn(n, 2, generator=generator)
    return {"prompt": prompt, "output": prompt + torch.randn(n, 2, generator=generator)}


class TestLogProbs(MetricTester):
    batches: ClassVar = [tokens(n, n) for n in (5, 1, 8, 3)]
    differentiable_arguments = ("log_probs",)

    def make(self, **kwargs: Any) -> InformationGain:
        return InformationGain(**kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        merged = merge(batches)
        return -(merged["log_probs"] * merged["mask"]).sum(-1).mean()


class TestMatrix(MetricTester):
    batches: ClassVar = [embeddings(n, n) for n in (20, 25, 31, 22)]
    differentiable_arguments = ("prompt", "output")
    rtol = 1e-4
    estimator = "matrix"

    def make(self, **kwargs: Any) -> InformationGain:
        return InformationGain(self.estimator, **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        return functional.embedding_information_gain(**merge(batches), estimator=self.estimator)


class TestNearestNeighbours(TestMatrix):
    estimator = "knn"


class TestGaussian(TestMatrix):
    estimator = "gaussian"


def test_the_estimator_chooses_the_class_and_pickling_keeps_it() -> None:
    for estimator in ("log_probs", "reference", "matrix", "knn", "gaussian"):
        metric = InformationGain(estimator)
        assert isinstance(metric, InformationGain)
        assert pickle.loads(pickle.dumps(metric)).estimator == estimator


def test_padding_may_hold_anything() -> None:
    log_probs = torch.tensor([[-1.0, -torch.inf], [-1.0, torch.nan]])
    metric = InformationGain()
    metric.update(log_probs, torch.tensor([[True, False], [True, False]]))
    assert metric.compute() == 1.0


def test_errors_name_argument_and_cure() -> None:
    with pytest.raises(ValueError, match=r"`estimator` to be one of .* but got 'exact'"):
        InformationGain("exact")
    with pytest.raises(ValueError, match=r"`mask` to have the shape of the log-probabilities, \[2, 3\], but got \[3\]"):
        InformationGain().update(-torch.ones(2, 3), torch.ones(3))
    with pytest.raises(ValueError, match=r"`output` to have shape \[n, d\] but got \[4\]; pool"):
        InformationGain("matrix").update(torch.ones(4, 2), torch.ones(4))
    with pytest.raises(ValueError, match=r"`prompt` and `output` to have one row per sample each but got \[4, 3\]"):
        InformationGain("matrix").update(torch.ones(4, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match="`log_probs` to hold finite values"):
        InformationGain().update(torch.tensor([-1.0, -torch.inf]))


@pytest.mark.parametrize("estimator", ["log_probs", "reference"])
def test_code_lengths_in_place_of_log_probabilities_are_refused(estimator: str) -> None:
    metric = InformationGain(estimator)
    with pytest.raises(
        ValueError, match="`log_probs` to be log-probabilities, at most 0, but got 2; negate code lengths"
    ):
        metric.update(torch.tensor([[2.0, 1.0]]))
    metric.update(torch.tensor([[2.0, -1.0]]), mask=torch.tensor([[False, True]]))
    assert metric.compute() == 1.0
