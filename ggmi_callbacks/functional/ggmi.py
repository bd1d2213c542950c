r"""Generalisation gain via mutual information, GGMI = I(S_anchor; W') - I(S_gen; W), in nats.

It is positive when training on the synthetic set stores less that is specific to its sample than training on
the anchors would, so that its generalisation bound is the tighter one.

Notation:
    S_anchor, S_gen   the real anchors and the synthetic training set
    W, W'             weights trained on S_gen, and on S_anchor instead (a shadow run)
    I(S; W)           weight information, in either estimate of :func:`weight_information`
    H(S)              prequential code length of S; H(S | W) its code length under W
    dH                H(S_anchor) - H(S_gen); exactly, GGMI = dH + H(S_gen | W) - H(S_anchor | W')

Two estimates, never to be mixed up:

    mixture           both terms from code lengths. Nothing is conditioned on: either law is unknown, and
                      learning the law counts as information.
    loss_difference   both terms from twins, given the laws that the twins come from: of the anchors, and of
                      the generator with its prompts. Each term is a lower bound; their difference is no
                      bound.
"""

from __future__ import annotations

from typing import NamedTuple, overload

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_pair, check_tensors, check_totals
from ggmi_callbacks.functional._interval import Interval, check_confidence, like, t_interval
from ggmi_callbacks.functional.weight_information import (
    ESTIMATORS,
    Estimator,
    _weight_information_compute,
    _weight_information_mean,
    _weight_information_samples,
    _weight_information_update,
)

CONDITIONING = {
    "mixture": "nothing (the laws are unknown)",
    "loss_difference": "the laws of both sets (anchors; generator and prompts)",
}


class GGMITerms(NamedTuple):
    """GGMI with all that a reader needs to judge it; nats, and counts.

    Attributes:
        ggmi: anchor_information - synthetic_information, in total.
        anchor_information: I(S_anchor; W').
        synthetic_information: I(S_gen; W).
        anchor_samples: number of anchors that the first term adds up over.
        synthetic_samples: number of synthetic samples that the second term adds up over.
        anchor_tokens: their target tokens; NaN where token counts were not given.
        synthetic_tokens: the same of the synthetic samples.
        per_sample: difference of the two terms, each per sample of its own set.
        per_token: difference of the two terms, each per token of its own set; NaN without token counts.
        conditioning: what both terms are conditioned on.
    """

    ggmi: Tensor | Interval
    anchor_information: Tensor | Interval
    synthetic_information: Tensor | Interval
    anchor_samples: Tensor
    synthetic_samples: Tensor
    anchor_tokens: Tensor
    synthetic_tokens: Tensor
    per_sample: Tensor | Interval
    per_token: Tensor | Interval
    conditioning: str


def _combine(
    states: tuple[Tensor, Tensor],
    estimator: Estimator,
    scales: tuple[Tensor | float, Tensor | float],
    confidence: float | None,
) -> Tensor | Interval:
    """scales[0] * (anchor information per sample) - scales[1] * (synthetic information per sample)."""
    (a, var_a, dof_a), (g, var_g, dof_g) = (_weight_information_mean(state, estimator) for state in states)
    value = scales[0] * a - scales[1] * g
    if confidence is None:
        return value
    variance = scales[0] ** 2 * var_a + scales[1] ** 2 * var_g  # the two runs are independent
    return t_interval(value, variance, torch.minimum(dof_a, dof_g), confidence)


def _ggmi_samples(
    states: tuple[Tensor, Tensor], estimator: Estimator, totals: tuple[float | None, float | None]
) -> tuple[Tensor, Tensor]:
    """Number of samples that each term adds up over."""
    counts = [_weight_information_samples(state, estimator) for state in states]
    anchors, synthetic = (
        count if total is None else torch.full_like(count, total) for count, total in zip(counts, totals, strict=True)
    )
    return anchors, synthetic


def _ggmi_compute(
    states: tuple[Tensor, Tensor],
    estimator: Estimator,
    totals: tuple[float | None, float | None],
    confidence: float | None,
) -> Tensor | Interval:
    return _combine(states, estimator, _ggmi_samples(states, estimator, totals), confidence)


def _ggmi_terms(
    states: tuple[Tensor, Tensor],
    tokens: Tensor,
    estimator: Estimator,
    totals: tuple[float | None, float | None],
    confidence: float | None,
) -> GGMITerms:
    """All terms, from two states and the target tokens [2] seen in each set (NaN where unknown)."""
    samples = _ggmi_samples(states, estimator, totals)
    length = [  # tokens of an average sample
        count / _weight_information_samples(state, estimator) for count, state in zip(tokens, states, strict=True)
    ]
    return GGMITerms(
        ggmi=_combine(states, estimator, samples, confidence),
        anchor_information=_weight_information_compute(states[0], estimator, samples[0], confidence),
        synthetic_information=_weight_information_compute(states[1], estimator, samples[1], confidence),
        anchor_samples=samples[0],
        synthetic_samples=samples[1],
        anchor_tokens=length[0] * samples[0],
        synthetic_tokens=length[1] * samples[1],
        per_sample=_combine(states, estimator, (1.0, 1.0), confidence),
        per_token=_combine(states, estimator, (1 / length[0], 1 / length[1]), confidence),
        conditioning=CONDITIONING[estimator],
    )


def _ggmi_states(
    anchor_first: Tensor,
    anchor_final: Tensor,
    synthetic_first: Tensor,
    synthetic_final: Tensor,
    estimator: Estimator,
) -> tuple[Tensor, Tensor]:
    check_pair(anchor_first=anchor_first, anchor_final=anchor_final)
    check_pair(synthetic_first=synthetic_first, synthetic_final=synthetic_final)
    check_choice("estimator", estimator, ESTIMATORS)
    return (
        _weight_information_update(anchor_first, anchor_final, estimator),
        _weight_information_update(synthetic_first, synthetic_final, estimator),
    )


