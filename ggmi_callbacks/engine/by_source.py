"""Gain and generalisation gap of each source, with intervals that hold for all of them together.

With k sources each interval has the level 1 - 0.05 / k (Bonferroni), so that in 95 % of runs none of them misses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ggmi_callbacks.engine.twins import FEWEST, Pairs
from ggmi_callbacks.functional import Interval
from ggmi_callbacks.functional._interval import mean_and_variance, t_interval
from ggmi_callbacks.functional._twins import difference_of_means
from ggmi_callbacks.metrics.gain import Gain

_ERROR = 0.05  # over all sources

Report = dict[str, dict[str, float]]


def by_source(gains: Gain, pairs: Pairs | None, sources: Sequence[str]) -> Report:
    """For each source ``gain`` and ``generalization_gap`` with ``_low`` and ``_high``, as far as they were measured.

    Every rank must call it.

    Args:
        gains: of the run, by the code of the source.
        pairs: twins at the present weights, or None.
        sources: names, in the order of their codes.

    """
    level = 1 - _ERROR / max(1, len(sources))
    with gains.sync_context():
        sums = torch.stack((gains.scored, gains.total, gains.squares), -1)[: len(sources)].double()
    mean, variance = mean_and_variance(sums)
    report: Report = {name: {} for name in sources}
    for code, name in enumerate(sources):
        if sums[code, 0] > 1:
            report[name] |= _flat("gain", t_interval(mean[code], variance[code], sums[code, 0] - 1, level))
        if pairs is not None and (gap := _gap(pairs, code, level)) is not None:
            report[name] |= _flat("generalization_gap", gap)
    return report


def _gap(pairs: Pairs, code: int, level: float) -> Interval | None:
    """Gap of one source, nats per token; None if fewer than some of its samples are in or out."""
    inside, outside = pairs.losses()
    known, unknown = (loss[which] for loss, which in zip((inside, outside), pairs.source == code, strict=True))
    return difference_of_means(unknown, known, level) if min(len(known), len(unknown)) >= FEWEST else None


def _flat(name: str, interval: Interval) -> dict[str, float]:
    ends: tuple[Tensor, ...] = tuple(interval)
    return {f"{name}{end}": float(value) for end, value in zip(("", "_low", "_high"), ends, strict=True)}
