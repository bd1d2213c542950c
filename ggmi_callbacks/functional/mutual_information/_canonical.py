r"""Nearest neighbours on the canonical pairs: the directions of x and y that correlate most.

Notation:
    p, q     [n, r] white canonical variates of the normal scores of x and y
    rank     how many leading pairs hold information on samples that they were not fitted to
"""

from __future__ import annotations

import torch
from torch import Tensor

from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._samples import covariance_factor
from ggmi_callbacks.functional.mutual_information._ksg import ksg_information
from ggmi_callbacks.functional.mutual_information._ranks import normal_scores

MOST_PAIRS = 3


def canonical_ksg_information(x: Tensor, y: Tensor, k: int, generator: torch.Generator) -> Estimate:
    """I of the canonical pairs of x and y that hold information on held-out samples."""
    rank = min(canonical_rank(x, y, generator), MOST_PAIRS)
    return ksg_information(list(canonical_pairs(x, y, rank)), k, scaled=True)


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
