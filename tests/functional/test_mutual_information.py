"""Mutual information against closed forms, slow references and scikit-learn, then its invariances."""

from __future__ import annotations

import logging
import math
import threading

import numpy as np
import pytest
import torch
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_regression
from torch import Tensor

from ggmi_callbacks.functional import Interval, _neighbours, conditional_mutual_information, mutual_information
from ggmi_callbacks.functional._copula import gaussian_information
from ggmi_callbacks.functional.matrix_entropy import gram_entropy, gram_matrix
from ggmi_callbacks.functional.mutual_information import CONDITIONAL_ESTIMATORS, ESTIMATORS, choose_estimator

QUICK = [name for name in ESTIMATORS if name != "infonce"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian_pair(n: int, d: int = 1, rho: float = 0.75, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    """d independent pairs of correlation rho, and their information."""
    x, noise = normal(2, n, d, seed=seed)
    return x, rho * x + math.sqrt(1 - rho**2) * noise, -d / 2 * math.log(1 - rho**2)


def student_pair(n: int, d: int, nu: float, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    """Uncorrelated multivariate Student-t variables of d dimensions each, and their information."""
    scale = np.sqrt(nu / np.random.default_rng(seed).chisquare(nu, (n, 1)))
    x, y = (normal(n, 2 * d, seed=seed) * torch.from_numpy(scale)).split(d, 1)

    def entropy(k: int) -> float:
        gap = (nu + k) / 2 * (digamma((nu + k) / 2) - digamma(nu / 2))
        return gap + math.lgamma(nu / 2) - math.lgamma((nu + k) / 2) + k / 2 * math.log(nu * math.pi)

    return x, y, 2 * entropy(d) - entropy(2 * d)


def estimate(*variables: Tensor, **kwargs: object) -> float:
    function = mutual_information if len(variables) == 2 else conditional_mutual_information
    return float(function(*variables, progress=False, **kwargs))


# -- Gaussian


def test_gaussian_information_is_unbiased_with_the_stated_interval() -> None:
    repeats, n, d = 400, 40, 3
    x, y, truth = gaussian_pair(repeats * n, d, rho=0.5)
    data = torch.cat((x, y), 1).view(repeats, n, 2 * d)
    values = torch.stack([gaussian_information(rows, (d, d, 0), False).value for rows in data])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(repeats)


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


def test_gaussian_information_ignores_linear_maps_of_each_variable() -> None:
    x, y, _ = gaussian_pair(100, 3)
    maps = normal(2, 3, 3, seed=1)
    value = estimate(x, y, estimator="gaussian")
    assert estimate(x @ maps[0] + 5, y @ maps[1] - 3, estimator="gaussian") == pytest.approx(value, abs=1e-9)


def test_collinear_columns_are_refused_where_they_matter() -> None:
    x = normal(50, 1)
    for estimator in ("gaussian", "copula"):
        with pytest.raises(ValueError, match="covariance of full rank"):
            estimate(torch.cat((x, 2 * x), 1), normal(50, 1, seed=1), estimator=estimator)


# -- Copulas


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


# -- Nearest neighbours


def slow_ksg(spaces: list[Tensor], k: int) -> float:
    """Kraskov's first algorithm and Frenzel and Pompe's, as in the papers, one sample at a time."""
    spaces = [(v - v.mean(0)) / v.std(0, correction=0) for v in spaces]
    distances = torch.stack([torch.cdist(v, v, compute_mode="donot_use_mm_for_euclid_dist") for v in spaces])
    n, total = distances.shape[1], 0.0
    for i in range(n):
        radius = distances[:, i].amax(0).sort().values[k]
        x, y, *z = distances[:, i] < radius
        inside = z[0] if z else torch.ones(n, dtype=torch.bool)
        n_x, n_y, n_z = int((x & inside).sum()), int((y & inside).sum()), int(inside.sum())
        total += digamma(k) + digamma(n_z) - digamma(n_x) - digamma(n_y)
    return total / n


@pytest.mark.parametrize("n", [40, 150, 700])  # below and above the number of rows of one block
def test_ksg_equals_its_literal_reference(n: int) -> None:
    x, y, _ = gaussian_pair(n, 2)
    z = x + normal(n, 2, seed=1)
    assert estimate(x, y, estimator="ksg", k=4) == pytest.approx(slow_ksg([x, y], 4), abs=1e-9)
    assert estimate(x, y, z, estimator="ksg", k=4) == pytest.approx(max(0, slow_ksg([x, y, z], 4)), abs=1e-9)


def test_ksg_of_many_dimensions_equals_its_reference_whatever_precision_it_takes() -> None:
    x, y, _ = gaussian_pair(200, 12)
    # Single precision may put a neighbour on the other side of an edge: one of some hundred counts, in few samples.
    assert estimate(x, y, estimator="ksg") == pytest.approx(max(0, slow_ksg([x, y], 5)), abs=1e-4)
    # Two tight clusters: single precision does not tell the distances inside them apart.
    side = torch.arange(200).double()[:, None] % 2
    x, y = side + 1e-4 * x, side + 1e-4 * (y + x)
    assert estimate(x, y, estimator="ksg") == pytest.approx(slow_ksg([x, y], 5), abs=1e-6)


def test_ksg_does_not_depend_on_threads_and_leaves_their_number_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_neighbours, "_CPU_BLOCK", 2**14)  # so that there are many pieces
    x, y, _ = gaussian_pair(700, 3)
    x[:200] = x[0]  # some of them again in double precision
    before = torch.get_num_threads()
    values, seen = [], []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                values.append(_neighbours.neighbour_counts([x * 1, y * 1], [(0,)], 5)[1])
            asked = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            asked.start()
            asked.join()
            assert seen[-1] == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*values)


def test_ksg_notices_products_that_are_coarser_than_their_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = gaussian_pair(300, 4)
    exact, product = slow_ksg([x, y], 5), torch.mm

    def like_tf32(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
        return (
            product(a.bfloat16().to(a), b.bfloat16().to(b), out=out)
            if a.dtype == torch.float32
            else product(a, b, out=out)
        )

    monkeypatch.setattr(torch, "mm", like_tf32)
    assert estimate(x, y, estimator="ksg") == pytest.approx(exact, abs=1e-9)


def test_ksg_does_a_thin_sheet_among_well_spread_samples_again() -> None:
    # Half of the samples lie so close together that single precision takes them for one point.
    x, y, _ = gaussian_pair(400, 3)
    x[::2], y[::2] = 1 + 1e-5 * x[::2], 1 + 1e-5 * y[::2]
    assert estimate(x, y, estimator="ksg") == pytest.approx(slow_ksg([x, y], 5), abs=1e-4)
    x, y = x[:, :1], y[:, :1]
    assert estimate(x, y, estimator="ksg") == pytest.approx(slow_ksg([x, y], 5), abs=1e-4)


def test_ksg_equals_that_of_scikit_learn_in_one_dimension() -> None:
    x, y, _ = gaussian_pair(3000)
    y = (y + x**2).exp()
    theirs = mutual_info_regression(x.numpy(), y[:, 0].numpy(), n_neighbors=5, random_state=0)[0]
    assert estimate(x, y, estimator="ksg") == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(("d", "bias"), [(1, 0.0), (2, 0.03), (4, 0.25)])
def test_ksg_of_a_gaussian_matches_its_closed_form(d: int, bias: float) -> None:
    x, y, truth = gaussian_pair(4000, d)
    error = estimate(x, y, estimator="ksg") - truth
    noise = 4 * 0.75 * math.sqrt(d / 4000)  # pointwise information has standard deviation rho sqrt(d)
    assert -bias - noise < error < noise


def test_ksg_sees_what_correlations_miss() -> None:
    x, noise = normal(2, 4000)
    y = x**2 + 0.5 * noise
    assert estimate(x, y, estimator="gaussian") < 0.02
    # I = h(y) - h(0.5 noise), by quadrature over the density of y
    grid = torch.linspace(-5, 25, 3001, dtype=torch.float64)
    points = torch.linspace(-6, 6, 2001, dtype=torch.float64)
    weight = torch.exp(-(points**2) / 2) * 12 / 2000 / math.sqrt(2 * math.pi)
    density = torch.exp(-((grid[:, None] - points**2) ** 2) / 0.5) @ weight / (0.5 * math.sqrt(2 * math.pi))
    h_y = -float(torch.trapezoid(torch.special.xlogy(density, density), grid))
    truth = h_y - 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert estimate(x, y, estimator="ksg") == pytest.approx(truth, abs=4 * 1.0 / math.sqrt(4000))


def test_ksg_of_discrete_variables_tends_to_the_plug_in_estimate() -> None:
    table = torch.tensor([[0.4, 0.1, 0.0], [0.1, 0.1, 0.3]], dtype=torch.float64)
    cells = torch.multinomial(table.reshape(-1), 3000, True, generator=torch.Generator().manual_seed(0))
    x, y = (cells // 3).double(), (cells % 3).double()
    counts = torch.bincount(cells, minlength=6).reshape(2, 3) / 3000
    plug_in = float(torch.special.xlogy(counts, counts / (counts.sum(0) * counts.sum(1, keepdim=True))).sum())
    # psi(m) = log m - 1 / 2m: cells of some hundred samples differ by less than 1 / 100
    assert estimate(x, y, estimator="ksg") == pytest.approx(plug_in, abs=0.005)


def test_canonical_ksg_finds_a_few_directions_among_many() -> None:
    x, y, truth = gaussian_pair(3000, 2, rho=0.8)
    x, y = torch.cat((x, normal(3000, 18, seed=1)), 1), torch.cat((y, normal(3000, 18, seed=2)), 1)
    mixing = torch.linalg.qr(normal(20, 20, seed=3)).Q
    # Noise 4 * 0.8 sqrt(2 / 3000); fitted directions add 2 * (20 + 20) / (2 * 3000) = 0.013
    assert estimate(x @ mixing, y, estimator="canonical_ksg") == pytest.approx(truth, abs=0.1)
    assert estimate(x @ mixing, y, estimator="ksg") < truth - 0.5


# -- Critics


def test_infonce_of_a_gaussian_comes_within_its_noise() -> None:
    x, y, truth = gaussian_pair(1500, 2, rho=0.7)
    value, low, high = mutual_information(x.exp(), y, estimator="infonce", progress=False, confidence=0.95)
    assert low < truth < high
    assert float(value) == pytest.approx(truth, abs=4 * 0.7 * math.sqrt(2 / 1500))
    assert float(mutual_information(x.exp(), y, estimator="infonce", progress=False)) == float(value)


def test_infonce_leaves_the_random_state_alone_and_trains_in_inference_mode(capfd: pytest.CaptureFixture) -> None:
    x, y, truth = gaussian_pair(400, rho=0.9)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with torch.inference_mode():
        value = float(mutual_information(x * 1, y * 1, estimator="infonce"))
    assert torch.equal(state, torch.get_rng_state())
    assert "infonce" in capfd.readouterr().err  # the progress bar
    # The bound is below the truth by what 320 pairs leave unlearned: some three parameters, 3 / (2 * 256).
    assert value == pytest.approx(truth, abs=4 * 0.9 / math.sqrt(400) + 0.02)
    estimate(x, y, estimator="infonce")
    assert "infonce" not in capfd.readouterr().err


def test_infonce_of_independent_variables_is_zero_however_many_dimensions_tempt_the_critic() -> None:
    # On the samples that it was fitted to, the first of 20 canonical pairs alone would show some 0.1 nats.
    assert estimate(normal(300, 20), normal(300, 20, seed=1), estimator="infonce") < 0.03


# -- The choice


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: gaussian_pair(2000, 2), "Gaussian copula explains"),
        (lambda: student_pair(2000, 2, 1.0), "Student-t (nu = "),
    ],
)
def test_auto_takes_the_copula_that_explains_the_samples(make, expected: str) -> None:  # type: ignore[no-untyped-def]
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


