"""Means of groups, shrunk toward the mean over all by as much as they are uncertain.

    gain_si = mu + a_s + e_si,   a_s ~ (0, tau^2),   e_si ~ (0, sigma^2)                      one-way random effects
    sigma^2 = sum_si (gain_si - mean_s)^2 / (N - S)
    tau^2   = max(0, [ sum_s n_s (mean_s - mean)^2 / (S - 1) - sigma^2 ] / n_0)
    n_0     = (N - sum_s n_s^2 / N) / (S - 1)
    m_s     = mean + tau^2 / (tau^2 + sigma^2 / n_s) (mean_s - mean)

tau^2 is the estimator of moments of the analysis of variance, which is that of DerSimonian and Laird (1986) where all
groups share the variance sigma^2; m_s is the empirical Bayes estimate of mu + a_s.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shrunk_means(count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """m_s of each group, [S]; the mean over all for a group without samples, and for each if no variance is known.

    Args:
        count: samples of each group, n_s, [S].
        total: their sums, [S].
        squares: sum of the squares of all samples, [].

    Example:
        Two groups of 4 samples with means 0 and 2 and sigma^2 = 1: tau^2 = 2 - 1/4, and means move by 1/8.

        >>> count, total = torch.tensor([4.0, 4.0]), torch.tensor([0.0, 8.0])
        >>> shrunk_means(count, total, squares=torch.tensor(6.0 + 4 * 2.0**2))
        tensor([0.1250, 1.8750])

    """
    n, groups = count.sum().clamp_min(1), (count > 0).sum()
    mean, means = total.sum() / n, total / count.clamp_min(1)
    apart = torch.where(count > 0, means - mean, torch.zeros_like(means))
    freedom = (n - groups).clamp_min(1)
    within = (squares - (count * means.square()).sum()).clamp_min(0) / freedom  # sigma^2
    between = (count * apart.square()).sum() / (groups - 1).clamp_min(1)
    effective = (n - count.square().sum() / n) / (groups - 1).clamp_min(1)  # n_0
    variance = ((between - within) / effective.clamp_min(1e-12)).clamp_min(0)  # tau^2
    variance = variance * ((groups > 1) & (n > groups))
    error = within / count.clamp_min(1)
    return mean + variance / (variance + error).clamp_min(torch.finfo(total.dtype).tiny) * apart
