"""What a sweep says: which way each estimator goes in each panel, and whether GGMI goes with the gaps.

Rank correlations throughout (Spearman's): some quantities have tails so heavy that means and slopes say little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional import Interval, mean_interval
from ggmi_callbacks.verification.gaussian import GaussianWorld, gaussian_protocol
from ggmi_callbacks.verification.sweep import PANELS, Point

GAPS = ("histogram_own_gap", "histogram_shared_gap", "forward_gap", "reverse_gap", "jensen_shannon_gap")
GGMI = ("ggmi_mixture", "ggmi_loss_difference")
CLAIMS = {"K": "falls", "J": "rises", "L": "falls"}  # the paper's
_NORMAL = 1.959964


class Trend(NamedTuple):
    """Rank correlation of a quantity with a panel's number, over all repeats of all its settings."""

    panel: str
    quantity: str
    first: float
    last: float
    correlation: Interval

    @property
    def direction(self) -> str:
        """``rises`` or ``falls`` where the interval excludes zero, else ``flat``."""
        if self.correlation.low > 0:
            return "rises"
        return "falls" if self.correlation.high < 0 else "flat"


class Tracking(NamedTuple):
    """Rank correlation of GGMI with a gap: across the settings' medians, and across repeats within a setting."""

    ggmi: str
    gap: str
    across: Interval
    within: Interval


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's correlation of two vectors (without ties).

    Example:
        >>> import torch
        >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 8.0, 27.0, 64.0]))
        tensor(1.)
    """
    ranks = torch.stack([x.argsort().argsort(), y.argsort().argsort()]).to(x.dtype)
    return torch.corrcoef(ranks)[0, 1]


def correlation_interval(r: Tensor, n: int) -> Interval:
    """95 % interval of a rank correlation of n pairs, by Fisher's transform (Bonett and Wright 2000)."""
    half = _NORMAL * math.sqrt((1 + float(r) ** 2 / 2) / max(n - 3, 1))
    z = torch.atanh(r.clamp(-1 + 1e-9, 1 - 1e-9))
    return Interval(r, torch.tanh(z - half), torch.tanh(z + half))


def trends(points: Sequence[Point]) -> list[Trend]:
    """The trend of every gap and every GGMI in every panel."""
    result = []
    for panel in PANELS:
        chosen = [point for point in points if point.panel == panel]
        for name in (*GAPS, *GGMI, "generalisation_gap_difference"):
            if name not in chosen[0].result:  # histograms, where d is not 2
                continue
            values = torch.cat([point.result[name] for point in chosen])
            number = torch.cat([torch.full_like(point.result[name], point.value) for point in chosen])
            r = _midrank_correlation(number, values)
            first, last = (float(chosen[i].result[name].median()) for i in (0, -1))
            result.append(Trend(panel, name, first, last, correlation_interval(r, len(values))))
    return result
