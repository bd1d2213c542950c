"""Pairs of known information, and an estimate as a float."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import digamma
from torch import Tensor

from ggmi_callbacks.functional import conditional_mutual_information, mutual_information


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian_pair(n: int, d: int = 1, rho: float = 0.75, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    """d independent pairs of correlation rho, and their information."""
    x, noise = normal(2, n, d, seed=seed)
    return x, rho * x + math.sqrt(1 - rho**2) * noise, -d / 2 * math.log(1 - rho**2)


def student_pair(n: int, d: int, nu: float, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    """Uncorrelated multivariate Student-t variables of d dimensions each, and their information."""
    scale = np.sqrt(nu / np.random.default_rng(seed).chisquare(nu, (n, 1)))
    x, y = (normal(n, 2 * d, seed=seed) * torch.from_numpy(scale)).split(d, 1)

    def entropy(k: int) -> float:
        gap = (nu + k) / 2 * (digamma((nu + k) / 2) - digamma(nu / 2))
        return gap + math.lgamma(nu / 2) - math.lgamma((nu + k) / 2) + k / 2 * math.log(nu * math.pi)

    return x, y, 2 * entropy(d) - entropy(2 * d)


def estimate(*variables: Tensor, **kwargs: object) -> float:
    function = mutual_information if len(variables) == 2 else conditional_mutual_information
    return float(function(*variables, progress=False, **kwargs))
