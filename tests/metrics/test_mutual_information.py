"""MutualInformation: the protocol for each estimator, the choice and the null control."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from ggmi_callbacks import functional
from ggmi_callbacks.functional.mutual_information import choose_estimator
from ggmi_callbacks.metrics.mutual_information import MutualInformation
from tests.metrics._tester import Batch, MetricTester, merge

pytestmark = pytest.mark.filterwarnings("ignore:estimator=.matrix. gives the matrix-based information")


def pairs(n: int) -> Batch:
    x, noise = torch.randn(2, n, 2, generator=torch.Generator().manual_seed(n))
    return {"x": x, "y": x + 0.5 * noise}


class TestKSG(MetricTester):
    batches: ClassVar = [pairs(n) for n in (57, 80, 62, 51)]
    half_rtol = 0.1  # rounding moves samples across the edges of neighbourhoods
    rtol = 1e-4
    estimator = "ksg"

    def make(self, **kwargs: Any) -> MutualInformation:
        return MutualInformation(self.estimator, progress=False, **kwargs)

    def reference(self, batches: list[Batch]) -> torch.Tensor:
        return functional.mutual_information(**merge(batches), estimator=self.estimator, progress=False)


class TestAuto(TestKSG):
    estimator = "auto"


class TestCopula(TestKSG):
    estimator = "copula"


class TestGaussian(TestKSG):
    estimator = "gaussian"
    differentiable_arguments = ("x", "y")


class TestMatrix(TestKSG):
    estimator = "matrix"
    differentiable_arguments = ("x", "y")


def test_infonce_trains_inside_a_metric_that_has_no_gradient() -> None:
    metric = MutualInformation("infonce", progress=False)
    value = metric(**pairs(300))
    expected = functional.mutual_information(**pairs(300), estimator="infonce", progress=False)
    assert float(value) == float(expected) > 1.0


def test_the_choice_of_auto_can_be_read() -> None:
    metric = MutualInformation(k=9, seed=3, progress=False)
    metric.update(**pairs(300))
    choice = metric.choice()
    assert choice == choose_estimator(**pairs(300), k=9, seed=3)
    assert choice.estimator == "copula"
    assert "Gaussian copula explains" in choice.reason
    assert choice.estimates["copula"] == pytest.approx(float(metric.compute()), abs=1e-6)


def test_the_null_control_covers_zero_where_the_value_does_not() -> None:
    metric = MutualInformation("gaussian", confidence=0.99)
    metric.update(**pairs(300))
    assert metric.compute().low > 0.5  # type: ignore[attr-defined]
    null = metric.null_control()
    assert null.low <= 0 <= null.high  # type: ignore[attr-defined]
    assert metric.null_control(seed=1).high != null.high  # type: ignore[attr-defined]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="`estimator` to be one of"):
        MutualInformation("mine")
    with pytest.raises(ValueError, match="`k` to be positive but got 0"):
        MutualInformation(k=0)
    with pytest.raises(ValueError, match=r"`x` and `y` to have one row per sample each but got \[3, 2\]"):
        MutualInformation().update(torch.zeros(3), torch.zeros(2))
