"""Samples as the estimators want them, [n, d] in float64, and what is refused."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_tensors

_TOLERATED = 0.1  # share of copies
_FEW_VALUES = 20  # distinct rows, below which the data are surely discrete


def as_matrix(**named: Tensor) -> Tensor:
    """One tensor [n, d] or [n] as [n, d] in float64.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it has another shape or no sample.
    """
    check_tensors(**named)
    ((name, x),) = named.items()
    if x.ndim not in (1, 2) or x.numel() == 0:
        raise ValueError(
            f"Expected argument `{name}` to have shape [n, d], or [n] for one dimension, but got "
            f"{list(x.shape)}; flatten all but the first dimension."
        )
    return (x[:, None] if x.ndim == 1 else x).double()


def as_samples(**named: Tensor) -> Tensor:
    """:func:`as_matrix`, and refuse values that are not finite."""
    samples = as_matrix(**named)
    if not torch.isfinite(samples).all():
        ((name, x),) = named.items()
        raise ValueError(
            f"Expected argument `{name}` to be finite but got {int((~torch.isfinite(x)).sum())} values that are "
            "not; drop those samples."
        )
    return samples


def check_rows(**named: Tensor) -> None:
    """Refuse tensors that do not hold the same samples."""
    check_tensors(**named)
    rows = {name: x.shape[0] for name, x in named.items()}
    if len(set(rows.values())) > 1:
        names = " and ".join(f"`{name}`" for name in rows)
        raise ValueError(
            f"Expected arguments {names} to have one row per sample each but got {list(rows.values())} rows; "
            "row i of all must belong to sample i."
        )


def check_neighbours(k: int, n: int) -> None:
    """Refuse a number of neighbours that n samples do not have."""
    if not 1 <= k < n:
        raise ValueError(
            f"Expected argument `k` to be in [1, n) but got k = {k} for n = {n} samples; "
            "add samples or take fewer neighbours."
        )


def check_copies(k: int, **named: Tensor) -> None:
    """Refuse samples [n, d] that were passed more than once: to k neighbours a copy is another sample, and a near one.

    Discrete data repeat as well. But then their rows share values in part and not only as a whole, each row occurs more
    than k times, or there are few values; and rows never occur all the same number of times. Up to a tenth of the
    samples may be copies: what they add is lost in the noise.
    """
    variables = [v.detach().cpu().numpy() for v in named.values()]
    n, counts = len(variables[0]), np.unique(np.concatenate(variables, 1), axis=0, return_counts=True)[1]
    if len(counts) == n or len(counts) < _FEW_VALUES:
        return
    whole = max(len(np.unique(v, axis=0)) for v in variables) > 0.95 * len(counts)
    few = counts[(counts > 1) & (counts <= k)].sum() > _TOLERATED * n
    if (whole and few) or np.gcd.reduce(counts) > 1:
        names = " and ".join(f"`{name}`" for name in named)
        raise ValueError(
            f"Expected {names} to hold each sample once but got {n - len(counts)} copies in {n} rows; pass "
            "each sample once, and reset a metric between epochs. If the data are rounded, add uniform noise of the "
            "width of the rounding."
        )


def covariance_factor(scatter: Tensor, n: int, name: str) -> Tensor:
    """Cholesky factor of a scatter matrix [d, d] of n samples.

    Raises:
        ValueError: If it is singular: too few samples, or columns that depend on each other linearly.
    """
    factor = _factor(scatter, n)
    if factor is None:
        raise ValueError(
            f"Expected argument `{name}` to have a covariance of full rank but got {n} samples in {len(scatter)} "
            "dimensions that do not span them; drop constant or repeated columns, or reduce the dimension."
        )
    return factor


def full_rank(x: Tensor) -> bool:
    """Whether the covariance of samples [n, d] is that of a density."""
    x = x - x.mean(0)
    return _factor(x.T @ x, len(x)) is not None


def _factor(scatter: Tensor, n: int) -> Tensor | None:
    scale = scatter.diagonal().clamp_min(0).sqrt()
    factor, failed = torch.linalg.cholesky_ex(scatter / (scale[:, None] * scale))
    # A column that the others explain up to rounding leaves a pivot of that size.
    if n <= len(scatter) + 1 or failed or not factor.diagonal().min() > 1e-7:
        return None
    return factor * scale[:, None]
