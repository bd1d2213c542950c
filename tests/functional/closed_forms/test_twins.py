"""What twins tell, in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.special import entr, k0e

from ggmi_callbacks.functional import (
    error_rate_information,
    noisy_mean_information,
    noisy_mean_twin_information,
)


@pytest.mark.parametrize(("a", "b"), [(0.1, 0.4), (0.0, 1.0), (0.3, 0.3), (1.0, 0.0), (0.0, 0.0)])
def test_error_rate_information_is_the_mutual_information_of_its_table(a: float, b: float) -> None:
    p, q = b * (1 - a), a * (1 - b)
    joint = torch.tensor([[p, q], [q, p], [1 - p - q, 1 - p - q]], dtype=torch.float64) / 2  # (D, U)
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    expected = torch.special.xlogy(joint, joint / independent.clamp_min(1e-300)).sum()
    assert error_rate_information(a, b) == pytest.approx(expected.item(), abs=1e-12)


def test_twins_of_a_noisy_mean_hold_little_of_its_information() -> None:
    n, s2, q2 = 10, 1.0, 0.01
    per_pair = noisy_mean_twin_information(n, s2, q2)
    assert n * per_pair == pytest.approx(0.05, abs=0.005)
    assert n * per_pair < noisy_mean_information(n, 1, s2, q2) == pytest.approx(1.20, abs=0.005)


@pytest.mark.parametrize(("n", "s2", "q2"), [(1, 1.0, 1e-5), (10, 1.0, 0.01), (1000, 3.0, 0.1), (5, 0.001, 10.0)])
def test_the_quadrature_of_twins_equals_that_of_scipy(n: int, s2: float, q2: float) -> None:
    # D = (out - in)(out + in) / 2, half the product of two Gaussians of variances v and w and correlation r.
    v, w, covariance = 2 * s2, 2 * s2 + 4 * q2, 2 * s2 / n
    scale, r = math.sqrt(v * w) / 2, covariance / math.sqrt(v * w)
    sharp, slope = 1 / (scale * (1 - r**2)), r / (scale * (1 - r**2))

    def integrand(d: float) -> float:
        bessel = k0e(sharp * d) / (math.pi * scale * math.sqrt(1 - r**2))
        here, there = (bessel * math.exp((sign * slope - sharp) * d) for sign in (1, -1))
        share = here / (here + there)
        return (here + there) * (math.log(2) - entr(share) - entr(1 - share))

    expected = quad(integrand, 0, 40 / (sharp - slope), limit=500, epsrel=1e-11)[0]
    assert noisy_mean_twin_information(n, s2, q2) == pytest.approx(expected, rel=1e-6)
