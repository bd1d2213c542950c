"""Mixtures drawn at random."""

from __future__ import annotations

import torch

from ggmi_callbacks.verification.mixtures import Mixture


def random_mixture(batch: int, components: int, d: int, rng: torch.Generator, *, side: float = 10.0) -> Mixture:
    weights = torch.rand(batch, components, generator=rng, dtype=torch.float64) + 0.5
    means = side * torch.rand(batch, components, d, generator=rng, dtype=torch.float64)
    factors = torch.rand(batch, components, d, d, generator=rng, dtype=torch.float64) + torch.eye(d)
    return Mixture(weights / weights.sum(-1, keepdim=True), means, torch.linalg.cholesky(factors @ factors.mT))
