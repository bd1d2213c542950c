"""CodeLength: the protocol per sample, per token and in total."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics.code_length import CodeLength
from tests.metrics._tester import Batch, MetricTester, merge


def tokens(n: int) -> Batch:
    generator = torch.Generator().manual_seed(n)
    mask = torch.arange(6) < torch.randint(1, 7, (n, 1), generator=generator)
    return {"log_probs": -torch.rand(n, 6, generator=generator), "mask": mask}


class TestPerSample(MetricTester):
    batches: ClassVar = [tokens(n) for n in (5, 2, 8, 3)]
    differentiable_arguments = ("log_probs",)
    per = "sample"

    def make(self, **kwargs: Any) -> CodeLength:
        return CodeLength(self.per, **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        return functional.code_length(**merge(batches), per=self.per)


class TestPerToken(TestPerSample):
    per = "token"


class TestTotal(TestPerSample):
    per = "total"


def test_batches_may_be_padded_to_different_lengths() -> None:
    metric = CodeLength("token")
    metric.update(torch.tensor([[-1.0, -1.0, -1.0]]))
    metric.update(torch.tensor([[-3.0, -torch.inf]]), torch.tensor([[True, False]]))
    assert float(metric.compute()) == 1.5


def test_code_lengths_in_place_of_log_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="`log_probs` to be log-probabilities, at most 0, but got 2"):
        CodeLength().update(torch.tensor([[2.0]]))
    with pytest.raises(ValueError, match="at most 0, but got nan"):
        CodeLength().update(torch.tensor([[torch.nan]]))
    CodeLength(validate_args=False).update(torch.tensor([[2.0]]))
