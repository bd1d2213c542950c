"""An estimate with what its interval needs: how it varies from sample to sample.

The influence function of an entropy -E log p is -log p(x) - h, that of a mutual information its pointwise
value minus its mean; so the spread of pointwise values, over n, is the variance of the estimate to first order,
for every estimator here. Bias is not part of an interval.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional._interval import Interval, t_interval


class Estimate(NamedTuple):
    """A number in nats and its spread.

    Attributes:
        value: 0-dim.
        pointwise: [m] values per sample whose variance is n times that of ``value``, or None if not asked for;
            m < n where a part of the samples is enough to tell.
        n: number of samples behind ``value``.
        error: standard error that comes on top of the spread: of a numerical approximation, or of second order.
    """

    value: Tensor
    pointwise: Tensor | None
    n: int
    error: float = 0.0

    def finish(self, confidence: float | None, floor: float | None = None) -> Tensor | Interval:
        """The value, or its Student-t interval; nothing below ``floor``."""
        result = self.value
        if confidence is not None:
            assert self.pointwise is not None
            variance = self.pointwise.detach().var() / self.n + self.error**2
            result = t_interval(self.value, variance, torch.tensor(self.n - 1.0), confidence)
        if floor is None:
            return result
        if isinstance(result, Interval):
            return Interval(*(part.clamp_min(floor) for part in result))
        return result.clamp_min(floor)


def total(plus: list[Estimate], minus: list[Estimate]) -> Estimate:
    """Sum of estimates from the same samples, some with a minus sign, correlations included."""
    terms = [(1.0, estimate) for estimate in plus] + [(-1.0, estimate) for estimate in minus]
    parts = [sign * estimate.pointwise for sign, estimate in terms if estimate.pointwise is not None]
    return Estimate(
        value=torch.stack([sign * estimate.value for sign, estimate in terms]).sum(),
        pointwise=torch.stack(parts).sum(0) if parts else None,
        n=plus[0].n,
        error=sum(estimate.error**2 for _, estimate in terms) ** 0.5,
    )
