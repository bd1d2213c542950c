"""GGMI in closed form, and its sign."""

from __future__ import annotations

import math

import pytest
import torch

from ggmi_callbacks.functional import (
    gaussian_ggmi,
    noisy_mean_information,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_closed_form_is_the_difference_of_two_noisy_means() -> None:
    sizes = {"n_a": 20, "n_g": 500, "s2": 1.0, "g2": 3.0, "q2": 0.01, "d": 4}
    expected = noisy_mean_information(20, 4, 1.0, 0.01) - noisy_mean_information(500, 4, 3.0, 0.01)
    assert gaussian_ggmi(c=0.0, **sizes) == pytest.approx(expected, rel=1e-12)
    assert gaussian_ggmi(c=0.7, **sizes, conditioning="generator") == pytest.approx(expected, rel=1e-12)


def test_closed_form_follows_from_the_variance_of_the_synthetic_mean() -> None:
    c, n_a, n_g, s2, g2, q2 = 0.6, 5, 8, 1.0, 2.0, 0.05
    generator = seeded(0)
    abar = torch.randn(200_000, generator=generator) * math.sqrt(s2 / n_a)
    noise = torch.randn(200_000, generator=generator) * math.sqrt(g2 / n_g)
    stored = 0.5 * math.log1p((c * abar + (1 - c) * 3.0 + noise).var().item() / q2)
    exact = gaussian_ggmi(c=c, n_a=n_a, n_g=n_g, s2=s2, g2=g2, q2=q2)
    # a variance of 2e5 samples is right to sqrt(2 / 2e5) = .3 %, and so is twice the information
    assert noisy_mean_information(n_a, 1, s2, q2) - stored == pytest.approx(exact, abs=4 * 0.0032 / 2)


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("n_g", "g2"), [(10, 0.1), (10, 1.0), (100, 1.0), (3, 2.0)])
def test_ggmi_is_positive_exactly_under_its_sign_condition(c: float, n_g: int, g2: float) -> None:
    n_a, s2, q2 = 10, 1.0, 0.01
    value = gaussian_ggmi(c=c, n_a=n_a, n_g=n_g, s2=s2, g2=g2, q2=q2)
    assert (value > 1e-12) is (c**2 * s2 / n_a + g2 / n_g < s2 / n_a - 1e-12)
    given = gaussian_ggmi(c=c, n_a=n_a, n_g=n_g, s2=s2, g2=g2, q2=q2, conditioning="generator")
    assert (given > 1e-12) is (g2 / n_g < s2 / n_a - 1e-12)


def test_pure_recycling_loses_a_little_unless_the_generator_is_given() -> None:
    recycling = {"c": 1.0, "n_a": 10, "n_g": 1000, "s2": 1.0, "g2": 1.0, "q2": 0.01}
    assert -0.01 < gaussian_ggmi(**recycling) < 0
    assert gaussian_ggmi(**recycling, conditioning="generator") > 1
