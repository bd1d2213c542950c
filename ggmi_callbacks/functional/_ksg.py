r"""Nearest-neighbour mutual information (Kraskov, Stoegbauer and Grassberger; conditional: Frenzel and Pompe).

Notation:
    r_i         distance from sample i to its k-th neighbour, in the largest of the Euclidean distances in the
                standardised x, y and z
    n_xz(i)     samples strictly within r_i of sample i in x and in z, itself included; likewise n_yz, n_z; without
                z, n_z = n
    I           mean_i of psi(k) + psi(n_z(i)) - psi(n_xz(i)) - psi(n_yz(i)); psi is the digamma function

Samples whose k-th neighbour coincides with them (ties in discrete or mixed data) use the number of coinciding
samples for k: on discrete data the estimate then tends to the plug-in one.

Source: Kraskov et al., Phys. Rev. E 69, 066138 (2004), equation 8; Frenzel and Pompe, Phys. Rev. Lett. 99,
204101 (2007); Gao et al., NeurIPS 2017, for the ties.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ggmi_callbacks.functional._copula import normal_scores
from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._neighbours import neighbour_counts, standardise
from ggmi_callbacks.functional._samples import covariance_factor


def ksg_information(variables: list[Tensor], k: int) -> Estimate:
    """I(x; y) or I(x; y | z) of ``variables`` [x, y] or [x, y, z]."""
    return neighbour_estimate(ksg_pointwise(variables, k))


def neighbour_estimate(pointwise: Tensor) -> Estimate:
    """The mean of neighbours' pointwise values [n], with twice their variance as its spread.

    Neighbours share samples, so their values are correlated: over Gaussian pairs of correlation 0 to 0.9, in one and
    two dimensions, the variance of the mean was 1.4 to 2.5 times that of independent values.
    """
    mean = pointwise.mean()
    return Estimate(mean, mean + 2**0.5 * (pointwise - mean), len(pointwise))


def ksg_pointwise(variables: list[Tensor], k: int, scaled: bool = False) -> Tensor:
    """[n] summands of the estimate; ``scaled`` if the variables need no standardising."""
    n = len(variables[0])
    spaces = variables if scaled else [standardise(v) for v in variables]
    groups: list[tuple[int, ...]] = [(0, 2), (1, 2), (2,)] if len(spaces) == 3 else [(0,), (1,)]
    joint, counts = neighbour_counts(spaces, groups, k)
    if len(spaces) == 2:
        counts = torch.cat((counts, torch.full_like(counts[:1], n)))
    near_x, near_y, near_z = torch.digamma(counts)
    return torch.digamma(joint) + near_z - near_x - near_y


# -- On the pairs of directions that correlate most


MOST_PAIRS = 3


def canonical_ksg_information(x: Tensor, y: Tensor, k: int, generator: torch.Generator) -> Estimate:
    """I of the canonical pairs of x and y that hold information on held-out samples."""
    rank = min(canonical_rank(x, y, generator), MOST_PAIRS)
    return neighbour_estimate(ksg_pointwise(list(canonical_pairs(x, y, rank)), k, scaled=True))


def canonical_pairs(x: Tensor, y: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The ``rank`` leading pairs of canonical variates [n, rank] of the normal scores of x and y."""
    x, y = normal_scores(x), normal_scores(y)
    to_x, to_y, _ = canonical_maps(x, y)
    return (x @ to_x)[:, :rank], (y @ to_y)[:, :rank]


def canonical_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maps [d_x, d_x] and [d_y, d_y] of centred x and y to white canonical variates, and the correlations."""
    n = len(x)
    maps = []
    for name, v in (("x", x), ("y", y)):
        factor = covariance_factor(v.T @ v, n, name) / n**0.5
        identity = torch.eye(len(factor), dtype=v.dtype, device=v.device)
        maps.append(torch.linalg.solve_triangular(factor, identity, upper=False).T)
    left, correlations, right = torch.linalg.svd((x @ maps[0]).T @ (y @ maps[1]) / n, full_matrices=True)
    return maps[0] @ left, maps[1] @ right.T, correlations.clamp_max(1 - 1e-9)


def held_out_rank(p: Tensor, q: Tensor, correlations: Tensor) -> int:
    """How many canonical pairs [m, r] hold information on samples that they were not fitted to; at least one."""
    r = correlations
    p, q = p[:, : len(r)], q[:, : len(r)]
    gain = -torch.log1p(-(r**2)) - (r**2 * (p**2 + q**2) - 2 * r * p * q) / (1 - r**2)
    return int(gain.mean(0).cumsum(0).argmax()) + 1


def truncated_cross_correlation(r: Tensor, d_x: int, rank: int) -> Tensor:
    """The x-y block [d_x, d_y] of a correlation matrix of (x, y) with only its leading canonical correlations."""
    root_x, root_y = torch.linalg.cholesky(r[:d_x, :d_x]), torch.linalg.cholesky(r[d_x:, d_x:])
    white = torch.linalg.solve_triangular(root_x, r[:d_x, d_x:], upper=False)
    white = torch.linalg.solve_triangular(root_y, white.T, upper=False).T
    left, correlations, right = torch.linalg.svd(white, full_matrices=False)
    return root_x @ (left[:, :rank] * correlations[:rank]) @ right[:rank] @ root_y.T


def canonical_rank(x: Tensor, y: Tensor, generator: torch.Generator) -> int:
    """Rank of the linear dependence of the normal scores by two-fold cross-validation; at least one."""
    x, y = normal_scores(x), normal_scores(y)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    ranks = []
    for fit, test in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        to_x, to_y, correlations = canonical_maps(x[fit], y[fit])
        ranks.append(held_out_rank(x[test] @ to_x, y[test] @ to_y, correlations))
    return min(ranks)
