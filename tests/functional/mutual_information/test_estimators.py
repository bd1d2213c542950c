"""What all estimators of mutual information have in common."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks.functional import Interval, conditional_mutual_information, mutual_information
from ggmi_callbacks.functional.mutual_information import CONDITIONAL_ESTIMATORS, ESTIMATORS
from tests.functional.mutual_information._pairs import estimate, gaussian_pair, normal

pytestmark = pytest.mark.filterwarnings("ignore:estimator=.matrix. gives the matrix-based information")

QUICK = [name for name in ESTIMATORS if name != "infonce"]


@pytest.mark.parametrize("estimator", ["gaussian", "copula", "ksg"])
def test_intervals_cover_the_truth_as_often_as_they_say(estimator: str) -> None:
    hits = 0
    for seed in range(200):
        x, y, truth = gaussian_pair(300, rho=0.6, seed=seed)
        _, low, high = mutual_information(x, y, estimator=estimator, confidence=0.9)
        hits += bool(low < truth < high)
    # Four standard errors of a share, and nothing for the bias: there is next to none in one dimension.
    assert hits / 200 == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 200))


@pytest.mark.parametrize("estimator", ["gaussian", "copula", "ksg"])
def test_intervals_at_independence_hold_zero_and_have_a_width(estimator: str) -> None:
    for x in normal(60, 200, 4):
        value, low, high = mutual_information(x[:, :2], x[:, 2:], estimator=estimator, confidence=0.99)
        assert low == 0
        assert high > max(0, value)


def test_collinear_columns_are_refused_where_they_matter() -> None:
    x = normal(50, 1)
    for estimator in ("gaussian", "copula"):
        with pytest.raises(ValueError, match="covariance of full rank"):
            estimate(torch.cat((x, 2 * x), 1), normal(50, 1, seed=1), estimator=estimator)


@pytest.mark.parametrize("estimator", QUICK)
def test_information_is_symmetric_and_ignores_order_and_scale(estimator: str) -> None:
    x, y, _ = gaussian_pair(200, 2)
    if estimator != "canonical_ksg":  # its number of pairs would be a matter of chance
        y = y + x.square()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    value = estimate(x, y, estimator=estimator)
    # What is random in auto and in canonical_ksg falls on other rows after a permutation or a swap.
    tolerance = 0.1 if estimator in ("auto", "canonical_ksg") else 1e-6
    assert estimate(y, x, estimator=estimator) == pytest.approx(value, abs=tolerance)
    assert estimate(x[order], y[order], estimator=estimator) == pytest.approx(value, abs=tolerance)
    assert estimate(1000 * x, y / 7 + 3, estimator=estimator) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("estimator", [name for name in QUICK if name != "matrix"])
def test_information_of_shuffled_pairs_is_zero(estimator: str) -> None:
    x, y, _ = gaussian_pair(2000, 2)
    y = y[torch.randperm(2000, generator=torch.Generator().manual_seed(0))]
    assert estimate(x, y, estimator=estimator) < 4 * 2 / 2000 + (0.05 if "ksg" in estimator else 0.0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_bfloat16_input_is_computed_in_full_precision(estimator: str) -> None:
    x, y, _ = (gaussian_pair(100, 2)[0].bfloat16(), gaussian_pair(100, 2)[1].bfloat16(), 0)
    value = mutual_information(x, y, estimator=estimator, progress=False)
    assert value.dtype == torch.float32
    assert value.ndim == 0
    assert float(value) == pytest.approx(estimate(x.double(), y.double(), estimator=estimator), rel=1e-6)


@pytest.mark.parametrize("estimator", ["gaussian", "matrix"])
def test_gradients_agree_with_finite_differences(estimator: str) -> None:
    x, y, _ = gaussian_pair(12, 2)
    z = x + normal(12, 2, seed=1)

    def plain(x: Tensor, y: Tensor) -> Tensor:
        return mutual_information(x, y, estimator=estimator)

    def conditional(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return conditional_mutual_information(x, y, z, estimator=estimator)

    assert plain(x, y) > 0
    assert conditional(x, y, z) > 0  # not clipped, or the gradient would vanish
    assert torch.autograd.gradcheck(plain, (x.requires_grad_(), y.requires_grad_()))
    assert torch.autograd.gradcheck(conditional, (x, y, z.requires_grad_()))


@pytest.mark.parametrize("estimator", CONDITIONAL_ESTIMATORS)
def test_confidence_gives_a_named_interval_around_the_value(estimator: str) -> None:
    x, y, _ = gaussian_pair(100, 2)
    for variables in ((x, y), (x, y, normal(100, 1, seed=1))):
        function = mutual_information if len(variables) == 2 else conditional_mutual_information
        interval = function(*variables, estimator=estimator, progress=False, confidence=0.95)
        assert isinstance(interval, Interval)
        assert interval.low <= interval.value <= interval.high
        assert interval.low < interval.high
        assert float(interval.value) == pytest.approx(estimate(*variables, estimator=estimator), abs=1e-7)


def test_errors_name_argument_and_cure() -> None:
    x, y, _ = gaussian_pair(20)
    with pytest.raises(ValueError, match=r"`estimator` to be one of .* but got 'mine'"):
        mutual_information(x, y, estimator="mine")
    with pytest.raises(ValueError, match=r"`estimator` to be one of .* but got 'canonical_ksg'"):
        conditional_mutual_information(x, y, x, estimator="canonical_ksg")
    with pytest.raises(ValueError, match=r"`x` and `y` to have one row per sample each but got \[20, 19\]"):
        mutual_information(x, y[:-1])
    with pytest.raises(ValueError, match=r"`k` to be in \[1, n\) but got k = 20 for n = 20"):
        mutual_information(x, y, estimator="ksg", k=20)
    with pytest.raises(ValueError, match='at least 50 samples for `estimator="infonce"` but got 20'):
        mutual_information(x, y, estimator="infonce")
    with pytest.raises(ValueError, match="`confidence`"):
        mutual_information(x, y, confidence=2.0)
