r"""Shared information that is known exactly; see :func:`shared_information`.

Notation:
    m           what the generator M knows and one draw does not show: M(p), for an observer to whom it is random
    y, Y        an answer to p, and k siblings: independent of each other, given m
    s           signal-to-noise ratio: m ~ N(0, s) and y = m + eps, eps ~ N(0, 1)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive, check_tensors

_LISTS = 2**20  # of answers, at most summed over


def gaussian_shared_information(s: float, siblings: float = 1) -> float:
    r"""I(y; Y) of y = m + eps, m ~ N(0, s), eps ~ N(0, 1), with k siblings, in nats.

    .. math::
        I = \tfrac12 \log\frac{(1 + s)(1 + k s)}{1 + (k + 1) s}, \qquad
        k = 1: \; \tfrac12 \log\frac{(1 + s)^2}{1 + 2 s}, \qquad
        k \to \infty: \; \tfrac12 \log(1 + s) = I(m; y)

    The variance of y is 1 + s. Its siblings leave m a posterior of variance 1 / (1/s + k) = s / (1 + k s), so that of y
    given Y is 1 + s / (1 + k s) = (1 + (k + 1) s) / (1 + k s). h(y) - h(y | Y) is half the logarithm of their ratio.

    Args:
        s: variance of what answers share over that of their noise.
        siblings: k, how many other answers are seen; may be infinite.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> [round(gaussian_shared_information(s=4.0, siblings=k), 4) for k in (1, 3, math.inf)]
        [0.5108, 0.6706, 0.8047]
    """
    check_positive(s=s, siblings=siblings)
    left = s / (1 + siblings * s)  # variance of m given the siblings
    return (math.log1p(s) - math.log1p(left)) / 2


def table_shared_information(joint: Tensor, siblings: float = 1) -> Tensor:
    r"""I(y; Y) of a finite table p(m, y), with k siblings, in nats.

    .. math::
        I(y; y') = \sum_{y, y'} p(y, y') \log\frac{p(y, y')}{p(y) p(y')}, \qquad
        p(y, y') = \sum_m p(m) p(y \mid m) p(y' \mid m)

    and so on for more siblings, up to I(m; y) for infinitely many, which is the most that siblings can say.

    Args:
        joint: [m, y] non-negative weights; they are normalised to probabilities.
        siblings: k, how many other answers are seen; may be infinite. The sum is over all lists of k answers.

    Returns:
        0-dim tensor.

    Raises:
        ValueError: If the table is no matrix of non-negative weights, or ``siblings`` is no positive whole number, or
            too large to sum over.

    Example:
        >>> import torch
        >>> joint = torch.tensor([[0.4, 0.1], [0.1, 0.4]])
        >>> [round(float(table_shared_information(joint, k)), 4) for k in (1, 3, math.inf)]
        [0.0663, 0.1255, 0.1927]
    """
    check_tensors(joint=joint)
    if joint.ndim != 2 or not (joint >= 0).all() or not joint.sum() > 0:
        raise ValueError(
            "Expected argument `joint` to be a table [m, y] of non-negative weights but got shape "
            f"{list(joint.shape)}; pass counts or probabilities."
        )
    outputs = joint.shape[1]
    if not (siblings >= 1 and (math.isinf(siblings) or (siblings == int(siblings) and outputs**siblings <= _LISTS))):
        raise ValueError(
            f"Expected argument `siblings` to be a whole number, with at most {_LISTS} lists of so many answers, or "
            f"infinite, but got {siblings} for {outputs} answers; pass math.inf for what many siblings say."
        )
    table = joint.double() / joint.double().sum()
    prior = table.sum(1)
    law = table / prior[:, None].clamp_min(torch.finfo(table.dtype).tiny)  # p(y | m)
    seen = prior.diag() if math.isinf(siblings) else prior[None]  # [lists, m] p(Y, m); many siblings tell m
    for _ in range(0 if math.isinf(siblings) else int(siblings)):
        seen = (seen[:, None] * law.mT).flatten(0, 1)
    both = seen @ law
    entr = torch.special.entr
    information = entr(both.sum(0)).sum() + entr(both.sum(1)).sum() - entr(both).sum()
    return information.to(torch.promote_types(joint.dtype, torch.float32))
