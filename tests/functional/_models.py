"""Models whose information is known exactly, shared by the tests."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Lengths(NamedTuple):
    """Code lengths of many independent runs: first visit and final, [runs, n]."""

    first: Tensor
    final: Tensor
    final_posterior_mean: Tensor
    samples: Tensor


def gaussian_mean_runs(runs: int, n: int, d: int, s2: float, t2: float, seed: int) -> Lengths:
    """Learn a Gaussian mean with the exact Bayes predictive, W drawn from the posterior."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mu = math.sqrt(t2) * normal(runs, 1, d)
    z = mu + math.sqrt(s2) * normal(runs, n, d)
    seen = torch.arange(n + 1, dtype=torch.float64)[:, None]  # samples seen before each predictive
    total = torch.cat((torch.zeros(runs, 1, d, dtype=torch.float64), z.cumsum(1)), dim=1)
    mean = t2 * total / (s2 + seen * t2)
    variance = s2 * t2 / (s2 + seen * t2)
    w = mean[:, -1:] + variance[-1].sqrt() * normal(runs, 1, d)

    def nll(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
        return 0.5 * ((x - m).square() / v + torch.log(2 * math.pi * v)).sum(-1)

    known = torch.full((n, 1), s2, dtype=torch.float64)
    return Lengths(nll(z, mean[:, :-1], s2 + variance[:-1]), nll(z, w, known), nll(z, mean[:, -1:], known), z)


def noisy_mean_twins(runs: int, n: int, s2: float, q2: float, seed: int) -> tuple[Tensor, Tensor]:
    """Squared losses of one held-in and one held-out sample in each of many runs of noisy ERM."""
    generator = torch.Generator().manual_seed(seed)
    z = math.sqrt(s2) * torch.randn(runs, n, generator=generator, dtype=torch.float64)
    w = z.mean(1) + math.sqrt(q2) * torch.randn(runs, generator=generator, dtype=torch.float64)
    twin = math.sqrt(s2) * torch.randn(runs, generator=generator, dtype=torch.float64)
    return (z[:, 0] - w).square() / 2, (twin - w).square() / 2
