r"""The quantities that the theory speaks of, measured in the mixture experiment with this package's own functions.

Notation (nats; one value for each of B repeats)
    dI        H(generator's output | anchors), per synthetic sample: the entropy of the generator's mixture, since the
              prompt is the anchors whole
    I_mix     prequential code length of a sample minus its code length under the final fit
    ld        loss-difference information: what a fit's losses say about which of two twins it was fitted to, a lower
              bound on I_fix, at most log 2 per sample
    slack     of the paper's bound on GGMI, dI + dH - H(S_anchor | p). The prompt writes the anchors with two digits
              after the point, and H(S_anchor | p) is what the digits after those hold

A prequential code needs a law to begin with. It codes the first quarter of a sample under the moments of the law that
means and covariances are drawn from (known here), the second quarter under a mixture fitted to the first, the rest
under one fitted to the first half; each fit is mixed with the first law, which gets the weight of one sample for each
component. It is a plug-in estimate, and a maximum-likelihood fit is no draw from a posterior, so it errs upwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ggmi_callbacks.functional import ggmi, weight_information
from ggmi_callbacks.functional.bounds import ggmi_upper_bound_terms
from ggmi_callbacks.verification.divergence import entropy
from ggmi_callbacks.verification.mixtures import SIDE, Mixture, fit

if TYPE_CHECKING:
    from ggmi_callbacks.verification.world import World

_DIGIT = 0.01  # of the prompt, on a cube of side 10


def theory(
    world: World, anchor_fit: Mixture, synthetic_fit: Mixture, draws: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """Every quantity of the theory, each [B].

    Returns:
        ``information_gain``: dI per sample from the generator's log-probabilities of its own n_synthetic outputs;
        ``information_gain_true``: the same from many draws. Totals over a set: ``weight_information_anchor``,
        ``weight_information_synthetic`` (I_mix) and ``ggmi_mixture``, their difference; ``ld_information_anchor``,
        ``ld_information_synthetic`` and ``ggmi_loss_difference``; ``bound`` and ``slack``; and ``a``, the ratio that
        the theorem assumes to be at least 0. Per sample: ``generalisation_gap_anchor``, ``_synthetic`` (loss on twins
        minus loss on the sample itself) and ``_difference``, anchors minus synthetic.
    """
    first_anchor = _prequential(world.anchors, anchor_fit.weights.shape[1], rng)
    first_synthetic = _prequential(world.synthetic, synthetic_fit.weights.shape[1], rng)
    anchor, synthetic = -anchor_fit.log_prob(world.anchors), -synthetic_fit.log_prob(world.synthetic)
    anchor_twin, synthetic_twin = (
        -anchor_fit.log_prob(world.anchor_twins),
        -synthetic_fit.log_prob(world.synthetic_twins),
    )
    log_prob = world.generator.log_prob(world.synthetic)
    terms = ggmi_upper_bound_terms(
        information_gain=-log_prob.sum(-1),
        anchor_entropy=first_anchor.sum(-1),
        synthetic_entropy=first_synthetic.sum(-1),
        synthetic_given_weights=synthetic.sum(-1),
        anchor_given_anchor_weights=anchor.sum(-1),
        anchor_given_prompt=anchor.new_full(anchor.shape[:1], world.anchors[0].numel() * math.log(_DIGIT)),
        anchor_given_weights=-synthetic_fit.log_prob(world.anchors).sum(-1),
    )
    gaps = (anchor_twin - anchor).mean(-1), (synthetic_twin - synthetic).mean(-1)
    return {
        "information_gain": -log_prob.mean(-1),
        "information_gain_true": entropy(world.generator, draws, rng).value,
        **_mixture_terms(first_anchor, anchor, first_synthetic, synthetic),
        **_loss_difference_terms(anchor_twin, anchor, synthetic_twin, synthetic),
        "bound": terms.bound,
        "slack": terms.slack,
        "a": terms.a,
        "generalisation_gap_anchor": gaps[0],
        "generalisation_gap_synthetic": gaps[1],
        "generalisation_gap_difference": gaps[0] - gaps[1],
    }


def _mixture_terms(first_a: Tensor, final_a: Tensor, first_g: Tensor, final_g: Tensor) -> dict[str, Tensor]:
    return {
        "weight_information_anchor": torch.vmap(weight_information)(first_a, final_a),
        "weight_information_synthetic": torch.vmap(weight_information)(first_g, final_g),
        "ggmi_mixture": torch.vmap(ggmi)(first_a, final_a, first_g, final_g),
    }


def _loss_difference_terms(out_a: Tensor, in_a: Tensor, out_g: Tensor, in_g: Tensor) -> dict[str, Tensor]:
    def information(held_out: Tensor, held_in: Tensor) -> Tensor:  # it counts pairs, which vmap cannot
        pairs = zip(held_out, held_in, strict=True)
        return torch.stack([weight_information(out, inside, estimator="loss_difference") for out, inside in pairs])

    anchor, synthetic = information(out_a, in_a), information(out_g, in_g)
    return {
        "ld_information_anchor": anchor,
        "ld_information_synthetic": synthetic,
        "ggmi_loss_difference": anchor - synthetic,
    }


def _prequential(x: Tensor, components: int, rng: torch.Generator) -> Tensor:
    """Code length [B, n] of each sample given those before its block; see the head of this module."""
    n = x.shape[1]
    prior = _prior(x).log_prob(x)
    length = -prior
    for start in (n // 16, n // 8, n // 4, n // 2):
        size = min(components, start // 2)
        weight = math.log(size / (start + size))
        fitted = fit(x[:, :start], size, rng).log_prob(x[:, start:]) + math.log(start / (start + size))
        length[:, start:] = -torch.logaddexp(fitted, prior[:, start:] + weight)
    return length


def _prior(x: Tensor) -> Mixture:
    """One Gaussian with the mean and covariance of a sample of a component drawn as the protocol draws it."""
    d = x.shape[-1]
    identity = torch.eye(d, dtype=x.dtype, device=x.device)
    # A uniform on [0, 1]: E[A A^T] is d/3 on the diagonal, d/4 off it.
    covariance = (SIDE**2 / 12 + d / 12) * identity + d / 4
    means = x.new_full((len(x), 1, d), SIDE / 2)
    return Mixture(x.new_ones(len(x), 1), means, torch.linalg.cholesky(covariance).expand(len(x), 1, d, d))
