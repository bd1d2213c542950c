"""Gain, generalisation gap and shared information of each source, with intervals that hold for all of them together.

With k sources each interval has the level 1 - 0.05 / k (Bonferroni), so that in 95 % of runs none of a kind misses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ggmi_callbacks.engine.twins import FEWEST, Pairs
from ggmi_callbacks.functional import Interval
from ggmi_callbacks.functional._interval import mean_and_variance, t_interval
from ggmi_callbacks.functional._twins import difference_of_means
from ggmi_callbacks.functional.shared_information import grouped_mean
from ggmi_callbacks.metrics.gain import Gain
from ggmi_callbacks.scorers._base import Shared

_ERROR = 0.05  # over all sources
_BEYOND = 25  # resamples beyond each end of an interval, so that the end is known

Report = dict[str, dict[str, float]]


def by_source(
    gains: Gain,
    pairs: Pairs | None,
    sources: Sequence[str],
    shared: Shared | None = None,
    codes: Tensor | None = None,
) -> Report:
    """For each source what was measured of ``gain``, ``generalization_gap`` and ``shared_information``, with intervals.

    An interval stands under the name with ``_low`` and ``_high``. Every rank must call it.

    Args:
        gains: of the run, by the code of the source.
        pairs: twins at the present weights, or None.
        sources: names, in the order of their codes.
        shared: what answers to one prompt say about each other, whatever the source of either, or None.
        codes: of the source of each sample by id, if there are sources.

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
        if shared is not None and codes is not None and (told := _mean_shared(shared, codes, code, level)) is not None:
            report[name] |= _flat("shared_information", told)
    return report


def _gap(pairs: Pairs, code: int, level: float) -> Interval | None:
    """Gap of one source, nats per token; None if fewer than some of its samples are in or out."""
    inside, outside = pairs.losses()
    known, unknown = (loss[which] for loss, which in zip((inside, outside), pairs.source == code, strict=True))
    return difference_of_means(unknown, known, level) if min(len(known), len(unknown)) >= FEWEST else None


def _mean_shared(found: Shared, codes: Tensor, code: int, level: float) -> Interval | None:
    """Shared information of one source, nats per token, over prompts; None if it answers fewer than some of them."""
    own = codes.cpu().numpy()[found.ids] == code
    value, group = found.information[own], found.group[own]
    if len(np.unique(group[~np.isnan(value)])) < FEWEST:
        return None
    return grouped_mean(value, group, level, seed=0, resamples=round(2 * _BEYOND / (1 - level)))


def _flat(name: str, interval: Interval) -> dict[str, float]:
    ends: tuple[Tensor, ...] = tuple(interval)
    return {f"{name}{end}": float(value) for end, value in zip(("", "_low", "_high"), ends, strict=True)}
