import pytest
import torch
from sklearn.cluster import kmeans_plusplus
from sklearn.mixture import GaussianMixture
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ggmi_callbacks.verification.mixtures import (
    Mixture,
    em_step,
    expectation_maximisation,
    features,
    fit,
    maximise,
    spread_centres,
)

from ._mixtures import random_mixture


@pytest.mark.parametrize("d", [1, 2, 8, 32])
def test_log_density_is_that_of_torch_distributions(d, rng):
    mixture = random_mixture(3, 4, d, rng)
    x = mixture.sample(50, rng)
    reference = MixtureSameFamily(
        Categorical(mixture.weights), MultivariateNormal(mixture.means, scale_tril=mixture.cholesky)
    )
    torch.testing.assert_close(mixture.log_prob(x).T, reference.log_prob(x.transpose(0, 1)), rtol=1e-9, atol=1e-8)


def test_samples_have_the_mean_of_the_mixture(rng):
    mixture = random_mixture(4, 3, 2, rng)
    x = mixture.sample(40_000, rng)
    mean = (mixture.weights.unsqueeze(-1) * mixture.means).sum(1)
    error = x.std(1) / 200  # 16 numbers, each within 4.5 standard errors but for once in 10,000 runs
    assert ((x.mean(1) - mean).abs() < 4.5 * error).all()


def test_strata_weighted_by_their_components_have_the_second_moment_of_the_mixture(rng):
    mixture = random_mixture(1, 3, 2, rng)
    x = mixture.strata(100_000, rng)
    covariance = mixture.cholesky @ mixture.cholesky.mT
    exact = covariance + mixture.means.unsqueeze(-1) * mixture.means.unsqueeze(-2)
    estimate = (x.mT @ x) / x.shape[-2]
    torch.testing.assert_close(estimate, exact, rtol=0.02, atol=0.05)  # 1 / sqrt(100000) = .003 of values up to 80


def test_em_never_lowers_the_likelihood(rng):
    x = random_mixture(20, 3, 2, rng).sample(150, rng)
    phi, centres = features(x), spread_centres(x, 6, rng)
    nearest = torch.cdist(x, centres).argmin(-1)
    mixture = maximise(phi, torch.nn.functional.one_hot(nearest, 6).double())
    likelihoods = []
    for _ in range(60):
        mixture, likelihood = em_step(phi, mixture)
        likelihoods.append(likelihood)
    steps = torch.stack(likelihoods).diff(dim=0)
    assert (steps > -1e-4).all()  # the ridge of 1e-6 on covariances is not part of the likelihood
    assert (steps[0] > 0.01).any()


def test_em_reaches_the_same_maximum_as_scikit_learn(rng):
    mixture = Mixture(
        torch.tensor([[0.5, 0.3, 0.2]]).double(),
        torch.tensor([[[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]]]).double(),
        torch.tensor([[1.0, 0.0], [0.5, 1.0]]).double().expand(1, 3, 2, 2),
    )
    x = mixture.sample(600, rng)
    ours = expectation_maximisation(x, mixture.means, iterations=1000, tolerance=1e-12)
    theirs = GaussianMixture(3, means_init=mixture.means[0].numpy(), tol=1e-12, max_iter=1000, random_state=0)
    theirs.fit(x[0].numpy())
    assert float(ours.log_prob(x).mean()) == pytest.approx(theirs.score(x[0].numpy()), abs=1e-8)
    torch.testing.assert_close(ours.weights[0], torch.from_numpy(theirs.weights_), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.means[0], torch.from_numpy(theirs.means_), atol=1e-4, rtol=0)
    covariances = ours.cholesky[0] @ ours.cholesky[0].mT
    torch.testing.assert_close(covariances, torch.from_numpy(theirs.covariances_), atol=1e-4, rtol=0)


def test_fits_are_as_likely_as_scikit_learns_with_overlapping_components(rng):
    x = random_mixture(30, 6, 2, rng).sample(200, rng)
    ours = fit(x, 6, rng).log_prob(x).mean(-1)
    theirs = torch.tensor([GaussianMixture(6, random_state=0).fit(y).score(y) for y in x.numpy()])
    # Local maxima differ fit by fit, by .08 nats (standard deviation): .015 for the mean of 30.
    assert abs(float((ours - theirs).mean())) < 0.06


def test_a_batch_of_fits_equals_the_fits_one_by_one(rng):
    x = random_mixture(12, 4, 3, rng).sample(120, rng)
    centres = spread_centres(x, 5, rng)
    together = expectation_maximisation(x, centres)
    for i in range(len(x)):
        alone = expectation_maximisation(x[i : i + 1], centres[i : i + 1])
        torch.testing.assert_close(together.means[i], alone.means[0], atol=1e-8, rtol=0)
        torch.testing.assert_close(together.cholesky[i], alone.cholesky[0], atol=1e-8, rtol=0)


def test_centres_find_every_far_cluster(rng):
    corners = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]]).double()
    x = (corners.repeat(25, 1) + torch.randn(100, 2, generator=rng)).expand(50, -1, -1)
    centres = spread_centres(x, 4, rng)
    assert (torch.cdist(centres, corners.expand(50, -1, -1)).amin(1) < 1).all()


def test_seeds_are_as_near_as_those_of_scikit_learn(rng):
    x = random_mixture(60, 9, 2, rng).sample(200, rng)
    ours = torch.cdist(x, spread_centres(x, 9, rng, rounds=0)).amin(-1).square().sum(-1)
    seeds = [torch.from_numpy(kmeans_plusplus(y, 9, random_state=i)[0]) for i, y in enumerate(x.numpy())]
    theirs = torch.cdist(x, torch.stack(seeds)).amin(-1).square().sum(-1)
    # The ratio's standard deviation is .094 here, so .012 for the mean of 60; plain seeding has 1.25.
    assert abs(float((ours / theirs).mean()) - 1) < 0.05


def test_fewer_samples_than_components_is_an_error(rng):
    with pytest.raises(ValueError, match="at least `components` = 5 samples"):
        fit(torch.zeros(1, 4, 2).double(), 5, rng)
