r"""The paper's Gaussian-mixture experiment as one function of (K, J, L, d, n_anchor, n_synthetic, repeats, seed).

Notation
    truth       K + J components of equal weight, means uniform on [0, 10]^d, covariances A A^T, A uniform on [0, 1]
    anchors     n_anchor samples of the truth's first K components, equally many of each (as near as n allows)
    generator   K + J + L components of equal weight: K with each component's mean and covariance among the anchors,
                J as in the truth, L irrelevant ones, drawn as the truth's were
    synthetic   n_synthetic samples of the generator
    W', W       maximum-likelihood mixtures: K components fitted to the anchors, K + J + L to the synthetic samples
    gap         divergence of W' from the truth - divergence of W from the truth: positive when synthetic data helped

The paper draws its covariances as B C^T with two *different* random matrices: no covariance, since it is not symmetric
and mostly not positive definite. (NumPy's sampler takes it without complaint and samples another law, the one of
covariance (Sigma^T Sigma)^(1/2).) Here they are A A^T. The paper has 50 anchors for each component and 200 synthetic
samples, in two dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ggmi_callbacks.verification.divergence import divergences, histogram_kl
from ggmi_callbacks.verification.mixtures import Mixture, fit
from ggmi_callbacks.verification.theory import theory
from ggmi_callbacks.verification.world import World, draw_world

_HISTOGRAM_SAMPLES = 1000  # as in the paper's script, which averages 100 such rounds; here the repeats average
_ELEMENTS = 2**27  # float64 numbers in the largest tensor held at once: 1 GiB


def mixture_protocol(
    K: int = 2,
    J: int = 2,
    L: int = 2,
    d: int = 2,
    n_anchor: int = 100,
    n_synthetic: int = 200,
    repeats: int = 100,
    seed: int = 0,
    *,
    draws: int = 2000,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Run the experiment ``repeats`` times at once and measure its gaps and the theory's own quantities.

    Args:
        K: components that the anchors cover.
        J: components of the truth that only the generator knows.
        L: irrelevant components of the generator.
        d: dimension.
        n_anchor: number of anchors, all components together.
        n_synthetic: number of synthetic samples.
        repeats: independent repetitions, each with a truth of its own.
        seed: the result is a function of it (on one kind of device).
        draws: Monte Carlo draws from each mixture.
        device: where to compute.

    Returns:
        Tensors [repeats], in nats. ``forward_*``, ``reverse_*`` and ``jensen_shannon_*`` are KL(fit, truth), KL(truth,
        fit) and JS for the ``anchor`` fit, the ``synthetic`` fit and their difference, the ``gap``, each with its Monte
        Carlo standard error ``*_error``; ``histogram_own_*`` and ``histogram_shared_*`` the histogram estimates of the
        forward divergence, with ``*_null``, the same estimate of KL(truth, truth) (d = 2 only); the rest is described
        in :func:`ggmi_callbacks.verification.theory.theory`.

    Raises:
        ValueError: if a size is too small for the experiment to be defined.

    Example:
        >>> result = mixture_protocol(K=2, J=2, L=2, n_anchor=60, n_synthetic=90, repeats=3, seed=0)
        >>> result["reverse_gap"].shape
        torch.Size([3])
    """
    _check(K, J, L, d, n_anchor, n_synthetic, repeats)
    rng = torch.Generator(device=device).manual_seed(seed)
    row = max(n_anchor, n_synthetic, 2 * draws) * max(d * (d + 3) // 2 + 1, K + J + L)
    group = max(1, _ELEMENTS // row)
    parts = []
    for start in range(0, repeats, group):
        world = draw_world(K, J, L, d, n_anchor, n_synthetic, min(group, repeats - start), rng)
        parts.append(_measure(world, K, draws, rng))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _check(K: int, J: int, L: int, d: int, n_anchor: int, n_synthetic: int, repeats: int) -> None:
    least = {
        "K": (K, 1),
        "J": (J, 0),
        "L": (L, 0),
        "d": (d, 1),
        "n_anchor": (n_anchor, 4 * K),
        "n_synthetic": (n_synthetic, 2 * (K + J + L)),
        "repeats": (repeats, 1),
    }
    for name, (value, low) in least.items():
        if value < low:
            raise ValueError(f"Expected `{name}` to be at least {low} here, but got {value}; raise it.")


def _measure(world: World, K: int, draws: int, rng: torch.Generator) -> dict[str, Tensor]:
    anchor_fit = fit(world.anchors, K, rng)
    synthetic_fit = fit(world.synthetic, world.generator.weights.shape[1], rng)
    result = _exact(world.truth, anchor_fit, synthetic_fit, draws, rng)
    if world.anchors.shape[-1] == 2:
        result |= _histograms(world.truth, anchor_fit, synthetic_fit, rng)
    return result | theory(world, anchor_fit, synthetic_fit, draws, rng)


def _exact(
    truth: Mixture, anchor_fit: Mixture, synthetic_fit: Mixture, draws: int, rng: torch.Generator
) -> dict[str, Tensor]:
    anchor = divergences(anchor_fit, truth, draws, rng)
    synthetic = divergences(synthetic_fit, truth, draws, rng)
    result = {}
    for name, a, s in zip(anchor._fields, anchor, synthetic, strict=True):
        for part, estimate in (("anchor", a), ("synthetic", s), ("gap", a.minus(s))):
            result[f"{name}_{part}"], result[f"{name}_{part}_error"] = estimate
    return result


def _histograms(truth: Mixture, anchor_fit: Mixture, synthetic_fit: Mixture, rng: torch.Generator) -> dict[str, Tensor]:
    target, again, anchor, synthetic = (
        mixture.sample(_HISTOGRAM_SAMPLES, rng) for mixture in (truth, truth, anchor_fit, synthetic_fit)
    )
    result = {}
    for name, shared in (("histogram_own", False), ("histogram_shared", True)):
        for part, samples in (("anchor", anchor), ("synthetic", synthetic), ("null", again)):
            result[f"{name}_{part}"] = histogram_kl(samples, target, shared=shared)
        result[f"{name}_gap"] = result[f"{name}_anchor"] - result[f"{name}_synthetic"]
    return result
