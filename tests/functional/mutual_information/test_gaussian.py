"""Gaussian information against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from ggmi_callbacks.functional.mutual_information._gaussian import gaussian_information
from tests.functional.mutual_information._pairs import estimate, gaussian_pair, normal


def test_gaussian_information_is_unbiased_with_the_stated_interval() -> None:
    repeats, n, d = 400, 40, 3
    x, y, truth = gaussian_pair(repeats * n, d, rho=0.5)
    data = torch.cat((x, y), 1).view(repeats, n, 2 * d)
    values = torch.stack([gaussian_information(rows, (d, d, 0), False).value for rows in data])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(repeats)


def test_gaussian_information_ignores_linear_maps_of_each_variable() -> None:
    x, y, _ = gaussian_pair(100, 3)
    maps = normal(2, 3, 3, seed=1)
    value = estimate(x, y, estimator="gaussian")
    assert estimate(x @ maps[0] + 5, y @ maps[1] - 3, estimator="gaussian") == pytest.approx(value, abs=1e-9)


def test_the_chain_rule_holds_exactly_for_gaussians() -> None:
    # In one dimension each, every block has the same bias correction on both sides.
    x, y, z = normal(3, 60, 1)
    y, z = y + x, z + x
    joint = estimate(x, torch.cat((y, z), 1), estimator="gaussian")
    expected = estimate(x, z, estimator="gaussian") + estimate(x, y, z, estimator="gaussian")
    assert joint == pytest.approx(expected, abs=1e-9)
