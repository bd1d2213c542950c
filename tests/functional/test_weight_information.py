"""I(S; W): closed forms, the prequential identity, twins against their quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks.functional import (
    error_rate_information,
    gaussian_weight_information,
    loss_difference_information,
    noisy_mean_twin_information,
    pointwise_weight_information,
    weight_information,
)
from tests.functional._models import gaussian_mean_runs, noisy_mean_twins


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- mixture


def test_first_visit_lengths_add_up_to_the_marginal_code_length() -> None:
    n, d, s2, t2 = 6, 2, 0.5, 2.0
    runs = gaussian_mean_runs(3, n, d, s2, t2, seed=0)
    covariance = s2 * torch.eye(n, dtype=torch.float64) + t2
    law = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=torch.float64), covariance)
    marginal = -law.log_prob(runs.samples.mT).sum(-1)  # dimensions are independent
    assert torch.allclose(runs.first.sum(-1), marginal, rtol=1e-10)


@pytest.mark.parametrize(("n", "d", "s2", "t2"), [(1, 1, 1.0, 1.0), (50, 3, 0.5, 2.0), (400, 1, 1.0, 1.0)])
def test_code_lengths_under_a_posterior_draw_give_i_mix(n: int, d: int, s2: float, t2: float) -> None:
    runs = gaussian_mean_runs(4000, n, d, s2, t2, seed=1)
    estimate = weight_information(runs.first.flatten(), runs.final.flatten(), total=n)
    error = (runs.first - runs.final).sum(-1).std().item() / math.sqrt(4000)
    exact = gaussian_weight_information(n, d, s2, t2).mixture
    assert abs(float(estimate) - exact) < 4 * error
    assert error < 0.06 * exact + 0.01  # so the test above can fail


def test_the_posterior_mean_overestimates_i_mix_by_half_a_per_dimension() -> None:
    n, d, s2, t2 = 20, 3, 1.0, 0.5
    runs = gaussian_mean_runs(4000, n, d, s2, t2, seed=2)
    excess = (runs.final - runs.final_posterior_mean).sum(-1)
    a = n * t2 / (s2 + n * t2)
    assert abs(excess.mean().item() - d * a / 2) < 4 * excess.std().item() / math.sqrt(4000)


def test_a_mixture_interval_covers_i_mix() -> None:
    n = 100
    runs = gaussian_mean_runs(400, n, 1, 1.0, 1.0, seed=3)
    exact = gaussian_weight_information(n, 1, 1.0, 1.0).mixture
    intervals = [weight_information(*pair, confidence=0.9) for pair in zip(runs.first, runs.final, strict=True)]
    covered = sum(bool(low < exact < high) for _, low, high in intervals) / 400
    assert covered > 0.84  # 0.9 less four standard errors of .015; successive samples anticorrelate, so it is wider


def test_total_scales_a_random_subsample_to_the_whole_set() -> None:
    first, final = torch.rand(2, 10, generator=seeded(4))
    whole = weight_information(first, final)
    assert weight_information(first, final, total=1000) == pytest.approx(float(whole) * 100, rel=1e-6)
    assert weight_information(first, final, total=1) == pytest.approx((first - final).mean().item(), rel=1e-5)


def test_gradients_of_the_mixture_are_exact() -> None:
    first, final = torch.rand(2, 5, generator=seeded(5), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: weight_information(a, b, confidence=0.9), (first, final))


# -- loss difference


def zero_one(n: int, train_error: float, test_error: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    held_in = torch.rand(n, generator=generator) < train_error
    held_out = torch.rand(n, generator=generator) < test_error
    return held_in.double(), held_out.double()


@pytest.mark.parametrize(("a", "b"), [(0.1, 0.4), (0.3, 0.3), (0.0, 0.5), (0.02, 0.2)])
def test_loss_difference_of_zero_one_losses_is_unbiased(a: float, b: float) -> None:
    generator = seeded(6)
    draws = torch.stack([loss_difference_information(*zero_one(200, a, b, generator)) for _ in range(600)])
    error = draws.std().item() / math.sqrt(600)
    # Grassberger's correction leaves a bias of some 1e-4 at 20 informative pairs and up.
    assert abs(draws.mean().item() - error_rate_information(a, b)) < 4 * error + 2e-4


def test_the_plug_in_would_fail_that_test() -> None:
    generator = seeded(6)
    excess = []
    for _ in range(600):
        held_in, held_out = zero_one(200, 0.3, 0.3, generator)
        p, q = (held_out > held_in).double().mean(), (held_out < held_in).double().mean()
        excess.append(sum(float(torch.special.xlogy(k, 2 * k / (p + q))) for k in (p, q)))
    draws = torch.tensor(excess)
    assert draws.mean() > 0.0025 > 4 * draws.std() / math.sqrt(600) + 2e-4  # one degree of freedom: 1 / (2 n)


@pytest.mark.parametrize(("n", "q2"), [(10, 0.01), (2, 0.001), (1, 0.01)])
def test_loss_difference_matches_the_quadrature_of_noisy_means_from_below(n: int, q2: float) -> None:
    held_in, held_out = noisy_mean_twins(200_000, n, 1.0, q2, seed=7)
    value, low, high = loss_difference_information(held_in, held_out, confidence=0.95)
    exact = noisy_mean_twin_information(n, 1.0, q2)
    error = float(high - low) / (2 * 1.96)
    assert float(value) - exact < 4 * error
    assert float(value) > 0.97 * exact - 4 * error  # what binning |D| into some 60 bins loses


def test_twins_without_a_difference_in_law_carry_nothing() -> None:
    generator = seeded(8)
    losses = torch.rand(400, 2, 100, generator=generator)
    intervals = [loss_difference_information(*pair, confidence=0.9) for pair in losses]
    values = torch.stack([interval.value for interval in intervals])  # type: ignore[attr-defined]
    assert abs(values.mean().item()) < 4 * values.std().item() / 20
    assert sum(bool(low <= 0 <= high) for _, low, high in intervals) / 400 > 0.84


def test_loss_difference_is_at_most_log_two_and_reaches_it() -> None:
    held_in = torch.rand(40, generator=seeded(9), dtype=torch.float64)
    assert loss_difference_information(held_in, held_in + 1) == pytest.approx(math.log(2), rel=1e-12)
    assert loss_difference_information(held_in, held_in) == 0


def test_a_few_pairs_that_all_agree_claim_no_certainty() -> None:
    held_in = torch.rand(5, generator=seeded(9), dtype=torch.float64)
    _, low, high = loss_difference_information(held_in, held_in + 1, confidence=0.95)
    assert high - low > 0.5  # five fair coins agree once in sixteen times
    held_in = held_in.repeat(100)
    _, low, high = loss_difference_information(held_in, held_in + 1, confidence=0.95)
    assert high - low < 0.1


@pytest.mark.parametrize("n", [8, 12, 16, 20, 32])
def test_a_loss_difference_interval_covers_the_information_of_few_pairs(n: int) -> None:
    agreeing = torch.arange(n + 1)
    differences = torch.where(torch.arange(n) < agreeing[:, None], 1.0, -1.0).double()  # one bin: sizes are alike
    ends = [loss_difference_information(torch.zeros(n).double(), d, confidence=0.95) for d in differences]
    low, high = (torch.stack([interval[i] for interval in map(tuple, ends)]) for i in (1, 2))
    share = torch.arange(0.5, 0.98, 0.01, dtype=torch.float64)[:, None]
    exact = math.log(2) + torch.special.xlogy(share, share) + torch.special.xlogy(1 - share, 1 - share)
    chance = torch.distributions.Binomial(n, share).log_prob(agreeing.double()).exp()  # every outcome, no draws
    covered = (chance * ((low <= exact) & (exact <= high))).sum(-1)
    assert covered.min() > 0.75
    assert covered.mean() > 0.93


def test_pairs_of_which_half_agree_claim_no_certainty() -> None:
    difference = torch.tensor([1.0, -1.0]).repeat(10)
    value, low, high = loss_difference_information(torch.zeros(20), difference, confidence=0.95)
    assert low < 0 < high
    assert high - value > 1 / 20  # in all at least one nat: half a chi-square with one degree of freedom


def test_loss_difference_depends_on_neither_order_nor_on_which_twin_is_which() -> None:
    held_in, held_out = noisy_mean_twins(500, 3, 1.0, 0.01, seed=10)
    value = loss_difference_information(held_in, held_out)
    order = torch.randperm(500, generator=seeded(11))
    assert loss_difference_information(held_in[order], held_out[order]) == value
    assert loss_difference_information(held_out, held_in) == pytest.approx(value.item(), rel=1e-12)
    assert weight_information(held_out, held_in, estimator="loss_difference") == pytest.approx(500 * value.item())


def test_a_nan_loss_shows_in_the_result() -> None:
    held_in, held_out = torch.rand(2, 30, generator=seeded(12))
    held_in[3] = torch.nan
    assert loss_difference_information(held_in, held_out).isnan()


# -- both


@pytest.mark.parametrize("estimator", ["mixture", "loss_difference"])
def test_pointwise_shares_add_up_to_the_whole(estimator: str) -> None:
    held_in, held_out = noisy_mean_twins(300, 3, 1.0, 0.01, seed=13)
    share = pointwise_weight_information(held_out, held_in, estimator=estimator)
    assert share.shape == (300,)
    whole = weight_information(held_out, held_in, estimator=estimator)
    assert share.sum().item() == pytest.approx(whole.item(), rel=1e-10)


@pytest.mark.parametrize("estimator", ["mixture", "loss_difference"])
def test_dtype_follows_the_input_and_half_precision_is_computed_in_full(estimator: str) -> None:
    first, final = torch.rand(2, 4000, generator=seeded(14)).bfloat16() + 100
    exact = weight_information(first.double(), final.double(), estimator=estimator)
    value = weight_information(first, final, estimator=estimator)
    assert (value.dtype, exact.dtype) == (torch.float32, torch.float64)
    assert float(value) == pytest.approx(float(exact), rel=1e-6)


def test_errors_name_argument_shape_and_cure() -> None:
    x = torch.ones(3)
    with pytest.raises(ValueError, match=r"`first_nll` .* shape \[n\] .* got \[3, 2\]; sum token values"):
        weight_information(torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"`held_in` and `held_out` to have the same shape but got \[\[3\], \[2\]\]"):
        loss_difference_information(x, torch.ones(2))
    with pytest.raises(ValueError, match=r"`estimator` to be one of .* but got 'exact'"):
        weight_information(x, x, estimator="exact")
    with pytest.raises(ValueError, match="`total` to be positive but got 0"):
        weight_information(x, x, total=0)
    with pytest.raises(ValueError, match="`s2` to be positive"):
        gaussian_weight_information(n=1, d=1, s2=0.0, t2=1.0)
