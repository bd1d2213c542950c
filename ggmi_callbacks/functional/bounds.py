r"""Bounds made of information: on GGMI, and on the generalisation error.

Notation:
    dI          information gain of the generator
    dH          H(S_anchor) - H(S_gen)
    H(S | W)    code length of the set S under the weights W; W was trained on S_gen, W' on S_anchor
    a           the free parameter of the theorem, a >= 0; a* the one at which the bound is GGMI itself
    n           samples of the training set whose information I(S; W) is known
    sigma       sub-Gaussian constant of the loss; half its range where it is bounded
    L, eta      contracting layers of the network, and the factor in (0, 1] by which each contracts
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
        bound: the bound at the ``a`` asked for.
        ggmi: what is bounded, dH + H(S_gen | W) - H(S_anchor | W').
        slack: bound - ggmi = dI + dH - a H(S_anchor | W). Negative: the entropies given contradict the
            theorem.
        a_star: (dI + dH) / H(S_anchor | W), at which the bound is GGMI. NaN where there is none: it would be
            negative, or H(S_anchor | W) is not positive, as differential entropies may be.
    """

    bound: Tensor | Interval
    ggmi: Tensor | Interval
    slack: Tensor | Interval
    a_star: Tensor


def check_parameter(a: float) -> None:
    """Refuse a negative parameter of the theorem."""
    if a < 0:
        raise ValueError(f"Expected argument `a` to be at least 0 but got {a}; a = 0 is the bound to report.")


def best_parameter(gain: Tensor, anchor_given_weights: Tensor) -> Tensor:
    """a* = (dI + dH) / H(S_anchor | W), at which the bound is GGMI itself; NaN where there is none."""
    exists = (anchor_given_weights > 0) & (gain >= 0)
    return torch.where(exists, gain / anchor_given_weights, torch.nan)


def ggmi_upper_bound(
    information_gain: Tensor,
    anchor_entropy: Tensor,
    synthetic_entropy: Tensor,
    synthetic_given_weights: Tensor,
    anchor_given_anchor_weights: Tensor,
    anchor_given_weights: Tensor | None = None,
    *,
    a: float = 0.0,
) -> Tensor:
    r"""Upper bound on GGMI through the information gain of the generator, nats.

    .. math::
        GGMI \le \Delta I - (a + 1) H(S_a \mid W) + 2 \Delta H + H(S_g \mid W) + \epsilon
             = \Delta I + 2 \Delta H + H(S_g \mid W) - H(S_a \mid W') - a \, H(S_a \mid W)

    with epsilon = H(S_a | W) - H(S_a | W'). Beside the identity for GGMI its slack is dI + dH - a H(S_a | W).
    At a = 0, the default, H(S_a | W) drops out.

    Args:
        information_gain: dI of the generator over the whole synthetic set.
        anchor_entropy: H(S_anchor), the prequential code length of the anchors.
        synthetic_entropy: H(S_gen), the prequential code length of the synthetic set.
        synthetic_given_weights: H(S_gen | W).
        anchor_given_anchor_weights: H(S_anchor | W').
        anchor_given_weights: H(S_anchor | W); needed for a > 0 alone.
        a: the free parameter, at least 0.

    Returns:
        The bound, of the shape of its arguments.

    Raises:
        ValueError: If ``a`` is negative, or positive without ``anchor_given_weights``.

    Source:
        Gan and Liu (ICLR 2025), the theorem on GGMI.

    Example:
        >>> from torch import tensor
        >>> code_lengths = tensor(9.0), tensor(8.0), tensor(5.0), tensor(4.0)
        >>> ggmi_upper_bound(tensor(3.0), *code_lengths)
        tensor(6.)
    """
    return ggmi_upper_bound_terms(
        information_gain,
        anchor_entropy,
        synthetic_entropy,
        synthetic_given_weights,
        anchor_given_anchor_weights,
        anchor_given_weights,
        a=a,
    ).bound


def ggmi_upper_bound_terms(
    information_gain: Tensor,
    anchor_entropy: Tensor,
    synthetic_entropy: Tensor,
    synthetic_given_weights: Tensor,
    anchor_given_anchor_weights: Tensor,
    anchor_given_weights: Tensor | None = None,
    *,
    a: float = 0.0,
) -> GGMIUpperBoundTerms:
    """:func:`ggmi_upper_bound` with GGMI itself, the slack between the two, and a*.

    Args:
        information_gain: as in :func:`ggmi_upper_bound`.
        anchor_entropy: as in :func:`ggmi_upper_bound`.
        synthetic_entropy: as in :func:`ggmi_upper_bound`.
        synthetic_given_weights: as in :func:`ggmi_upper_bound`.
        anchor_given_anchor_weights: as in :func:`ggmi_upper_bound`.
        anchor_given_weights: H(S_anchor | W); without it a* is NaN.
        a: as in :func:`ggmi_upper_bound`.

    Returns:
        A :class:`GGMIUpperBoundTerms` of tensors.

    Raises:
        ValueError: As :func:`ggmi_upper_bound`.

    Example:
        >>> from torch import tensor
        >>> code_lengths = tensor(9.0), tensor(8.0), tensor(5.0), tensor(4.0), tensor(8.0)
        >>> bound, ggmi, slack, a_star = ggmi_upper_bound_terms(tensor(3.0), *code_lengths)
        >>> float(bound), float(ggmi), float(slack), float(a_star)
        (6.0, 2.0, 4.0, 0.5)
    """
    check_tensors(
        information_gain=information_gain,
        anchor_entropy=anchor_entropy,
        synthetic_entropy=synthetic_entropy,
        synthetic_given_weights=synthetic_given_weights,
        anchor_given_anchor_weights=anchor_given_anchor_weights,
        anchor_given_weights=anchor_given_weights,
    )
    check_parameter(a)
    if a > 0 and anchor_given_weights is None:
        raise ValueError(
            f"Expected argument `anchor_given_weights` because a = {a} weighs it but got None; pass the code length "
            "of the anchors under W."
        )
    dh = anchor_entropy - synthetic_entropy
    ggmi = dh + synthetic_given_weights - anchor_given_anchor_weights
    slack = information_gain + dh
    a_star = torch.full_like(slack, torch.nan)
    if anchor_given_weights is not None:
        a_star = best_parameter(slack, anchor_given_weights)
        slack = slack - a * anchor_given_weights
    return GGMIUpperBoundTerms(ggmi + slack, ggmi, slack, a_star)


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

    It asks for the fixed-law I(S; W). I_mix lies above it, so it gives a valid and looser bound. A lower
    bound on it does not in general. The loss-difference information is a happy exception: summed over n
    pairs, with sigma the *full* range of the loss and no contraction, it bounds the error too (Wang and Mao,
    theorem for ld-MI).

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
