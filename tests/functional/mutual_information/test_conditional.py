"""Conditional information."""

from __future__ import annotations

import math

import pytest

from tests.functional.mutual_information._pairs import estimate, normal


@pytest.mark.parametrize("estimator", ["gaussian", "copula", "ksg", "auto"])
def test_conditioning_explains_away_a_common_cause(estimator: str) -> None:
    x, y, z = normal(3, 2000, 1)
    x, y = x + z, y + z
    # I(x; y) = log(4 / 3) / 2 = 0.14 through z alone
    assert estimate(x, y, estimator=estimator) == pytest.approx(math.log(4 / 3) / 2, abs=4 * 0.5 / math.sqrt(2000))
    assert estimate(x, y, z, estimator=estimator) < 0.03


@pytest.mark.parametrize("estimator", ["gaussian", "copula", "ksg", "auto", "infonce"])
def test_conditioning_on_a_common_effect_creates_information(estimator: str) -> None:
    x, y, noise = normal(3, 1500, 1)
    z = x + y + noise
    # Given z, x and y have correlation -1/2: I = log(4 / 3) / 2
    tolerance = 4 * 0.5 / math.sqrt(1500) + (0.03 if estimator == "infonce" else 0.0)
    assert estimate(x, y, estimator=estimator) < 0.03
    assert estimate(x, y, z, estimator=estimator) == pytest.approx(math.log(4 / 3) / 2, abs=tolerance)


def test_estimates_below_zero_are_returned_as_zero() -> None:
    for variables in zip(*normal(4, 20, 50, 1), strict=True):
        assert estimate(*variables[:2], estimator="gaussian") >= 0
        assert estimate(*variables[:3], estimator="gaussian") >= 0
