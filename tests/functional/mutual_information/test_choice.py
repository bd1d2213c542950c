"""What ``auto`` chooses, and why."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from ggmi_callbacks.functional.mutual_information import _auto, choose_estimator
from ggmi_callbacks.functional.mutual_information._ranks import break_ties, tied_columns
from tests.functional.mutual_information._pairs import estimate, gaussian_pair, normal, student_pair


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: gaussian_pair(2000, 2), "Gaussian copula explains"),
        (lambda: student_pair(2000, 2, 1.0), "Student-t (nu = "),
    ],
)
def test_auto_takes_the_copula_that_explains_the_samples(make, expected: str) -> None:
    x, y, truth = make()
    choice = choose_estimator(x.asinh(), y**3)
    assert choice.estimator == "copula"
    assert expected in choice.reason
    assert choice.estimates["copula"] == pytest.approx(truth, abs=4 * 0.8 * math.sqrt(2 / 2000))


def test_auto_takes_neighbours_where_no_copula_fits_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    x, noise = normal(2, 2000)
    y = x.cos() + 0.2 * noise
    with caplog.at_level(logging.INFO, logger="ggmi_callbacks"):
        value = estimate(x, y)
    choice = choose_estimator(x, y)
    assert choice.estimator == "ksg"
    assert "does not explain" in choice.reason
    assert value == pytest.approx(choice.estimates["ksg"], abs=1e-6)
    assert choice.reason in caplog.text


def test_auto_trains_a_critic_where_neighbours_fall_short() -> None:
    # Signs that match in product only: every pair of single columns is independent, and the truth is log 2.
    generator = torch.Generator().manual_seed(0)
    x, y, signs = (
        normal(1500, 2).abs(),
        normal(1500, 2, seed=1).abs(),
        torch.randint(0, 2, (1500, 3), generator=generator),
    )
    s = (2 * signs - 1).double()
    x = x * torch.stack((s[:, 0], s[:, 0] * s[:, 1]), 1)
    y = y * torch.stack((s[:, 2], s[:, 2] * s[:, 1]), 1)
    choice = choose_estimator(x, y, progress=False)
    assert set(choice.estimates) >= {"copula", "ksg", "infonce"}
    assert choice.estimates["copula"] < 0.1
    # log 2 less what lies near the axes, where noise of the estimate blurs the signs
    assert 0.5 * math.log(2) < choice.estimates[choice.estimator] < 1.1 * math.log(2)


def test_auto_reduces_more_dimensions_than_samples_bear_and_says_so() -> None:
    x, y, truth = gaussian_pair(300, 1, rho=0.9)
    wide_x, wide_y = x @ normal(1, 200, seed=1), y @ normal(1, 200, seed=2)
    choice = choose_estimator(wide_x + 0.01 * normal(300, 200, seed=3), wide_y + 0.01 * normal(300, 200, seed=4))
    assert "reduced to at most 25 principal components each, as n = 300 is small for 400 columns" in choice.reason
    # The spread of the estimate with 25 + 25 dimensions: sqrt(25 * 25) / 300 on top of 0.9 / sqrt(300)
    assert choice.estimates["copula"] == pytest.approx(truth, abs=4 * math.hypot(0.083, 0.052))


def test_auto_bears_columns_that_determine_each_other_and_few_samples() -> None:
    x = normal(200, 1)
    choice = choose_estimator(torch.cat((x, torch.ones_like(x)), 1), x.exp())
    assert choice.estimator == "ksg"
    assert "columns that determine each other" in choice.reason
    assert choice.estimates["ksg"] > 2  # a copy: the truth is infinite, and the most that neighbours say log(n / k)
    for n in (6, 9, 20):
        for d in (1, 2, 7):
            assert 0 <= estimate(normal(n, d), normal(n, d, seed=1)) < math.inf


def test_the_rule_is_documented_with_the_standard_errors_that_it_uses() -> None:
    assert _auto._SIGNIFICANT == 4
    assert "within four standard errors" in " ".join(choose_estimator.__doc__.split())
    assert "|Delta| < 4 s" in _auto.__doc__


@pytest.mark.parametrize("width", [0.03, 0.1, 0.3])
def test_auto_breaks_the_ties_of_rounded_data_and_says_so(width: float) -> None:
    x, y, truth = gaussian_pair(1000, rho=0.45)
    choice = choose_estimator((x / width).round() * width, (y / width).round() * width)
    assert choice.estimator == "copula"
    assert "ties in 2 columns broken by uniform noise, which keeps their information" in choice.reason
    assert choice.estimates["ksg"] == pytest.approx(truth, abs=4 * 0.45 / math.sqrt(1000))


def test_auto_sees_nothing_between_independent_counts() -> None:
    counts = torch.poisson(torch.full((2, 2000), 10.0), generator=torch.Generator().manual_seed(0))
    assert estimate(*counts) < 0.01


def test_auto_leaves_the_ties_of_discrete_data_to_the_neighbours() -> None:
    x = torch.randint(0, 4, (1000,), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(x).double()
    choice = choose_estimator(one_hot, one_hot)
    assert "noise" not in choice.reason
    assert choice.estimates["ksg"] == pytest.approx(math.log(4), abs=0.01)  # a copy: the entropy


def test_breaking_ties_keeps_the_information_of_a_column() -> None:
    x = torch.randint(0, 5, (500, 2), generator=torch.Generator().manual_seed(0)).double()
    noisy = break_ties(x, tied_columns(x), torch.Generator().manual_seed(1))
    assert (noisy[:, 0].sort().values.diff() > 0).all()
    assert torch.equal(x[noisy[:, 0].argsort(), 0], x[:, 0].sort().values)
    assert not tied_columns(normal(500, 2)).any()
