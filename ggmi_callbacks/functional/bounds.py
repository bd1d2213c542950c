r"""Bounds made of information: on GGMI, and on the generalisation error.

Notation:
    p           the prompt, a function of S_anchor that keeps all that the generator is given of it
    dI          information gain of the generator
    dH          H(S_anchor) - H(S_gen)
    H(S | W)    code length of the set S under the weights W; W was trained on S_gen, W' on S_anchor
    a           H(S_anchor | W') / H(S_anchor | W), which the theorem assumes to be at least 0
    epsilon     H(S_anchor | W) - H(S_anchor | p)
    n           samples of the training set whose information I(S; W) is known
    sigma       sub-Gaussian constant of the loss; half its range where it is bounded
    L, eta      contracting layers of the network, and the factor in (0, 1] by which each contracts

The theorems of Gan and Liu are given as two independent recollections have them; the text of the paper was not at hand.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive, check_tensors
from ggmi_callbacks.functional._interval import Interval


class GGMIUpperBoundTerms(NamedTuple):
    """The upper bound on GGMI beside what it bounds; 0-dim tensors (or intervals), nats.

    Attributes:
        bound: the bound.
        ggmi: what is bounded, dH + H(S_gen | W) - H(S_anchor | W').
        slack: bound - ggmi = dI + dH - H(S_anchor | p), which does not depend on W.
        a: H(S_anchor | W') / H(S_anchor | W); the theorem assumes it to be at least 0. NaN where H(S_anchor | W) is
            not given.
        epsilon: H(S_anchor | W) - H(S_anchor | p), in nats. NaN where H(S_anchor | W) is not given.
    """

    bound: Tensor | Interval
    ggmi: Tensor | Interval
    slack: Tensor | Interval
    a: Tensor
    epsilon: Tensor


def ggmi_upper_bound(
    *,
    information_gain: Tensor,
    anchor_entropy: Tensor,
    synthetic_entropy: Tensor,
    synthetic_given_weights: Tensor,
    anchor_given_anchor_weights: Tensor,
    anchor_given_prompt: Tensor,
) -> Tensor:
    r"""Upper bound on GGMI through the information gain of the generator, nats.

    .. math::
        GGMI \le \Delta I - (a + 1) H(S_a \mid W) + 2 \Delta H + H(S_g \mid W) + \epsilon
             = \Delta I + 2 \Delta H + H(S_g \mid W) - H(S_a \mid W') - H(S_a \mid p)

    with a = H(S_a | W') / H(S_a | W) and epsilon = H(S_a | W) - H(S_a | p), so that H(S_a | W) drops out. Beside the
    identity for GGMI its slack is dI + dH - H(S_a | p). For S_gen = M(p) and a discrete prompt that is a function of
    the anchors this is I(S_a; p) - I(h; S_gen), where h is what reaches the output of the prompt: at least 0 by the
    data processing inequality, and free of the unit of length. A curation filter after M, or a prompt that holds more
    than the anchors, may make it negative.

    Args:
        information_gain: dI of the generator over the whole synthetic set.
        anchor_entropy: H(S_anchor), the prequential code length of the anchors.
        synthetic_entropy: H(S_gen), the prequential code length of the synthetic set.
        synthetic_given_weights: H(S_gen | W).
        anchor_given_anchor_weights: H(S_anchor | W').
        anchor_given_prompt: H(S_anchor | p), the code length of the anchors where the prompt is known.

    Returns:
        The bound, of the shape of its arguments.

    Raises:
        TypeError: If an argument is no tensor.

    Source:
        Gan and Liu (ICLR 2025), theorem 4.10, as recalled.

    Example:
        >>> from torch import tensor
        >>> ggmi_upper_bound(
        ...     information_gain=tensor(3.0), anchor_entropy=tensor(9.0), synthetic_entropy=tensor(8.0),
        ...     synthetic_given_weights=tensor(5.0), anchor_given_anchor_weights=tensor(4.0),
        ...     anchor_given_prompt=tensor(2.0),
        ... )
        tensor(4.)
    """
    return ggmi_upper_bound_terms(
        information_gain=information_gain,
        anchor_entropy=anchor_entropy,
        synthetic_entropy=synthetic_entropy,
        synthetic_given_weights=synthetic_given_weights,
        anchor_given_anchor_weights=anchor_given_anchor_weights,
        anchor_given_prompt=anchor_given_prompt,
    ).bound


def ggmi_upper_bound_terms(
    *,
    information_gain: Tensor,
    anchor_entropy: Tensor,
    synthetic_entropy: Tensor,
    synthetic_given_weights: Tensor,
    anchor_given_anchor_weights: Tensor,
    anchor_given_prompt: Tensor,
    anchor_given_weights: Tensor | None = None,
) -> GGMIUpperBoundTerms:
    """:func:`ggmi_upper_bound` with GGMI itself, the slack between the two, and what the theorem assumes.

    Args:
        information_gain: as in :func:`ggmi_upper_bound`.
        anchor_entropy: as in :func:`ggmi_upper_bound`.
        synthetic_entropy: as in :func:`ggmi_upper_bound`.
        synthetic_given_weights: as in :func:`ggmi_upper_bound`.
        anchor_given_anchor_weights: as in :func:`ggmi_upper_bound`.
        anchor_given_prompt: as in :func:`ggmi_upper_bound`.
        anchor_given_weights: H(S_anchor | W); ``a`` and ``epsilon`` need it, the bound does not.

    Returns:
        A :class:`GGMIUpperBoundTerms` of tensors.

    Raises:
        TypeError: As :func:`ggmi_upper_bound`.

    Example:
        >>> from torch import tensor
        >>> terms = ggmi_upper_bound_terms(
        ...     information_gain=tensor(3.0), anchor_entropy=tensor(9.0), synthetic_entropy=tensor(8.0),
        ...     synthetic_given_weights=tensor(5.0), anchor_given_anchor_weights=tensor(4.0),
        ...     anchor_given_prompt=tensor(2.0), anchor_given_weights=tensor(8.0),
        ... )
        >>> [float(term) for term in terms]  # bound, ggmi, slack, a, epsilon
        [4.0, 2.0, 2.0, 0.5, 6.0]
    """
    check_tensors(
        information_gain=information_gain,
        anchor_entropy=anchor_entropy,
        synthetic_entropy=synthetic_entropy,
        synthetic_given_weights=synthetic_given_weights,
        anchor_given_anchor_weights=anchor_given_anchor_weights,
        anchor_given_prompt=anchor_given_prompt,
        anchor_given_weights=anchor_given_weights,
    )
    dh = anchor_entropy - synthetic_entropy
    ggmi = dh + synthetic_given_weights - anchor_given_anchor_weights
    slack = information_gain + dh - anchor_given_prompt
    known = torch.full_like(slack, torch.nan) if anchor_given_weights is None else anchor_given_weights
    a, epsilon = anchor_given_anchor_weights / known, known - anchor_given_prompt
    return GGMIUpperBoundTerms(ggmi + slack, ggmi, slack, a, epsilon)


def generalization_bound(
    weight_information: Tensor,
    n: Tensor | float,
    *,
    sigma: float = 0.5,
    layers: int = 0,
    eta: float = 1.0,
) -> Tensor:
    r"""Bound on the expected generalisation error by what the weights store about their sample.

    .. math::
        \exp\left(-\tfrac L2 \log \tfrac 1\eta\right) \sqrt{\frac{2 \sigma^2 I(S; W)}{n}}

    It asks for the fixed-law I(S; W). I_mix lies above it, so it gives a valid and looser bound. A lower bound on
    I(S; W) gives none in general. The loss-difference information is an exception: summed over n pairs, with sigma the
    *full* range of the loss and no contraction, it bounds the error too (Wang and Mao, theorem for ld-MI).

    Args:
        weight_information: I(S; W) in nats. A small negative estimate is read as zero.
        n: number of samples in S.
        sigma: sub-Gaussian constant of the loss; the default holds for a loss in [0, 1].
        layers: number L of contracting layers; 0 leaves the bound of Xu and Raginsky.
        eta: contraction factor of each, in (0, 1].

    Returns:
        The bound, in units of the loss, of the shape of ``weight_information``.

    Raises:
        ValueError: If ``n`` or ``sigma`` is not positive, ``layers`` negative, or ``eta`` outside (0, 1].

    Source:
        Xu and Raginsky (NeurIPS 2017), theorem 1; Zhang, Liu and Tao (2018) for the contraction.

    Example:
        >>> from torch import tensor
        >>> generalization_bound(tensor(8.0), n=400)
        tensor(0.1000)
    """
    check_tensors(weight_information=weight_information)
    if not isinstance(n, Tensor):
        check_positive(n=n)
    check_positive(sigma=sigma)
    if layers < 0 or not 0 < eta <= 1:
        raise ValueError(
            "Expected arguments `layers` to be at least 0 and `eta` to be in (0, 1] but got "
            f"{layers} and {eta}; leave both out for a network without contraction."
        )
    contraction = math.exp(layers / 2 * math.log(eta))
    return contraction * sigma * (2 * weight_information.clamp_min(0.0) / n).sqrt()


def synthetic_generalization_bound(
    *,
    information_gain: Tensor,
    compression_bottleneck: Tensor,
    generator_entropy: Tensor,
    noise_entropy: Tensor,
    prompt_entropy: Tensor,
    n: Tensor | float,
    sigma: float = 0.5,
    layers: int = 0,
    eta: float = 1.0,
) -> Tensor:
    r"""Bound on the generalisation error of training on synthetic data, by the terms that generate it.

    .. math::
        \exp\left(-\tfrac L2 \log \tfrac 1\eta\right)
        \sqrt{\frac{2 \sigma^2 \left[-\Delta I + B_{syn} + H(e_M) + \delta_{\epsilon,p}\right]}{n}}, \quad
        \delta_{\epsilon,p} = H(\epsilon) - H(p)

    The bracket stands for I(S_gen; W). Its twin for the anchors is :func:`generalization_bound` of I(S_anchor; W')
    with their own n and eta. Entropies are those of discrete variables, over whole sets.

    Args:
        information_gain: dI of the generator, 0-dim.
        compression_bottleneck: B_syn, the paper's bound on what training can keep of the generated data.
        generator_entropy: H(e_M), of the generator's own factor.
        noise_entropy: H(epsilon), of what curation adds; 0 without any.
        prompt_entropy: H(p).
        n: number of synthetic samples.
        sigma: as in :func:`generalization_bound`.
        layers: as in :func:`generalization_bound`.
        eta: as in :func:`generalization_bound`.

    Returns:
        The bound, in units of the loss.

    Raises:
        TypeError: If a term is no tensor.
        ValueError: If a term is not known (NaN or infinite), the bracket is negative, or a constant is out of range.

    Source:
        Gan and Liu (ICLR 2025), as recalled; the definition of B_syn was not at hand, so that it has to be given.

    Example:
        >>> from torch import tensor
        >>> synthetic_generalization_bound(
        ...     information_gain=tensor(4.0), compression_bottleneck=tensor(9.0), generator_entropy=tensor(5.0),
        ...     noise_entropy=tensor(0.0), prompt_entropy=tensor(2.0), n=400,
        ... )
        tensor(0.1000)
    """
    terms = {
        "information_gain": information_gain,
        "compression_bottleneck": compression_bottleneck,
        "generator_entropy": generator_entropy,
        "noise_entropy": noise_entropy,
        "prompt_entropy": prompt_entropy,
    }
    for name, term in terms.items():
        if term is None or (isinstance(term, Tensor) and not torch.isfinite(term).all()):
            raise ValueError(
                f"Expected argument `{name}` to be known but got {term}; without it there is no such bound: use "
                "`generalization_bound` with I(S_gen; W)."
            )
    check_tensors(**terms)
    bracket = -information_gain + compression_bottleneck + generator_entropy + noise_entropy - prompt_entropy
    if not (bracket >= 0).all():
        raise ValueError(
            f"Expected the terms to add up to at least 0, as information does, but got {float(bracket.min()):.4g}; "
            "pass entropies of discrete variables over the whole set: differential ones depend on the unit of length."
        )
    return generalization_bound(bracket, n, sigma=sigma, layers=layers, eta=eta)
