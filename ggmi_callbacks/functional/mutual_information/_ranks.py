"""Ranks and scores: columns mapped monotonically to a law that is known. Mutual information does not change.

Notation:
    n     samples
    u     mid-rank of a number within its column, minus a half, over n: a number in (0, 1)
    q_nu  quantile function of Student's t with nu degrees of freedom; nu = inf is the Gaussian
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ggmi_callbacks.functional._student_t import student_t_quantile

_FEW_TIES = 0.1  # share of the samples of a column


def mid_ranks(x: Tensor) -> Tensor:
    """Rank of each entry within its column, from 1 to n; ties share their mean rank."""
    low, high = rank_bounds(x)
    return (low + high + 1).double() / 2


def rank_bounds(x: Tensor) -> tuple[Tensor, Tensor]:
    """How many entries of its column are below each entry of x [n, d], and how many at most as large."""
    columns = x.T.contiguous()  # [d, n]
    ordered = columns.sort(1).values
    return torch.searchsorted(ordered, columns).T, torch.searchsorted(ordered, columns, right=True).T


def normal_scores(x: Tensor) -> Tensor:
    """Columns of x [n, d] mapped monotonically to standard normal ones."""
    return torch.special.ndtri((mid_ranks(x) - 0.5) / x.shape[0])


def tied_columns(x: Tensor) -> Tensor:
    """[d] which columns of x [n, d] share many of their values among samples; a constant one is of no matter."""
    low, high = rank_bounds(x)
    equals = high - low  # [n, d] samples of the same value, the sample itself included
    return ((equals > 1).double().mean(0) > _FEW_TIES) & (equals.amax(0) < len(x))


def break_ties(x: Tensor, columns: Tensor, generator: torch.Generator) -> Tensor:
    """Some columns of x [n, d] replaced by their ranks, with uniform noise among equals.

    This distributional transform keeps the information of a column exactly: its value can be read off the noisy rank.
    """
    low, high = rank_bounds(x)
    noise = torch.rand(x.shape, dtype=x.dtype, generator=generator).to(x.device)
    return torch.where(columns, low + noise * (high - low), x)


def t_scores(ranks: Tensor, nu: float) -> Tensor:
    """Quantiles of Student's t at the ranks [n, d]; each quantile is computed once, for all columns."""
    n = ranks.shape[0]
    if math.isinf(nu):
        return torch.special.ndtri((ranks - 0.5) / n)
    levels = (torch.arange(2, 2 * n + 1, dtype=torch.float64) / 2 - 0.5) / n  # all possible mid-ranks
    return student_t_quantile(levels, nu).to(ranks.device)[(2 * ranks - 2).long()]
