"""Quantiles of Student's t against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import stdtrit

from ggmi_callbacks.functional._student_t import student_t_quantile


@pytest.mark.parametrize("nu", [1.0, 1.3, 2.0, 4.7, 30.0, 300.0, 1000.0, 1001.0, 1e5, 1e12])
def test_quantiles_equal_those_of_scipy(nu: float) -> None:
    for levels, rtol in (([1e-4, 0.025, 0.4, 0.6, 0.975, 0.9995, 1 - 1e-4], 1e-9), ([1e-6, 1 - 1e-6], 1e-7)):
        expected = stdtrit(nu, np.array(levels))
        found = student_t_quantile(torch.tensor(levels, dtype=torch.float64), nu)
        np.testing.assert_allclose(found.numpy(), expected, rtol=rtol)


def test_a_quantile_does_not_depend_on_what_else_is_asked_for() -> None:
    levels = torch.linspace(0.0001, 0.9999, 101, dtype=torch.float64)
    together = student_t_quantile(levels, 3.5)
    alone = torch.stack([student_t_quantile(level, 3.5) for level in levels])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together, -together.flip(0), rtol=1e-9, atol=1e-12)
    assert together[50] == 0
