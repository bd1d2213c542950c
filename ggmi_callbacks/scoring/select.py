"""Which scored samples to keep."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ggmi_callbacks.scorers._stamp import Stamp


def select(
    scored: pa.Table, keep: float | None = None, above: float | None = None, within: str | None = None
) -> np.ndarray:
    """Ids of the samples to keep, in their order; one without a score is not kept.

    Cost is tokens, so ``keep`` ranks gains that are sums over a sample's targets per token, as ``Filter(keep=)`` does.

    Args:
        scored: of :func:`ggmi_callbacks.score`.
        keep: share of the samples with a score, the best of them; None for no limit.
        above: gain that a sample must exceed; None for no limit.
        within: column by which samples are grouped, and ``keep`` is the share of each group.

    Raises:
        ValueError: if neither ``keep`` nor ``above`` is given, ``keep`` is no share, ``within`` is no column or one
            without values, or nothing is kept.

    Example:
        >>> scored = pa.table({"id": [0, 1, 2, 3], "gain": [0.1, 3.0, None, -1.0], "source": ["a", "b", "b", "a"]})
        >>> select(scored, keep=0.5, within="source"), select(scored, above=0.0)
        (array([0, 1]), array([0, 1]))

    """
    if keep is None and above is None:
        raise ValueError("`keep` and `above` are both missing: say which samples are good enough.")
    if keep is not None and not 0 < keep <= 1:
        raise ValueError(f"`keep` must be a share above 0 and at most 1, got {keep}.")
    gain = scored["gain"].to_numpy()
    groups = np.zeros(len(gain)) if within is None else _groups(scored, within)
    kept = ~np.isnan(gain)
    rank = gain / np.maximum(scored["tokens"].to_numpy(), 1) if Stamp.sums_in(scored) else gain
    if keep is not None:
        for group in np.unique(groups):
            members = ((groups == group) & ~np.isnan(gain)).nonzero()[0]
            best = members[np.argsort(-rank[members], kind="stable")]
            kept[best[max(1, int(keep * len(members) + 0.5)) :]] = False
    if above is not None:
        kept &= np.nan_to_num(gain, nan=-np.inf) > above
    if not kept.any():
        raise ValueError(
            f"none of {len(gain)} samples is kept: the best gain is {np.nanmax(gain, initial=-np.inf):.4g}, of "
            f"{int((~np.isnan(gain)).sum())} with a score."
        )
    return scored["id"].to_numpy()[kept]


def _groups(scored: pa.Table, within: str) -> np.ndarray:
    if within not in scored.column_names:
        raise ValueError(f"`within` {within!r} is not a column of the scores, which have {scored.column_names}.")
    column = scored[within]
    if column.null_count == len(column):
        raise ValueError(f"`within` {within!r} has no value in any row: score with `source=` (--source COLUMN).")
    return column.combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
