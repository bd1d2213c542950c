r"""Elliptical copulas: what Gaussian and Student-t dependence says of mutual information, whatever the marginals.

Notation:
    n, D       samples, dimensions of all variables together
    z_ij       q_nu(u_ij), the score of sample i in column j (see :mod:`_ranks`); with nu = inf the normal score
    R          [D, D] correlation matrix of the copula
    log f      log density of the D-variate t with matrix R, minus those of its marginals: the copula's
    I          I(x; y | z) = sum of entropies of the t in (x, z) and (y, z), minus those in z and (x, y, z); the
               Gaussian part is a sum of log determinants of blocks of R, and with nu < inf there is a part that
               depends only on nu and the dimensions: a common scale makes even uncorrelated variables dependent

Mutual information does not change under invertible maps of each variable, so the marginals are free.

Source: Arellano-Valle, Contreras-Reyes and Genton, Scand. J. Stat. 40 (2013), for the mutual information of the
multivariate t.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._samples import covariance_factor
from ggmi_callbacks.functional.mutual_information._gaussian import NAMES, blocks, second_order_error, wishart_bias
from ggmi_callbacks.functional.mutual_information._ranks import mid_ranks, normal_scores, rank_bounds, t_scores

_COARSE = tuple(2.0**e for e in range(7))  # 1 .. 64 degrees of freedom
_EM_STEPS = 6


class EllipticalCopula(NamedTuple):
    """Degrees of freedom (inf: Gaussian) and correlation matrix [D, D]."""

    nu: float
    correlation: Tensor


def fit_copula(data: Tensor) -> EllipticalCopula:
    """Maximum-likelihood Student-t copula of data [n, D], or the Gaussian one if BIC prefers it.

    Where a twentieth of a column is one value only the Gaussian is considered: to a density, the steps of discrete
    data look like heavy tails.
    """
    ranks = mid_ranks(data)
    covariance_factor((s := normal_scores(data)).T @ s, len(s), NAMES)  # refuse dependent columns
    low, high = rank_bounds(data)
    coarse = () if (high - low).max() > max(1, len(data) / 20) else _COARSE
    fits = {nu: _fit_nu(ranks, nu) for nu in (*coarse, math.inf)}
    best = max(fits, key=lambda nu: fits[nu][0])
    for _ in range(3):  # bisect the octave around the best
        if math.isinf(best):
            break
        step = min(abs(math.log2(nu / best)) for nu in fits if nu != best and not math.isinf(nu)) / 2
        for nu in (best * 2**step, best / 2**step):
            fits[nu] = _fit_nu(ranks, nu)
        best = max(fits, key=lambda nu: fits[nu][0])
    if 2 * (fits[best][0] - fits[math.inf][0]) < math.log(len(data)):
        best = math.inf
    return EllipticalCopula(best, fits[best][1])


def _fit_nu(ranks: Tensor, nu: float) -> tuple[float, Tensor]:
    """Log-likelihood and correlation of the copula with nu degrees of freedom."""
    z = t_scores(ranks, nu)
    correlation = fit_correlation(z, nu)
    likelihood = _log_t(z, correlation, nu).sum() - _log_t_marginals(z, nu)
    return float(likelihood), correlation


def fit_correlation(z: Tensor, nu: float) -> Tensor:
    """Maximum-likelihood correlation of a t with known marginals, by expectation maximisation."""
    n, d = z.shape
    scatter = z.T @ z / n if math.isinf(nu) else torch.eye(d, dtype=z.dtype, device=z.device)
    for _ in range(0 if math.isinf(nu) else _EM_STEPS):
        weight = (nu + d) / (nu + _mahalanobis(z, scatter))
        scatter = _correlation((z * weight[:, None]).T @ z / n)
    return _correlation(scatter)


def _correlation(scatter: Tensor) -> Tensor:
    scale = scatter.diagonal().sqrt()
    return scatter / (scale[:, None] * scale)


def _mahalanobis(z: Tensor, matrix: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(matrix)
    return torch.linalg.solve_triangular(factor, z.T, upper=False).square().sum(0)


def _log_t(z: Tensor, matrix: Tensor, nu: float) -> Tensor:
    """[n] log density of the multivariate t (or Gaussian) with matrix [d, d]."""
    d = z.shape[1]
    if d == 0:
        return z.new_zeros(len(z))
    logdet = 2 * torch.linalg.cholesky(matrix).diagonal().log().sum()
    distance = _mahalanobis(z, matrix)
    if math.isinf(nu):
        return -(logdet + distance + d * math.log(2 * math.pi)) / 2
    constant = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
    return constant - (logdet + (nu + d) * torch.log1p(distance / nu)) / 2


def _log_t_marginals(z: Tensor, nu: float) -> Tensor:
    one = torch.ones(1, 1, dtype=z.dtype, device=z.device)
    return _log_t(z.reshape(-1, 1), one, nu).sum()


def _t_entropy(d: int, nu: float) -> float:
    """Entropy of the d-variate t without its log determinant; zero for the Gaussian, whose parts cancel."""
    if d == 0 or math.isinf(nu):
        return 0.0
    half, both = torch.tensor([nu / 2, (nu + d) / 2], dtype=torch.float64)
    gap = float(torch.digamma(both) - torch.digamma(half))
    return math.lgamma(nu / 2) - math.lgamma((nu + d) / 2) + d / 2 * math.log(nu * math.pi) + (nu + d) / 2 * gap


def model_information(copula: EllipticalCopula, dims: tuple[int, ...]) -> float:
    """I(x; y | z) of the copula itself, in closed form."""
    groups, signs = blocks(dims)
    total = 0.0
    for columns, sign in zip(groups, signs, strict=True):
        block = copula.correlation[columns][:, columns]
        half = float(torch.linalg.cholesky(block).diagonal().log().sum()) if columns else 0.0
        total += sign * (half + _t_entropy(len(columns), copula.nu))
    return total


def information_of_copula(data: Tensor, copula: EllipticalCopula, dims: tuple[int, ...]) -> tuple[Estimate, Tensor]:
    """I(x; y | z) of a copula fitted to data [n, D], less its bias, and the fitted pointwise values [n]."""
    n, total = data.shape
    groups, signs = blocks(dims)
    z = t_scores(mid_ranks(data), copula.nu)
    pointwise = data.new_zeros(n)
    for columns, sign in zip(groups, signs, strict=True):
        pointwise -= sign * _log_t(z[:, columns], copula.correlation[columns][:, columns], copula.nu)
    bias = wishart_bias(n, [len(columns) for columns in groups], signs)
    # Under a t the correlations are that much less precise than under a Gaussian.
    inflation = 1.0 if math.isinf(copula.nu) else (copula.nu + total + 2) / (copula.nu + total)
    value = model_information(copula, dims) - inflation * bias
    return Estimate(data.new_tensor(value), pointwise, n, second_order_error(dims, n)), pointwise


def sample_copula(copula: EllipticalCopula, n: int, generator: torch.Generator) -> Tensor:
    """[n, D] samples of the multivariate t (or Gaussian) of the copula."""
    d = len(copula.correlation)
    z = torch.randn(n, d, dtype=torch.float64, generator=generator).to(copula.correlation.device)
    z = z @ torch.linalg.cholesky(copula.correlation).T
    if math.isinf(copula.nu):
        return z
    seed = int(torch.randint(2**31, (), generator=generator))  # torch draws no chi-squared from a generator
    chi_squared = torch.from_numpy(np.random.default_rng(seed).chisquare(copula.nu, (n, 1))).to(z.device)
    return z * (copula.nu / chi_squared).sqrt()


def with_information(
    copula: EllipticalCopula, dims: tuple[int, ...], cross: Tensor, information: float
) -> EllipticalCopula:
    """The copula with other x-y correlations, such that it holds a given information.

    They lie on the way from conditional independence given z over ``cross`` [d_x, d_y], a sparser guess, to its
    own; on each leg the matrix stays positive definite.
    """
    d_x, d_y, _ = dims
    x, y, z = slice(0, d_x), slice(d_x, d_x + d_y), slice(d_x + d_y, None)
    r = copula.correlation
    explained = r[x, z] @ torch.linalg.solve(r[z, z], r[z, y])
    legs = [torch.stack((explained, cross)), torch.stack((cross, r[x, y]))]

    def on_the_way(leg: Tensor, share: float) -> EllipticalCopula:
        matrix = r.clone()
        matrix[x, y] = torch.lerp(leg[0], leg[1], share)
        matrix[y, x] = matrix[x, y].T
        return EllipticalCopula(copula.nu, matrix)

    leg = legs[0] if model_information(on_the_way(legs[0], 1.0), dims) >= information else legs[1]
    low, high = 0.0, 1.0
    for _ in range(24):
        middle = (low + high) / 2
        enough = model_information(on_the_way(leg, middle), dims) >= information
        low, high = (low, middle) if enough else (middle, high)
    return on_the_way(leg, high)
