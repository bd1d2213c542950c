r"""Gaussian mixtures, many at once: densities, samples and maximum likelihood, all as batched matrix products.

Notation
    B   mixtures in the batch (the repeats of an experiment)
    C   components of each, d dimensions, n samples
    phi(x) = (1, x_i, x_i x_j for i <= j)     F = 1 + d + d (d + 1) / 2 features
    theta_c                                   coefficients with log(w_c N(x; mu_c, Sigma_c)) = <theta_c, phi(x)>

A Gaussian's log-density is linear in ``phi``, so the log-densities of all components at all points are one product
``phi @ theta``, and the sums that the M-step needs are one product ``responsibilities^T @ phi``. Everything is float64:
the products cancel terms of size (precision x |x|^2), up to 1e10 here, which leaves some six digits after the comma.
Densities are in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

SIDE = 10.0  # of the cube that the experiments draw their means from
_RIDGE = 1e-6  # added to fitted covariances' diagonals; scikit-learn's `reg_covar`
_TINY = 10 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Mixture:
    """B Gaussian mixtures of C components in d dimensions.

    Attributes:
        weights: [B, C], summing to one.
        means: [B, C, d].
        cholesky: [B, C, d, d], lower triangular factors of the covariances.

    Example:
        >>> import torch
        >>> standard = Mixture(torch.ones(1, 1), torch.zeros(1, 1, 2), torch.eye(2).expand(1, 1, 2, 2)).double()
        >>> standard.log_prob(torch.zeros(1, 1, 2).double()).exp()  # 1 / (2 pi)
        tensor([[0.1592]], dtype=torch.float64)
    """

    weights: Tensor
    means: Tensor
    cholesky: Tensor

    def double(self) -> Mixture:
        """The same mixtures in float64, the precision in which this module works."""
        return Mixture(self.weights.double(), self.means.double(), self.cholesky.double())

    def select(self, index: Tensor) -> Mixture:
        """The mixtures that an index or a mask over the batch names."""
        return Mixture(self.weights[index], self.means[index], self.cholesky[index])

    def coefficients(self) -> Tensor:
        """``theta`` [B, F, C]: what ``phi(x)`` is multiplied with to give every component's log-density."""
        d = self.means.shape[-1]
        i, j = torch.triu_indices(d, d, device=self.means.device)
        precision = torch.cholesky_inverse(self.cholesky)
        linear = (precision @ self.means.unsqueeze(-1)).squeeze(-1)  # [B, C, d]
        half_log_det = self.cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = (
            self.weights.log() - 0.5 * (linear * self.means).sum(-1) - half_log_det - 0.5 * d * math.log(2 * math.pi)
        )
        pairs = precision[..., i, j] * torch.where(i == j, -0.5, -1.0)  # [B, C, d (d + 1) / 2]
        return torch.cat([constant.unsqueeze(-1), linear, pairs], dim=-1).transpose(-1, -2)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density [B, n] of points [B, n, d], in nats."""
        return torch.logsumexp(features(x) @ self.coefficients(), dim=-1)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n independent draws from each mixture: [B, n, d]."""
        labels = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.sample_components(labels, generator)

    def sample_components(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """One draw from each component that ``labels`` [B, n] names: [B, n, d]."""
        d = self.means.shape[-1]
        rows = torch.arange(len(labels), device=labels.device).unsqueeze(-1)
        noise = torch.randn((*labels.shape, d), generator=generator, device=labels.device, dtype=self.means.dtype)
        return self.means[rows, labels] + (self.cholesky[rows, labels] @ noise.unsqueeze(-1)).squeeze(-1)

    def strata(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws from *each component*: [B, C, n, d]; weighted by ``weights`` they estimate expectations."""
        shape = (*self.means.shape[:2], n, self.means.shape[-1])
        noise = torch.randn(shape, generator=generator, device=self.means.device, dtype=self.means.dtype)
        return self.means.unsqueeze(-2) + noise @ self.cholesky.transpose(-1, -2)


def features(x: Tensor) -> Tensor:
    """``phi(x)`` [B, n, F] of points [B, n, d]."""
    d = x.shape[-1]
    i, j = torch.triu_indices(d, d, device=x.device)
    return torch.cat([torch.ones_like(x[..., :1]), x, x[..., i] * x[..., j]], dim=-1)


def maximise(phi: Tensor, responsibilities: Tensor) -> Mixture:
    """The M-step: the mixture of greatest expected log-likelihood under responsibilities [B, n, C]."""
    moments = responsibilities.transpose(-1, -2) @ phi  # [B, C, F]
    d = int((math.isqrt(8 * phi.shape[-1] + 1) - 3) // 2)  # F = (d + 1) (d + 2) / 2
    i, j = torch.triu_indices(d, d, device=phi.device)
    total = moments[..., :1] + _TINY  # [B, C, 1]
    means = moments[..., 1 : d + 1] / total
    covariance = phi.new_empty((*means.shape, d))
    covariance[..., i, j] = moments[..., d + 1 :] / total - means[..., i] * means[..., j]
    covariance[..., j, i] = covariance[..., i, j]
    covariance.diagonal(dim1=-2, dim2=-1).add_(_RIDGE)
    return Mixture(total.squeeze(-1) / total.sum(-2), means, torch.linalg.cholesky(covariance))


def em_step(phi: Tensor, mixture: Mixture) -> tuple[Mixture, Tensor]:
    """One EM iteration; also the mean log-likelihood [B] of the mixture that went *in*."""
    joint = phi @ mixture.coefficients()  # [B, n, C]
    log_prob = torch.logsumexp(joint, dim=-1, keepdim=True)
    return maximise(phi, (joint - log_prob).exp()), log_prob.mean((-1, -2))


def expectation_maximisation(x: Tensor, means: Tensor, *, iterations: int = 100, tolerance: float = 1e-3) -> Mixture:
    """Maximum-likelihood mixtures from initial centres: hard assignment first, then EM, each to its own end.

    A fit stops when its mean log-likelihood changes by less than ``tolerance`` nats, and leaves the batch, so that the
    result does not depend on what else is in the batch. Rules and defaults are those of scikit-learn's
    ``GaussianMixture``.

    Args:
        x: samples [B, n, d].
        means: initial centres [B, C, d].
        iterations: most EM iterations of one fit.
        tolerance: change of the mean log-likelihood (nats) at which a fit has converged.
    """
    nearest = torch.cdist(x, means).argmin(-1)  # [B, n]
    phi, active = features(x), torch.arange(len(x), device=x.device)
    mixture = maximise(phi, one_hot(nearest, means.shape[1]).to(x.dtype))
    fitted = mixture.select(active)  # a copy that finished fits are written to
    last = x.new_full((len(x),), -math.inf)
    for _ in range(iterations):
        mixture, likelihood = em_step(phi, mixture)
        going = (likelihood - last).abs() >= tolerance
        last = likelihood
        if not going.all():
            _write(fitted, active[~going], mixture.select(~going))
            phi, active, last, mixture = phi[going], active[going], last[going], mixture.select(going)
        if len(active) == 0:
            break
    _write(fitted, active, mixture)
    return fitted


def _write(target: Mixture, index: Tensor, source: Mixture) -> None:
    target.weights[index], target.means[index], target.cholesky[index] = (
        source.weights,
        source.means,
        source.cholesky,
    )


def spread_centres(x: Tensor, components: int, generator: torch.Generator, *, rounds: int = 10) -> Tensor:
    """Centres [B, C, d] by greedy k-means++ (Arthur and Vassilvitskii 2007), then ``rounds`` of Lloyd's iteration.

    Greedy: of 2 + log C candidates, drawn with probability proportional to the squared distance from the centres so
    far, each step takes the one that leaves the least squared distance.
    """
    rows, trials = torch.arange(len(x), device=x.device), 2 + int(math.log(components))
    pick = torch.randint(x.shape[1], (len(x),), generator=generator, device=x.device)
    centres = [x[rows, pick]]
    distance = (x - centres[0].unsqueeze(1)).square().sum(-1)  # [B, n]
    for _ in range(components - 1):
        picks = torch.multinomial(distance + _TINY, trials, replacement=True, generator=generator)  # [B, trials]
        candidates = x[rows.unsqueeze(-1), picks]
        remaining = torch.minimum(distance.unsqueeze(1), torch.cdist(candidates, x).square())  # [B, trials, n]
        best = remaining.sum(-1).argmin(-1)
        centres.append(candidates[rows, best])
        distance = remaining[rows, best]
    means = torch.stack(centres, dim=1)
    for _ in range(rounds):
        nearest = one_hot(torch.cdist(x, means).argmin(-1), components).to(x.dtype)
        count = nearest.sum(1).unsqueeze(-1)  # [B, C, 1]; an empty cluster keeps its centre
        means = torch.where(count > 0, nearest.transpose(-1, -2) @ x / count.clamp(min=1), means)
    return means


def fit(x: Tensor, components: int, generator: torch.Generator) -> Mixture:
    """Maximum-likelihood mixtures of ``components`` Gaussians, one for each batch of samples in x [B, n, d].

    Raises:
        ValueError: if there are fewer samples than components.

    Example:
        >>> import torch
        >>> rng = torch.Generator().manual_seed(0)
        >>> x = torch.randn(1, 400, 2, generator=rng).double() + torch.tensor([0.0, 20.0]).repeat(200)[None, :, None]
        >>> fit(x, 2, rng).means.sort(dim=1).values.round().long()
        tensor([[[ 0,  0],
                 [20, 20]]])
    """
    if x.shape[1] < components:
        raise ValueError(
            f"Expected `x` to hold at least `components` = {components} samples, but got {x.shape[1]}; "
            "draw more samples or fit fewer components."
        )
    return expectation_maximisation(x, spread_centres(x, components, generator))