@overload
def ggmi(
    anchor_first: Tensor,
    anchor_final: Tensor,
    synthetic_first: Tensor,
    synthetic_final: Tensor,
    *,
    estimator: Estimator = ...,
    anchor_total: float | None = ...,
    synthetic_total: float | None = ...,
    confidence: None = ...,
) -> Tensor: ...
@overload
def ggmi(
    anchor_first: Tensor,
    anchor_final: Tensor,
    synthetic_first: Tensor,
    synthetic_final: Tensor,
    *,
    estimator: Estimator = ...,
    anchor_total: float | None = ...,
    synthetic_total: float | None = ...,
    confidence: float,
) -> Interval: ...
def ggmi(
    anchor_first: Tensor,
    anchor_final: Tensor,
    synthetic_first: Tensor,
    synthetic_final: Tensor,
    *,
    estimator: Estimator = "mixture",
    anchor_total: float | None = None,
    synthetic_total: float | None = None,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Generalisation gain via mutual information of a synthetic set over the anchors, in total, nats.

    .. math::
        GGMI = I(S_{anchor}; W') - I(S_{gen}; W)

    Both terms are estimated alike; see :func:`weight_information` for what each estimate means. ``"mixture"``
    conditions on nothing, ``"loss_difference"`` on the laws of both sets. The sign may differ between them: a
    generator that merely recycles the anchors gains nothing where the anchors behind it count as random, and may gain
    much where the generator is given (:func:`gaussian_ggmi`). The loss-difference terms are lower bounds, so their
    difference is no bound on GGMI.

    Args:
        anchor_first: [n_a] code length of each anchor before training on it (nats); for ``"loss_difference"``
            the loss of its twin that was not trained on.
        anchor_final: [n_a] code length of each anchor under W'.
        synthetic_first: [n_g] code length of each synthetic sample before training on it, or of its twin.
        synthetic_final: [n_g] code length of each synthetic sample under W.
        estimator: ``"mixture"`` or ``"loss_difference"``, for both terms.
        anchor_total: number of anchors when those given are a random subsample. Default n_a.
        synthetic_total: number of synthetic samples when those given are a random subsample. Default n_g.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval over samples.

    Returns:
        0-dim tensor, or an :class:`Interval`.

    Raises:
        ValueError: If shapes within a pair differ or are not [n], or an argument is out of range.

    Source:
        Gan and Liu, Towards a theoretical understanding of synthetic data in LLM post-training (ICLR 2025).

    Example:
        >>> from torch import tensor
        >>> ggmi(tensor([3.0, 2.0]), tensor([1.0, 1.0]), tensor([2.0, 2.0, 1.0]), tensor([1.5, 1.5, 1.0]))
        tensor(2.)
    """
    states = _ggmi_states(anchor_first, anchor_final, synthetic_first, synthetic_final, estimator)
    check_confidence(confidence)
    check_totals(anchor_total=anchor_total, synthetic_total=synthetic_total)
    result = _ggmi_compute(states, estimator, (anchor_total, synthetic_total), confidence)
    return like(result, anchor_first, anchor_final, synthetic_first, synthetic_final)


def ggmi_terms(
    anchor_first: Tensor,
    anchor_final: Tensor,
    synthetic_first: Tensor,
    synthetic_final: Tensor,
    *,
    anchor_tokens: Tensor | None = None,
    synthetic_tokens: Tensor | None = None,
    estimator: Estimator = "mixture",
    anchor_total: float | None = None,
    synthetic_total: float | None = None,
    confidence: float | None = None,
) -> GGMITerms:
    """:func:`ggmi` with both terms, the sizes of both sets, and the values per sample and per token.

    Args:
        anchor_first: as in :func:`ggmi`.
        anchor_final: as in :func:`ggmi`.
        synthetic_first: as in :func:`ggmi`.
        synthetic_final: as in :func:`ggmi`.
        anchor_tokens: [n_a] target tokens of each anchor (or their sum, 0-dim).
        synthetic_tokens: [n_g] target tokens of each synthetic sample (or their sum, 0-dim).
        estimator: as in :func:`ggmi`.
        anchor_total: as in :func:`ggmi`.
        synthetic_total: as in :func:`ggmi`.
        confidence: as in :func:`ggmi`; every information then is an :class:`Interval`.

    Returns:
        A :class:`GGMITerms`, in float64.

    Raises:
        ValueError: As :func:`ggmi`.

    Example:
        >>> from torch import tensor
        >>> terms = ggmi_terms(
        ...     tensor([3.0, 2.0]), tensor([1.0, 1.0]), tensor([2.0, 2.0]), tensor([1.5, 1.0]),
        ...     anchor_tokens=tensor([2, 1]), synthetic_tokens=tensor([3, 3]),
        ... )
        >>> float(terms.ggmi), float(terms.per_sample), float(terms.per_token)
        (1.5, 0.75, 0.75)
    """
    states = _ggmi_states(anchor_first, anchor_final, synthetic_first, synthetic_final, estimator)
    check_confidence(confidence)
    check_totals(anchor_total=anchor_total, synthetic_total=synthetic_total)
    check_tensors(anchor_tokens=anchor_tokens, synthetic_tokens=synthetic_tokens)
    given = (anchor_tokens, synthetic_tokens)
    tokens = torch.stack([states[0].new_tensor(torch.nan) if t is None else t.double().sum() for t in given])
    return _ggmi_terms(states, tokens, estimator, (anchor_total, synthetic_total), confidence)
