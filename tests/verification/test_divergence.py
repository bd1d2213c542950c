import math

import numpy as np
import pytest
import torch

from ggmi_callbacks.verification import Mixture, divergences, entropy, histogram_kl
from ggmi_callbacks.verification.protocol import draw_world

from ._mixtures import random_mixture


def gaussian(mean: list[float], factor: list[list[float]], batch: int = 1) -> Mixture:
    means, factors = torch.tensor(mean).double(), torch.tensor(factor).double()
    return Mixture(torch.ones(batch, 1).double(), means.expand(batch, 1, -1), factors.expand(batch, 1, *factors.shape))


def closed_form(p: Mixture, q: Mixture) -> float:
    p, q = (torch.distributions.MultivariateNormal(x.means[0, 0], scale_tril=x.cholesky[0, 0]) for x in (p, q))
    return float(torch.distributions.kl_divergence(p, q))


def test_divergences_of_a_law_from_itself_are_zero(rng):
    p = random_mixture(5, 4, 3, rng)
    for estimate in divergences(p, p, 500, rng):
        torch.testing.assert_close(estimate.value, torch.zeros(5).double(), atol=1e-9, rtol=0)


def test_kl_between_gaussians_is_the_closed_form_within_its_stated_error(rng):
    p = gaussian([0.0, 1.0], [[1.0, 0.0], [0.5, 0.8]], batch=400)
    q = gaussian([1.0, 0.0], [[1.5, 0.0], [-0.3, 1.2]], batch=400)
    forward, reverse, _ = divergences(p, q, 1000, rng)
    for estimate, exact in ((forward, closed_form(p, q)), (reverse, closed_form(q, p))):
        z = (estimate.value - exact) / estimate.error
        assert abs(float(z.mean())) < 4 / math.sqrt(400)
        assert 0.85 < float(z.std()) < 1.15  # 400 repeats know it to .035


def test_stratified_kl_of_mixtures_is_that_of_independent_draws_within_error(rng):
    p, q = random_mixture(1, 4, 2, rng, side=3.0), random_mixture(1, 3, 2, rng, side=3.0)
    estimate = divergences(p, q, 40_000, rng).forward
    x = p.sample(200_000, rng)
    ratio = p.log_prob(x) - q.log_prob(x)
    error = math.hypot(float(estimate.error), float(ratio.std()) / math.sqrt(200_000))
    assert abs(float(estimate.value - ratio.mean())) < 4 * error


def test_stated_error_is_the_spread_of_estimates_for_mixtures_too(rng):
    p, q = (random_mixture(1, c, 2, rng, side=3.0).select(torch.zeros(400, dtype=torch.long)) for c in (4, 3))
    for estimate in divergences(p, q, 400, rng):
        ratio = float(estimate.value.std() / estimate.error.square().mean().sqrt())
        assert 0.85 < ratio < 1.15  # 400 repeats know it to .035


def test_jensen_shannon_lies_between_zero_and_log_two_and_is_symmetric(rng):
    p, q = random_mixture(50, 4, 2, rng), random_mixture(50, 3, 2, rng)
    there, back = divergences(p, q, 1000, rng).jensen_shannon, divergences(q, p, 1000, rng).jensen_shannon
    assert (there.value > -4 * there.error).all()
    assert (there.value < math.log(2) + 4 * there.error).all()
    # 50 pairs, so 4.5 errors rather than 4
    assert ((there.value - back.value).abs() < 4.5 * torch.hypot(there.error, back.error) + 1e-12).all()


def test_jensen_shannon_of_laws_without_overlap_is_log_two(rng):
    p, q = gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]), gaussian([100.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])
    assert float(divergences(p, q, 200, rng).jensen_shannon.value) == pytest.approx(math.log(2), abs=1e-9)


def test_entropy_of_a_gaussian_is_its_closed_form_within_error(rng):
    p = gaussian([3.0, 1.0], [[2.0, 0.0], [1.0, 0.5]])
    value, error = entropy(p, 10_000, rng)
    assert abs(float(value) - (math.log(2 * math.pi * math.e) + math.log(2.0 * 0.5))) < 4 * float(error)


@pytest.mark.parametrize("shared", [True, False])
def test_histogram_kl_is_that_of_numpy_histograms(shared, rng):
    p, q = torch.randn(3, 500, 2, generator=rng).double(), 1 + 2 * torch.randn(3, 400, 2, generator=rng).double()
    ours = histogram_kl(p, q, bins=20, shared=shared)
    for i in range(3):
        both = torch.cat([p[i], q[i]])
        span = list(zip(both.amin(0).tolist(), both.amax(0).tolist(), strict=True)) if shared else None
        cells = [np.histogramdd(x[i].numpy(), bins=20, range=span, density=True)[0].clip(min=1e-10) for x in (p, q)]
        a, b = (x / x.sum() for x in cells)
        assert float(ours[i]) == pytest.approx(float((a * np.log(a / b)).sum()), abs=1e-9)


def test_histograms_on_their_own_ranges_read_seven_to_ten_nats_between_samples_of_one_law(rng):
    truth = draw_world(2, 2, 2, 2, 8, 12, 200, rng).truth
    first, second = truth.sample(1000, rng), truth.sample(1000, rng)
    own, shared = histogram_kl(first, second, shared=False), histogram_kl(first, second, shared=True)
    assert 7 < float(own.mean()) < 10
    assert float(shared.mean()) < float(own.mean()) / 2


def test_histograms_refuse_other_dimensions():
    with pytest.raises(ValueError, match="use `divergences` in other dimensions"):
        histogram_kl(torch.zeros(1, 5, 3), torch.zeros(1, 5, 3))
