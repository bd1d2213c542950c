"""What a sweep says: which way each estimator goes in each panel, and whether GGMI goes with the gaps.

Rank correlations throughout (Spearman's): some quantities have tails so heavy that means and slopes say little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional import Interval, mean_interval
from ggmi_callbacks.functional.mutual_information._ranks import mid_ranks
from ggmi_callbacks.verification.finite import Coins
from ggmi_callbacks.verification.panels import GAUSSIAN, PANELS, Point

GAPS = ("histogram_own_gap", "histogram_shared_gap", "forward_gap", "reverse_gap", "jensen_shannon_gap")
GGMI = ("ggmi_mixture", "ggmi_loss_difference")
ERROR = "generalisation_gap_difference"
CLAIMS = {"K": "falls", "J": "rises", "L": "falls"}  # the paper's, of the gap
_NORMAL = 1.959964


class Trend(NamedTuple):
    """Rank correlation of a quantity with a panel's number, over all repeats of all its settings."""

    panel: str
    quantity: str
    first: float  # median at the least value of the number
    last: float  # median at the greatest
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


def correlation(x: Tensor, y: Tensor) -> Interval:
    """Spearman's rank correlation of two vectors with its 95 % interval (Bonett and Wright 2000).

    Example:
        >>> import torch
        >>> value, low, high = correlation(torch.arange(50.0), torch.arange(50.0).exp())
        >>> f"{value:.2f} above {low:.2f}"
        '1.00 above 1.00'
    """
    ranks = mid_ranks(torch.stack((x, y), 1)).T
    r = torch.corrcoef(ranks)[0, 1].float().clamp(-1 + 1e-6, 1 - 1e-6)
    half = _NORMAL * math.sqrt((1 + float(r) ** 2 / 2) / max(len(x) - 3, 1))
    return Interval(r, torch.tanh(torch.atanh(r) - half), torch.tanh(torch.atanh(r) + half))


def trends(points: Sequence[Point]) -> list[Trend]:
    """The trend of every gap, both estimates of GGMI and the generalisation gaps, in every panel."""
    result = []
    for panel in PANELS:
        chosen = [point for point in points if point.panel == panel]
        for name in (*GAPS, *GGMI, ERROR):
            if name in chosen[0].result:  # histograms are in two dimensions only
                values = torch.cat([point.result[name] for point in chosen])
                number = torch.cat([torch.full_like(point.result[name], point.value) for point in chosen])
                first, last = (float(chosen[i].result[name].median()) for i in (0, -1))
                result.append(Trend(panel, name, first, last, correlation(number, values)))
    return result


def tracking(points: Sequence[Point]) -> list[Tracking]:
    """Does GGMI go with the gaps between divergences, and with the one it is made for, of generalisation?"""
    chosen = [point for point in points if point.panel in CLAIMS]
    result = []
    for ggmi in GGMI:
        for gap in ("forward_gap", "reverse_gap", "jensen_shannon_gap", ERROR):
            pairs = [(point.result[ggmi], point.result[gap]) for point in chosen]
            medians = torch.tensor([[x.median(), y.median()] for x, y in pairs])
            inside = torch.stack([correlation(x, y).value for x, y in pairs])
            result.append(Tracking(ggmi, gap, correlation(*medians.unbind(1)), mean_interval(inside, 0.95)))
    return result


def gaussian_tracking(points: Sequence[Point]) -> dict[str, Interval]:
    """The same in the Gaussian worlds, between exact values (and of each estimate with its exact value)."""
    results = [point.result for point in points if point.panel == GAUSSIAN]

    def across(x: str, y: str) -> Interval:
        return correlation(*(torch.stack([result[name].mean() for result in results]) for name in (x, y)))

    return {
        "mixture estimate, its closed form": across("ggmi_mixture", "ggmi_mixture_exact"),
        "loss-difference estimate, closed form given the laws": across("ggmi_loss_difference", "ggmi_given_exact"),
        "closed form given the laws, generalisation gaps": across("ggmi_given_exact", f"{ERROR}_exact"),
        "closed form given the laws, KL gap": across("ggmi_given_exact", "kl_gap_exact"),
        "closed form with anchors random, KL gap": across("ggmi_exact", "kl_gap_exact"),
        "closed form of the mixture, KL gap": across("ggmi_mixture_exact", "kl_gap_exact"),
    }


def report(points: Sequence[Point]) -> str:
    """The findings as Markdown tables."""
    lines = ["| panel | paper | quantity | median, first to last | rank correlation, 95 % | it |", "|" + "---|" * 6]
    for t in trends(points):
        claim = CLAIMS.get(t.panel[0], "") if t.quantity.endswith("_gap") else ""
        span = f"{t.first:.3g} to {t.last:.3g}"
        lines.append(f"| {t.panel} | {claim} | {t.quantity} | {span} | {_text(t.correlation)} | {t.direction} |")
    lines += ["", "| GGMI | with | across settings, 95 % | within a setting, 95 % |", "|" + "---|" * 4]
    lines += [f"| {t.ggmi} | {t.gap} | {_text(t.across)} | {_text(t.within)} |" for t in tracking(points)]
    lines += ["", "| Gaussian worlds, rank correlation of | 95 % |", "|---|---|"]
    lines += [f"| {name} | {_text(value)} |" for name, value in gaussian_tracking(points).items()]
    lines += ["", *_bounds(points), "", *_coins()]
    return "\n".join(lines)


def _bounds(points: Sequence[Point]) -> list[str]:
    """The slack of the bound on GGMI beside GGMI, and the ratio that the theorem assumes to be at least 0."""
    head = "| bound on GGMI | slack, median | abs(GGMI), median | bound below GGMI in | a, median | a below 0 in |"
    lines = [head, "|" + "---|" * 6]
    for panel in (*PANELS, GAUSSIAN):
        parts = [point.result for point in points if point.panel == panel]
        slack, ggmi, a = (torch.cat([part[name] for part in parts]) for name in ("slack", GGMI[0], "a"))
        below, negative = (float((x < 0).double().mean()) for x in (slack, a))
        lines.append(
            f"| {panel} | {slack.median():.4g} | {ggmi.abs().median():.4g} | {below:.1%} | {a.median():.3f} "
            f"| {negative:.1%} |"
        )
    return lines


def _coins() -> list[str]:
    """Bounds in worlds of coins, exact: on GGMI, and on the generalisation error of training on either set."""
    head = (
        "| coins: share from the prompt, anchors, synthetic | GGMI | bound | slack | gap, anchors | bound "
        "| gap, synthetic | bound | least B_syn |"
    )
    lines = [head, "|" + "---|" * 9]
    for c, n_g in product((0.0, 0.5, 1.0), (4, 8)):
        coins = Coins(c, n_g=n_g)
        terms, sides = coins.world().terms(), coins.compare()
        numbers = (terms.ggmi, terms.bound, terms.slack, *sides)
        lines.append(f"| {c:g}, {coins.n_a}, {n_g} | " + " | ".join(f"{float(x):+.3f}" for x in numbers) + " |")
    return lines


def _text(interval: Interval) -> str:
    return f"{interval.value:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"
