"""Mutual information of paired samples, by any estimator."""

from __future__ import annotations

from typing import overload

from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice
from ggmi_callbacks.functional._interval import Interval, check_confidence, like
from ggmi_callbacks.functional._samples import as_samples, check_rows
from ggmi_callbacks.functional.mutual_information._by_name import (
    ESTIMATORS,
    MutualInformationEstimator,
    estimate_by_name,
)


@overload
def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    estimator: MutualInformationEstimator = ...,
    k: int = ...,
    seed: int = ...,
    progress: bool = ...,
    confidence: None = ...,
) -> Tensor: ...
@overload
def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    estimator: MutualInformationEstimator = ...,
    k: int = ...,
    seed: int = ...,
    progress: bool = ...,
    confidence: float,
) -> Interval: ...
def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    estimator: MutualInformationEstimator = "auto",
    k: int = 5,
    seed: int = 0,
    progress: bool = True,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Mutual information I(x; y) of paired samples.

    .. math::
        I(x; y) = E \log \frac{p(x, y)}{p(x)\, p(y)}

    ``"gaussian"`` and ``"matrix"`` are differentiable, the others return a constant. For a null control pass
    shuffled pairs, ``y[torch.randperm(n)]``: the truth is then zero.

    Args:
        x: [n, d_x] or [n] samples.
        y: [n, d_y] or [n] samples; row i belongs to row i of x.
        estimator: see the table in :mod:`ggmi_callbacks.functional.mutual_information`. What ``"auto"`` chose is in
            :func:`choose_estimator`, and logged at level INFO. ``"infonce"`` trains five critics, which takes seconds
            to a minute, and so does ``"auto"`` where it needs them; the others take less.
        k: number of neighbours, for ``"ksg"``, ``"canonical_ksg"`` and ``"auto"``.
        seed: seed of what is random in ``"auto"``, ``"canonical_ksg"`` and ``"infonce"``; no global random state
            moves.
        progress: show a progress bar while a critic is trained.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval from the spread of the pointwise
            information (with neighbours, twice its variance, as their values are correlated); bias is not part of it.

    Returns:
        0-dim tensor in nats, at least zero, or an :class:`Interval`.

    Raises:
        ValueError: If shapes do not match, an argument is out of range, there are too few samples (or too many for
            ``"matrix"``), samples are copies of each other or tied where that matters, or columns depend on each
            other linearly where that matters.

    Warns:
        UserWarning: If ``"ksg"`` or ``"canonical_ksg"`` is out of its range and so too low, or that ``"matrix"`` is
            another quantity.

    Source:
        Kraskov et al., Phys. Rev. E 69, 066138 (2004) for ``"ksg"``; Sanchez Giraldo et al. (2015) for
        ``"matrix"``; van den Oord et al. (2018) for ``"infonce"``; the rule of ``"auto"`` is ours.

    Example:
        >>> import torch
        >>> x, noise = torch.randn(2, 2000, generator=torch.Generator().manual_seed(3))
        >>> y = 0.6 * x + 0.8 * noise  # I = -log(0.8) = 0.223
        >>> bool(abs(mutual_information(x, y, estimator="ksg") - 0.223) < 0.05)
        True
        >>> value, low, high = mutual_information(x, y, confidence=0.95)
        >>> bool(low < 0.223 < high)
        True
    """
    check_confidence(confidence)
    check_choice("estimator", estimator, ESTIMATORS)
    variables = [as_samples(x=x), as_samples(y=y)]
    check_rows(x=x, y=y)
    estimate = estimate_by_name(variables, estimator, k, seed, progress, confidence is not None)
    return like(estimate.finish(confidence, floor=0.0), x, y)
