"""Copulas against closed forms, with any marginals."""

from __future__ import annotations

import pytest
import torch

from tests.functional.mutual_information._pairs import estimate, gaussian_pair, student_pair


@pytest.mark.parametrize(("d", "nu"), [(1, 1.0), (3, 2.0), (2, 5.0)])
def test_copula_information_of_a_student_t_matches_its_closed_form_with_any_marginals(d: int, nu: float) -> None:
    x, y, truth = student_pair(4000, d, nu)
    value = estimate(x, y, estimator="copula")
    # Four times the spread over seeds, 0.012: most of it is that of nu, which is known to some 4 %.
    assert value == pytest.approx(truth, abs=0.05)
    assert estimate(x.asinh(), y**3, estimator="copula") == pytest.approx(value, abs=1e-9)


def test_copula_information_is_unbiased_where_there_are_dozens_of_dimensions() -> None:
    x, y, truth = gaussian_pair(1500, 30, rho=0.2)
    # The plug-in estimate would be some 30 * 30 / (2 * 1500) = 0.3 too high; the spread is rho sqrt(d / n) = 0.03
    assert estimate(x.exp(), y, estimator="copula") == pytest.approx(truth, abs=4 * 0.03)


def test_ties_do_not_make_independent_columns_dependent() -> None:
    coins = torch.randint(0, 2, (4000, 2), generator=torch.Generator().manual_seed(0)).double()
    coins = coins[coins[:, 0].argsort(stable=True)]  # ranks by order of appearance would now be dependent
    assert estimate(coins[:, 0], coins[:, 1], estimator="copula") < 0.005
