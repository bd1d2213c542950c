"""Models whose information is known exactly, shared by the tests."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.integrate import quad
from scipy.special import entr, expit, k0e
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


def noisy_mean_twin_information(n: int, s2: float, q2: float) -> float:
    """I(D; U) of those twins by quadrature, nats per pair.

    D is half the product of two Gaussians, (out - in)(out + in), whose density is a Bessel function times exp(slope
    D): so the odds of the sign given |D| are exp(2 slope |D|).
    """
    variance = s2 / n + q2  # of W
    out, held, both = s2 + variance, s2 + variance - 2 * s2 / n, variance - s2 / n
    minus, plus, cross = out + held - 2 * both, out + held + 2 * both, out - held
    scale = math.sqrt(minus * plus) / 2
    rho = cross / math.sqrt(minus * plus)
    sharp, slope = 1 / (scale * (1 - rho**2)), rho / (scale * (1 - rho**2))

    def integrand(x: float) -> float:  # both signs of D at once
        both_signs = math.exp((slope - sharp) * x) + math.exp(-(slope + sharp) * x)
        density = k0e(sharp * x) * both_signs / (math.pi * scale * math.sqrt(1 - rho**2))
        up = expit(2 * slope * x)
        return density * (math.log(2) - entr(up) - entr(1 - up))

    return quad(integrand, 0, 40 / (sharp - slope), limit=500)[0]