# -- Conditional


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


def test_the_chain_rule_holds_exactly_for_gaussians() -> None:
    # In one dimension each, every block has the same bias correction on both sides.
    x, y, z = normal(3, 60, 1)
    y, z = y + x, z + x
    joint = estimate(x, torch.cat((y, z), 1), estimator="gaussian")
    expected = estimate(x, z, estimator="gaussian") + estimate(x, y, z, estimator="gaussian")
    assert joint == pytest.approx(expected, abs=1e-9)


def test_matrix_information_is_the_difference_of_entropies_of_products_of_kernels() -> None:
    x, y, z = normal(3, 40, 2)
    x, y = x + z, y + z
    k_x, k_y, k_z = (gram_matrix(v) for v in (x, y, z))
    s_xz, s_yz, s_z, s_xyz, s_x, s_y, s_xy = (
        float(gram_entropy(k).value) for k in (k_x * k_z, k_y * k_z, k_z, k_x * k_y * k_z, k_x, k_y, k_x * k_y)
    )
    assert estimate(x, y, estimator="matrix") == pytest.approx(s_x + s_y - s_xy, abs=1e-9)
    assert estimate(x, y, z, estimator="matrix") == pytest.approx(s_xz + s_yz - s_z - s_xyz, abs=1e-9)


def test_estimates_below_zero_are_returned_as_zero() -> None:
    for variables in zip(*normal(4, 20, 50, 1), strict=True):
        assert estimate(*variables[:2], estimator="gaussian") >= 0
        assert estimate(*variables[:3], estimator="gaussian") >= 0


# -- All of them


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


def test_matrix_information_of_a_copy_exceeds_that_of_shuffled_pairs() -> None:
    x = normal(100, 3)
    copy, shuffled = estimate(x, x, estimator="matrix"), estimate(x, x.flip(0), estimator="matrix")
    assert 0 < shuffled < copy < math.log(100)


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
