"""The data of the mixture experiment: a truth, anchors from a part of it, a generator that knows other parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ggmi_callbacks.verification.mixtures import SIDE, Mixture, features, maximise


@dataclass(frozen=True)
class World:
    """One draw of the experiment's data, B repeats at once.

    Attributes:
        truth: mixtures of K + J components.
        generator: mixtures of K + J + L components.
        anchors: [B, n_anchor, d].
        anchor_twins: as many fresh samples of the anchors' own law, which no fit sees.
        synthetic: [B, n_synthetic, d].
        synthetic_twins: as many fresh samples of the generator.
    """

    truth: Mixture
    generator: Mixture
    anchors: Tensor
    anchor_twins: Tensor
    synthetic: Tensor
    synthetic_twins: Tensor


def draw_world(
    K: int, J: int, L: int, d: int, n_anchor: int, n_synthetic: int, repeats: int, rng: torch.Generator
) -> World:
    """Draw truths, anchors, generators and synthetic samples; sizes as in :func:`mixture_protocol`."""
    truth = _random_mixture(repeats, K + J, d, rng)
    order = torch.rand(repeats, n_anchor, generator=rng, device=rng.device).argsort(-1)
    labels = torch.arange(n_anchor, device=rng.device)[order] % K  # balanced, in random order
    anchors = truth.sample_components(labels, rng)
    known = maximise(features(anchors), one_hot(labels, K).to(anchors.dtype))
    other = _random_mixture(repeats, L, d, rng)
    generator = Mixture(
        anchors.new_full((repeats, K + J + L), 1 / (K + J + L)),
        torch.cat([known.means, truth.means[:, K:], other.means], dim=1),
        torch.cat([known.cholesky, truth.cholesky[:, K:], other.cholesky], dim=1),
    )
    return World(
        truth,
        generator,
        anchors,
        truth.sample_components(labels, rng),
        generator.sample(n_synthetic, rng),
        generator.sample(n_synthetic, rng),
    )


def _random_mixture(repeats: int, components: int, d: int, rng: torch.Generator) -> Mixture:
    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float64)

    means, factors = SIDE * uniform(repeats, components, d), uniform(repeats, components, d, d)
    weights = means.new_full((repeats, components), 1 / max(components, 1))
    return Mixture(weights, means, torch.linalg.cholesky(factors @ factors.mT))
