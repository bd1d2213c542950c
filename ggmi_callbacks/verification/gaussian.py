r"""The experiment with one Gaussian in place of each mixture: every quantity of the theory in closed form.

Notation (nats; isotropic Gaussians in d dimensions, variances ending in 2)
    mu ~ N(0, t2)                          the truth's mean
    z ~ N(mu, s2)                          anchors, n_a of them, of mean abar
    p                                      the prompt: abar, written to a precision of ``digit``
    mu_M = mu + N(0, b2)                   what the generator knows by itself
    y ~ N(c p + (1 - c) mu_M, g2)          synthetic samples, n_g of them; c is the share that comes from the prompt
    W' = abar + N(0, q2), W = ybar + N(0, q2)      the weights; the model they stand for is N(W, s2)
    V', V                                  weights drawn from their posterior instead, for the mixture estimate

The gap of KL divergences is |W' - mu|^2 / (2 s2) - |W - mu|^2 / (2 s2), the same in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ggmi_callbacks.functional import gaussian_ggmi, gaussian_weight_information, ggmi, weight_information
from ggmi_callbacks.functional.bounds import ggmi_upper_bound_terms


@dataclass(frozen=True)
class GaussianWorld:
    """Sizes and variances of one experiment, named as in the head of this module."""

    c: float
    n_a: int
    n_g: int
    d: int = 2
    s2: float = 1.0
    g2: float = 1.0
    q2: float = 0.01
    t2: float = 8.0
    b2: float = 0.1
    digit: float = 0.01

    @property
    def synthetic_t2(self) -> float:
        """Variance of the mean of the synthetic law, when truth, anchors and generator are all unknown."""
        return self.t2 + self.c**2 * self.s2 / self.n_a + (1 - self.c) ** 2 * self.b2

    @property
    def prompt_t2(self) -> float:
        """Variance of abar, and so of the prompt, when the truth is unknown."""
        return self.t2 + self.s2 / self.n_a

    @property
    def given_prompt(self) -> tuple[float, float]:
        """The mean of the synthetic law given the prompt, as a multiple of it, and its variance."""
        shrink = self.t2 / self.prompt_t2  # mu given abar is N(shrink abar, shrink s2 / n_a)
        own = 1 - self.c
        return self.c + own * shrink, own**2 * (shrink * self.s2 / self.n_a + self.b2)


def gaussian_protocol(world: GaussianWorld, repeats: int = 100, seed: int = 0) -> dict[str, Tensor]:
    """Measure GGMI, gaps and bound in a world where they are known.

    Returns:
        Tensors [repeats] (measured) or 0-dim (closed forms, names ending in ``_exact``), nats: ``ggmi_mixture`` and its
        terms ``weight_information_anchor`` and ``weight_information_synthetic``, each with its ``_exact``;
        ``ggmi_loss_difference``, the laws of both sets given, beside ``ggmi_given_exact``, whose terms are bounded from
        below, and ``ggmi_exact``, with the anchors behind the synthetic set random too; ``kl_gap`` and
        ``generalisation_gap_difference``, each with its ``_exact``; ``bound``, ``slack``, its ``_exact``, and ``a``.

    Example:
        >>> result = gaussian_protocol(GaussianWorld(c=0.5, n_a=20, n_g=80), repeats=200)
        >>> bool((result["ggmi_mixture"].mean() - result["ggmi_mixture_exact"]).abs() < 0.5)
        True
    """
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(repeats, *shape, world.d, generator=rng, dtype=torch.float64)

    w = world
    mu = math.sqrt(w.t2) * normal(1)
    anchors, anchor_twins = (mu + math.sqrt(w.s2) * normal(w.n_a) for _ in range(2))
    prompt = (anchors.mean(1, keepdim=True) / w.digit).round() * w.digit
    centre = w.c * prompt + (1 - w.c) * (mu + math.sqrt(w.b2) * normal(1))
    synthetic, synthetic_twins = (centre + math.sqrt(w.g2) * normal(w.n_g) for _ in range(2))
    anchor_weights, weights = (x.mean(1, keepdim=True) + math.sqrt(w.q2) * normal(1) for x in (anchors, synthetic))

    pairs = (anchor_twins, anchor_weights), (anchors, anchor_weights), (synthetic_twins, weights), (synthetic, weights)
    losses = [_nll(x, weight, w.s2) for x, weight in pairs]  # [repeats, n] each
    distances = [(weight - mu).square().sum((-1, -2)) / (2 * w.s2) for weight in (anchor_weights, weights)]
    means = [loss.mean(-1) for loss in losses]
    return {
        **_mixture(w, anchors, prompt, synthetic, normal),
        **_exact(w),
        "ggmi_loss_difference": ggmi(
            *(x.flatten() for x in losses), estimator="loss_difference", anchor_total=w.n_a, synthetic_total=w.n_g
        ),
        "kl_gap": distances[0] - distances[1],
        "generalisation_gap_difference": means[0] - means[1] - means[2] + means[3],
    }


def _exact(w: GaussianWorld) -> dict[str, Tensor]:
    ggmi_of = partial(gaussian_ggmi, c=w.c, n_a=w.n_a, n_g=w.n_g, s2=w.s2, g2=w.g2, q2=w.q2, d=w.d)
    anchor = gaussian_weight_information(w.n_a, w.d, w.s2, w.t2).mixture
    synthetic = gaussian_weight_information(w.n_g, w.d, w.g2, w.synthetic_t2).mixture
    prompt_entropy = w.d * (math.log(2 * math.pi * math.e * w.prompt_t2) / 2 - math.log(w.digit))
    noise = w.g2 / w.n_g
    told = w.d / 2 * math.log((w.synthetic_t2 + noise) / (w.given_prompt[1] + noise))  # I(p; S_gen)
    shared = (1 - w.c**2) * w.s2 / w.n_a - (1 - w.c) ** 2 * w.b2  # what recycling saves, what own knowledge costs
    values = {
        "weight_information_anchor_exact": anchor,
        "weight_information_synthetic_exact": synthetic,
        "ggmi_mixture_exact": anchor - synthetic,
        "slack_exact": prompt_entropy - told,
        "ggmi_exact": ggmi_of(),
        "ggmi_given_exact": ggmi_of(conditioning="generator"),
        "kl_gap_exact": w.d / (2 * w.s2) * (shared - w.g2 / w.n_g),
        "generalisation_gap_difference_exact": w.d * (1 / w.n_a - w.g2 / (w.n_g * w.s2)),
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def _mixture(
    w: GaussianWorld, anchors: Tensor, prompt: Tensor, synthetic: Tensor, normal: Callable[[int], Tensor]
) -> dict[str, Tensor]:
    """GGMI and its bound from code lengths, with the Bayes predictive before and posterior draws after training."""
    first_a, final_a, _ = _codes(anchors, w.s2, w.t2, normal(1))
    first_g, final_g, weights = _codes(synthetic, w.g2, w.synthetic_t2, normal(1))
    # A function of the anchors: their code given it is their own less that of the cell that it names.
    cell = _nll(prompt, torch.zeros_like(prompt), w.prompt_t2).sum(-1) - w.d * math.log(w.digit)
    scale, variance = w.given_prompt
    terms = ggmi_upper_bound_terms(
        information_gain=_prequential(synthetic - scale * prompt, w.g2, variance).sum(-1),
        anchor_entropy=first_a.sum(-1),
        synthetic_entropy=first_g.sum(-1),
        synthetic_given_weights=final_g.sum(-1),
        anchor_given_anchor_weights=final_a.sum(-1),
        anchor_given_prompt=first_a.sum(-1) - cell,
        anchor_given_weights=_nll(anchors, weights, w.s2).sum(-1),
    )
    return {
        "weight_information_anchor": torch.vmap(weight_information)(first_a, final_a),
        "weight_information_synthetic": torch.vmap(weight_information)(first_g, final_g),
        "ggmi_mixture": torch.vmap(ggmi)(first_a, final_a, first_g, final_g),
        "bound": terms.bound,
        "slack": terms.slack,
        "a": terms.a,
    }


def _codes(x: Tensor, s2: float, t2: float, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prequential and final code lengths [repeats, n], and the weights [repeats, 1, d], drawn from the posterior."""
    evidence = s2 + x.shape[1] * t2
    weights = x.sum(1, keepdim=True) * t2 / evidence + math.sqrt(s2 * t2 / evidence) * noise
    return _prequential(x, s2, t2), _nll(x, weights, s2), weights


def _prequential(x: Tensor, s2: float, t2: float) -> Tensor:
    """Code length [repeats, n] of samples of variance s2 about a mean of variance t2, each given those before it."""
    seen = torch.arange(x.shape[1], dtype=x.dtype)[:, None]  # samples before this one
    mean = (x.cumsum(1) - x) * t2 / (s2 + seen * t2)
    return _nll(x, mean, s2 + s2 * t2 / (s2 + seen.squeeze(-1) * t2))


def _nll(x: Tensor, mean: Tensor, variance: Tensor | float) -> Tensor:
    """-log N(x; mean, variance Id) over the last dimension."""
    variance = torch.as_tensor(variance, dtype=x.dtype)
    return (x - mean).square().sum(-1) / (2 * variance) + x.shape[-1] / 2 * (2 * math.pi * variance).log()
