"""Entropies against closed forms, then their invariances and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from ggmi_callbacks.functional import Interval, code_length, gaussian_entropy, knn_entropy

LOG_2PIE = math.log(2 * math.pi * math.e)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# -- Gaussian


@pytest.mark.parametrize(("n", "d"), [(8, 4), (6, 1), (100, 20)])
def test_gaussian_entropy_is_unbiased_with_the_stated_spread_however_few_the_samples(n: int, d: int) -> None:
    mixing = normal(d, d, seed=1)
    truth = d / 2 * LOG_2PIE + float(torch.linalg.slogdet(mixing).logabsdet)
    values = torch.stack([gaussian_entropy(x @ mixing.T) for x in normal(500, n, d)])
    spread = math.sqrt(sum(float(torch.polygamma(1, torch.tensor((n - 1 - i) / 2))) for i in range(d)) / 4)
    assert abs(values.mean() - truth) < 4 * spread / math.sqrt(500)
    assert values.std() == pytest.approx(spread, rel=0.13)  # four standard errors of a standard deviation


def test_gaussian_entropy_is_an_upper_bound_for_other_laws() -> None:
    # A unit square has h = 0, the Gaussian with its covariance log(2 pi e / 12); spread 1 / sqrt(n).
    assert float(gaussian_entropy(uniform(5000, 2))) == pytest.approx(LOG_2PIE - math.log(12), abs=4 / math.sqrt(5000))


def test_gaussian_entropy_moves_by_the_log_determinant_of_a_linear_map() -> None:
    x, mixing = normal(50, 3), normal(3, 3, seed=1)
    gap = gaussian_entropy(x @ mixing.T + 7) - gaussian_entropy(x)
    assert float(gap) == pytest.approx(float(torch.linalg.slogdet(mixing).logabsdet), abs=1e-10)


def test_gaussian_entropy_survives_a_mean_far_from_zero() -> None:
    assert float(gaussian_entropy(normal(100, 2) + 1e7)) == pytest.approx(
        float(gaussian_entropy(normal(100, 2))), abs=1e-6
    )


def test_gaussian_interval_covers_the_truth_as_often_as_it_says() -> None:
    intervals = [gaussian_entropy(x, confidence=0.9) for x in normal(400, 20, 2)]
    hits = sum(bool(low < LOG_2PIE < high) for _, low, high in intervals)
    assert hits / 400 == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 400))


@pytest.mark.parametrize("x", [normal(3, 3), normal(50, 1).expand(-1, 2), torch.ones(50, 1)])
def test_gaussian_entropy_of_a_singular_covariance_is_refused(x: Tensor) -> None:
    with pytest.raises(ValueError, match="`x` to have a covariance of full rank"):
        gaussian_entropy(x)


# -- Nearest neighbours


@pytest.mark.parametrize(("d", "bias"), [(1, 0.0), (2, 0.0), (5, 0.05)])
def test_knn_entropy_of_a_gaussian_matches_its_closed_form(d: int, bias: float) -> None:
    # Spread per sample: that of log p, sqrt(d / 2), and of the k-th distance, sqrt(trigamma(5)) = 0.47.
    tolerance = bias + 4 * math.sqrt((d / 2 + 0.22) / 4000)
    assert abs(float(knn_entropy(normal(4000, d))) - d / 2 * LOG_2PIE) < tolerance


def test_knn_entropy_of_a_uniform_and_of_an_exponential_match_their_closed_forms() -> None:
    assert abs(float(knn_entropy(uniform(4000, 2)))) < 4 * math.sqrt(0.22 / 4000) + 0.02  # the edge adds k / n terms
    assert float(knn_entropy(-uniform(4000).log())) == pytest.approx(1.0, abs=4 * math.sqrt(1.22 / 4000))


def test_knn_entropy_uses_the_exact_distance_to_the_kth_neighbour() -> None:
    x = normal(700, 3)
    distance = torch.from_numpy(cKDTree(x.numpy()).query(x.numpy(), 4)[0][:, 3])
    offset = torch.digamma(torch.tensor(700.0).double()) - torch.digamma(torch.tensor(3.0).double())
    expected = offset + math.log(4 / 3 * math.pi) + 3 * distance.log().mean()
    assert float(knn_entropy(x, k=3)) == pytest.approx(float(expected), abs=1e-9)


def test_knn_entropy_moves_by_d_log_c_under_scaling_and_not_under_order_shift_or_rotation() -> None:
    x = normal(300, 3)
    rotation = torch.linalg.qr(normal(3, 3, seed=1)).Q
    value = float(knn_entropy(x))
    assert float(knn_entropy(5 * x)) == pytest.approx(value + 3 * math.log(5), abs=1e-9)
    assert float(knn_entropy(x.flip(0))) == pytest.approx(value, abs=1e-9)
    assert float(knn_entropy(x @ rotation + 100)) == pytest.approx(value, abs=1e-7)


def test_knn_interval_covers_the_truth_as_often_as_it_says() -> None:
    intervals = [knn_entropy(x, confidence=0.9) for x in normal(300, 200, 1)]
    hits = sum(bool(low < LOG_2PIE / 2 < high) for _, low, high in intervals)
    assert hits / 300 == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 300))


def test_knn_entropy_refuses_ties_and_too_few_samples() -> None:
    with pytest.raises(ValueError, match="more than k = 5 that coincide"):
        knn_entropy(torch.arange(4.0).repeat(10))
    with pytest.raises(ValueError, match=r"`k` to be in \[1, n\) but got k = 5 for n = 5"):
        knn_entropy(normal(5, 1))


# -- Code length


def test_code_length_of_a_models_own_samples_is_its_entropy() -> None:
    log_p = torch.tensor([0.5, 0.25, 0.25]).log()
    tokens = torch.multinomial(log_p.exp(), 4 * 3000, True, generator=torch.Generator().manual_seed(0)).view(3000, 4)
    value, low, high = code_length(log_p[tokens], confidence=0.95)
    entropy = 4 * 1.5 * math.log(2)
    assert low < value < high
    # -log p has standard deviation log(2) / 2 per token
    assert float(value) == pytest.approx(entropy, abs=4 * math.log(2) / math.sqrt(3000))
    assert float(high - low) == pytest.approx(2 * 1.96 * math.log(2) / math.sqrt(3000), rel=0.1)


def test_code_length_ignores_what_the_mask_leaves_out() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -torch.inf], [-3.0, torch.nan, 5.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    for per, expected in (("sample", 3.0), ("token", 2.0), ("total", 6.0)):
        assert float(code_length(log_probs, mask, per=per)) == expected


def test_code_length_per_token_has_the_interval_of_a_ratio() -> None:
    # Every token costs log 2 or 2 log 2, and lengths vary: coverage over repetitions is the check.
    generator, hits = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        log_probs = -math.log(2) * torch.randint(1, 3, (60, 8), generator=generator)
        mask = torch.arange(8) < torch.randint(1, 9, (60, 1), generator=generator)
        _, low, high = code_length(log_probs, mask, per="token", confidence=0.9)
        hits += bool(low < 1.5 * math.log(2) < high)
    assert hits / 300 == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 300))


def test_code_length_refuses_code_lengths_and_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="`log_probs` to be log-probabilities, at most 0, but got 2"):
        code_length(torch.tensor([[2.0]]))
    with pytest.raises(ValueError, match=r"`log_probs` to have shape \[B, T\] but got \[3\]"):
        code_length(torch.zeros(3))
    with pytest.raises(ValueError, match=r"`mask` to have the shape of `log_probs`, \[1, 3\], but got \[3\]"):
        code_length(torch.zeros(1, 3), torch.ones(3))
    with pytest.raises(ValueError, match="`per` to be one of"):
        code_length(torch.zeros(1, 3), per="word")


# -- All of them


FUNCTIONS = [gaussian_entropy, knn_entropy, lambda x, **kwargs: code_length(-x.abs(), **kwargs)]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_agree_with_finite_differences(function) -> None:
    assert torch.autograd.gradcheck(function, (normal(12, 2).requires_grad_(),))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_bfloat16_input_is_computed_in_full_precision(function) -> None:
    x = normal(60, 3).bfloat16()
    assert function(x).dtype == torch.float32
    assert float(function(x)) == pytest.approx(float(function(x.double())), rel=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_confidence_gives_a_named_interval_around_the_value(function) -> None:
    interval = function(normal(60, 3), confidence=0.95)
    assert isinstance(interval, Interval)
    assert interval.low < interval.value < interval.high
    assert interval.value == function(normal(60, 3))
    with pytest.raises(ValueError, match="`confidence`"):
        function(normal(60, 3), confidence=95)


@pytest.mark.parametrize("function", [gaussian_entropy, knn_entropy])
def test_samples_must_be_finite_vectors(function) -> None:
    with pytest.raises(ValueError, match=r"`x` to have shape \[n, d\]"):
        function(normal(5, 2, 2))
    with pytest.raises(ValueError, match="`x` to be finite but got 1 values"):
        function(torch.tensor([1.0, 2.0, torch.nan]))
