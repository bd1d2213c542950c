"""Places of marks in the page's pictures, in percent of their width and height; templates draw them.

Percentages leave text and lines as thick as they are on a phone and on a wall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ggmi_callbacks.engine.ledger_view import Floats, Mean, Samples, bin_edges, column
from ggmi_callbacks.report.numbers import number

_BINS = 40  # of steps


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high``."""

    low: float
    high: float

    @classmethod
    def over(cls, *values: float, room: float = 0.06) -> Axis:
        """A scale that holds all finite ``values``, with some room at both ends."""
        known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(known), max(known)
        spare = room * (high - low) or 0.5 * abs(high) or 0.5
        return cls(low - spare, high + spare)

    def at(self, x: float) -> float:
        """Place of ``x``, in percent; ends that are infinite lie at the ends.

        Example:
            >>> Axis(0.0, 8.0).at(2.0)
            25.0

        """
        return round(100 * (min(max(x, self.low), self.high) - self.low) / (self.high - self.low), 3)

    def ticks(self, about: int = 5) -> list[tuple[float, str]]:
        """Places and names of round numbers."""
        wide = (self.high - self.low) / about
        size = 10.0 ** math.floor(math.log10(wide))
        step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= wide)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [(self.at(i * step), number(i * step)) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram: kept samples below, dropped ones on top."""

    x: float
    width: float
    kept: float
    """Height."""
    dropped: float
    range: str
    counts: tuple[int, int]


@dataclass(frozen=True)
class Histogram:
    """Distribution of gain."""

    bars: list[Bar]
    x: Axis
    y: Axis
    zero: float | None
    clipped: int
    """Samples beyond the ends, counted in the outermost bars."""


def histogram(found: Samples) -> Histogram:
    """Distribution of the gains of ``found``, of kept and of dropped samples."""
    edges = bin_edges(found.gain)
    known = np.isfinite(found.gain)
    inside = np.clip(found.gain, edges[0], edges[-1])
    kept = np.histogram(inside[known & found.kept], edges)[0]
    dropped = np.histogram(inside[known & ~found.kept], edges)[0]
    x, y = Axis(float(edges[0]), float(edges[-1])), Axis(0.0, 1.05 * max(1, int((kept + dropped).max())))
    bars = [
        Bar(
            x=x.at(low),
            width=round(x.at(high) - x.at(low), 3),
            kept=y.at(int(k)),
            dropped=y.at(int(d)),
            range=f"{number(low)} to {number(high)}",
            counts=(int(k), int(d)),
        )
        for low, high, k, d in zip(edges[:-1], edges[1:], kept, dropped, strict=True)
        if k + d
    ]
    zero = x.at(0.0) if x.low <= 0 <= x.high else None
    return Histogram(bars, x, y, zero, int((inside[known] != found.gain[known]).sum()))


@dataclass(frozen=True)
class Line:
    """A mean over steps with its band, and the share kept."""

    x: Axis
    y: Axis
    points: list[tuple[float, float]]
    band: list[tuple[float, float]]
    kept: list[tuple[float, float]]
    """Place of a step and share; empty if nothing was dropped."""
    rows: list[tuple[str, Mean, float]]
    """The numbers behind it: steps, mean, share kept."""
    zero: float | None


def over_steps(table: pa.Table) -> Line | None:
    """Mean gain in equal stretches of steps; None where there are no two of them."""
    if "step" not in table.column_names:
        return None
    step, gain = column(table, "step"), column(table, "gain")
    kept = column(table, "kept") if "kept" in table.column_names else np.ones(len(table))
    scored = np.isfinite(gain)
    if len(np.unique(step[scored])) < 2:  # also of no rows
        return None
    edges = np.linspace(step.min(), step.max() + 1, 1 + min(_BINS, len(np.unique(step))))
    places = np.clip(np.searchsorted(edges, step, side="right") - 1, 0, len(edges) - 2)
    means = [(Mean.of(gain[here]), float(kept[here].mean())) if (here := places == i).any() else None for i in
             range(len(edges) - 1)]  # fmt: skip
    bins = [(low, high, *mean) for low, high, mean in zip(edges[:-1], edges[1:], means, strict=True) if mean]
    bins = [entry for entry in bins if entry[2].n]
    ends = [end for _, _, mean, _ in bins for end in (mean.value, mean.low, mean.high)]
    x, y = Axis(float(step.min()), float(step.max())), Axis.over(0.0, *ends)
    middle = [x.at((low + high - 1) / 2) for low, high, *_ in bins]
    upper = [(p, 100 - y.at(mean.high)) for p, (_, _, mean, _) in zip(middle, bins, strict=True)]
    lower = [(p, 100 - y.at(mean.low)) for p, (_, _, mean, _) in zip(middle, bins, strict=True)]
    return Line(
        x,
        y,
        points=[(p, round(100 - y.at(mean.value), 3)) for p, (_, _, mean, _) in zip(middle, bins, strict=True)],
        band=_round([*upper, *reversed(lower)]),
        kept=[(p, share) for p, (*_, share) in zip(middle, bins, strict=True)] if (kept == 0).any() else [],
        rows=[(_steps(low, high), mean, share) for low, high, mean, share in bins],
        zero=round(100 - y.at(0.0), 3),
    )


def _round(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(round(x, 3), round(y, 3)) for x, y in points]


def _steps(low: float, high: float) -> str:
    first, last = math.ceil(low), math.ceil(high) - 1
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def ranks(x: Floats) -> Floats:
    """Ranks from 0 to 1, NaN where ``x`` is; equals share the mean of theirs.

    Example:
        >>> ranks(np.array([5.0, 1.0, 5.0, np.nan])).tolist()
        [0.75, 0.0, 0.75, nan]

    """
    out = np.full(len(x), np.nan)
    known = np.isfinite(x)
    if known.sum() > 1:
        _, place, counts = np.unique(x[known], return_inverse=True, return_counts=True)
        out[known] = (np.cumsum(counts) - (counts + 1) / 2)[place] / (known.sum() - 1)
    return out
