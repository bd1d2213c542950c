"""I(S; W) in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from ggmi_callbacks.functional import (
    gaussian_weight_information,
    linear_regression_information,
    noisy_mean_information,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixture_information_is_memorised_plus_generalised() -> None:
    exact = gaussian_weight_information(n=10_000, d=1, s2=1.0, t2=1.0)
    assert exact == pytest.approx((4.6052, 0.3465, 4.2587), abs=5e-5)
    for n, d, s2, t2 in ((3, 2, 0.5, 4.0), (1000, 7, 2.0, 0.1)):
        exact = gaussian_weight_information(n, d, s2, t2)
        assert exact.mixture == pytest.approx(exact.fixed + exact.generalised, rel=1e-12)
        assert exact.fixed <= d / 2 * math.log(2)


def test_gaussian_weight_information_follows_from_the_variances_of_w() -> None:
    n, d, s2, t2 = 12, 3, 0.7, 1.9
    a, v = n * t2 / (s2 + n * t2), s2 * t2 / (s2 + n * t2)
    given_mu = a**2 * s2 / n + v
    marginal = a**2 * (t2 + s2 / n) + v
    exact = gaussian_weight_information(n, d, s2, t2)
    assert exact.mixture == pytest.approx(d / 2 * math.log(marginal / v), rel=1e-12)
    assert exact.fixed == pytest.approx(d / 2 * math.log(given_mu / v), rel=1e-12)
    assert exact.generalised == pytest.approx(d / 2 * math.log(marginal / given_mu), rel=1e-12)


def test_linear_regression_information_is_the_log_determinant_either_way_round() -> None:
    for shape in ((5, 3), (3, 5)):
        x = torch.randn(*shape, generator=seeded(0), dtype=torch.float64)
        s2, t2 = 0.3, 2.0
        # from the covariances of the targets with and without w known
        target = s2 * torch.eye(shape[0], dtype=torch.float64) + t2 * x @ x.mT
        expected = (torch.logdet(target) - shape[0] * math.log(s2)) / 2
        assert linear_regression_information(x, s2, t2) == pytest.approx(expected.item(), rel=1e-12)


def test_regression_on_a_constant_learns_a_mean() -> None:
    ones = torch.ones(20, 1, dtype=torch.float64)
    exact = gaussian_weight_information(n=20, d=1, s2=0.5, t2=3.0).mixture
    assert linear_regression_information(ones, s2=0.5, t2=3.0) == pytest.approx(exact, rel=1e-12)


def test_noisy_mean_information_is_that_of_a_gaussian_channel() -> None:
    n, d, s2, q2 = 10, 4, 1.0, 0.01
    expected = d / 2 * math.log((s2 / n + q2) / q2)
    assert noisy_mean_information(n, d, s2, q2) == pytest.approx(expected, rel=1e-12)
