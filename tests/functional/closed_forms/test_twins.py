"""What twins tell, in closed form."""

from __future__ import annotations

import pytest
import torch

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
