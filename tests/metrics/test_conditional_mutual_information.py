"""ConditionalMutualInformation: the protocol, and a null control that keeps what is conditioned on."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.metrics.conditional_mutual_information import ConditionalMutualInformation
from tests.metrics._tester import Batch, MetricTester, merge

pytestmark = pytest.mark.filterwarnings("ignore:estimator=.matrix. gives the matrix-based information")


def triples(n: int) -> Batch:
    x, noise, z = torch.randn(3, n, 1, generator=torch.Generator().manual_seed(n))
    return {"x": x + z, "y": x + noise + z, "z": z}


class TestKSG(MetricTester):
    batches: ClassVar = [triples(n) for n in (57, 80, 62, 41)]
    half_rtol = 0.2  # rounding moves samples across the edges of neighbourhoods
    rtol = 1e-4
    estimator = "ksg"

    def make(self, **kwargs: Any) -> ConditionalMutualInformation:
        return ConditionalMutualInformation(self.estimator, progress=False, **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        return functional.conditional_mutual_information(**merge(batches), estimator=self.estimator, progress=False)


class TestAuto(TestKSG):
    estimator = "auto"


class TestGaussian(TestKSG):
    estimator = "gaussian"
    differentiable_arguments = ("x", "y", "z")


class TestMatrix(TestKSG):
    estimator = "matrix"
    differentiable_arguments = ("x", "y", "z")


def test_the_null_control_keeps_the_tie_to_what_is_conditioned_on() -> None:
    metric = ConditionalMutualInformation("gaussian", confidence=0.99)
    metric.update(**triples(1000))
    assert metric.compute().low > 0.2  # type: ignore[attr-defined]  # the truth is log(2) / 2 = 0.35
    null = metric.null_control()
    assert null.low <= 0 <= null.high < 0.05  # type: ignore[attr-defined]


def test_the_null_control_takes_each_y_from_a_neighbour_in_z(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConditionalMutualInformation, "_estimate", lambda self, *samples: torch.stack(samples))
    x, z = torch.randn(2, 500, 1, generator=torch.Generator().manual_seed(0))
    metric = ConditionalMutualInformation("gaussian")
    metric.update(x, 3 * z, z)
    _, y, _ = metric.null_control()
    assert (y != 3 * z).all()  # never its own
    assert torch.corrcoef(torch.cat((y, z), 1).T)[0, 1] > 0.99


def test_an_estimator_without_conditional_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`estimator` to be one of .* but got 'canonical_ksg'"):
        ConditionalMutualInformation("canonical_ksg")
