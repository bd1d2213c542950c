"""Conditional mutual information of samples, by any estimator that has a conditional form."""

from __future__ import annotations

from typing import overload

from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice
from ggmi_callbacks.functional._interval import Interval, check_confidence, like
from ggmi_callbacks.functional._samples import as_samples, check_rows
from ggmi_callbacks.functional.mutual_information._by_name import (
    CONDITIONAL_ESTIMATORS,
    MutualInformationEstimator,
    estimate_by_name,
)


@overload
def conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    estimator: MutualInformationEstimator = ...,
    k: int = ...,
    seed: int = ...,
    progress: bool = ...,
    confidence: None = ...,
) -> Tensor: ...
@overload
def conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    estimator: MutualInformationEstimator = ...,
    k: int = ...,
    seed: int = ...,
    progress: bool = ...,
    confidence: float,
) -> Interval: ...
def conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    estimator: MutualInformationEstimator = "auto",
    k: int = 5,
    seed: int = 0,
    progress: bool = True,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Conditional mutual information I(x; y | z) of samples.

    .. math::
        I(x; y \mid z) = E \log \frac{p(x, y \mid z)}{p(x \mid z)\, p(y \mid z)}

    ``"gaussian"``, ``"copula"``, ``"ksg"`` (Frenzel and Pompe) and ``"matrix"`` estimate it directly,
    ``"infonce"`` as I(x; (y, z)) - I(x; z), a difference of two lower bounds and so no bound.
    ``"canonical_ksg"`` has no conditional form.

    Args:
        x: [n, d_x] or [n] samples.
        y: [n, d_y] or [n] samples.
        z: [n, d_z] or [n] samples of what is conditioned on.
        estimator: as in :func:`mutual_information`.
        k: as in :func:`mutual_information`.
        seed: as in :func:`mutual_information`.
        progress: as in :func:`mutual_information`.
        confidence: as in :func:`mutual_information`.

    Returns:
        0-dim tensor in nats, at least zero, or an :class:`Interval`.

    Raises:
        ValueError: As :func:`mutual_information`.

    Source:
        Frenzel and Pompe, Phys. Rev. Lett. 99, 204101 (2007) for ``"ksg"``.

    Example:
        >>> import torch
        >>> x, y, z = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
        >>> value = conditional_mutual_information(x + z, y + z, z, estimator="ksg")  # all they share is z
        >>> bool(value < 0.05)
        True
    """
    check_confidence(confidence)
    check_choice("estimator", estimator, CONDITIONAL_ESTIMATORS)
    variables = [as_samples(x=x), as_samples(y=y), as_samples(z=z)]
    check_rows(x=x, y=y, z=z)
    estimate = estimate_by_name(variables, estimator, k, seed, progress, confidence is not None)
    return like(estimate.finish(confidence, floor=0.0), x, y, z)
