"""A ledger at a glance: samples instead of visits, sources, a small table and a picture.

A sample that was met several times counts once, with the mean of its gains and the decision of its last visit.

    gain_i = mean of the gains of sample i over its scored visits       nats, or the scorer's unit
    mean   = mean_i gain_i, with Student's t interval over samples      95 %
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ggmi_callbacks.functional import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MOST_SOURCES = 12  # rows of the small table
NO_SOURCE = "no source"
UNIT = b"ggmi_unit"
"""Key of the schema's metadata under which a table tells the unit of its gains."""


def unit_of(table: pa.Table) -> str | None:
    """Unit of the gains in a ledger's ``table``, in words; None if it does not say."""
    said = (table.schema.metadata or {}).get(UNIT)
    return None if said is None else str(json.loads(said))


def column(table: pa.Table, name: str) -> Floats:
    """Numbers of a column [n] as float64, NaN where null; raises KeyError if there is none."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def finite(x: Floats) -> Floats:
    """``x`` without what was not measured or is infinite."""
    return x[np.isfinite(x)]


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval, NaN where there is nothing to take it of, over ``n`` values."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, x: Floats) -> Mean:
        """Mean of the finite values of ``x``.

        Example:
            >>> Mean.of(np.array([1.0, 2.0, 3.0, np.nan])).value
            2.0

        """
        x = finite(x)
        if len(x) == 0:
            return cls(np.nan, np.nan, np.nan, 0)
        value, low, high = mean_interval(torch.from_numpy(x), confidence=0.95)
        return cls(float(value), float(low), float(high), len(x))


@dataclass(frozen=True)
class Samples:
    """The samples of a ledger, one entry each, ordered by id."""

    ids: Ints
    visits: Ints
    step: Ints
    """Of the last visit."""
    gain: Floats
    """Mean over scored visits; NaN for a sample that was not scored."""
    kept: Bools
    """Decision of the last visit."""
    nll: Floats
    """Code length at the last visit in which it was measured, NaN if there is none."""
    source: Sequence[str]
    parts: dict[str, Floats]
    """Mean of each score that gains are made of."""

    def __len__(self) -> int:
        return len(self.ids)


def samples(table: pa.Table) -> Samples:
    """Gather the visits in ``table`` by sample.

    Example:
        >>> table = pa.table({"id": [4, 7, 4], "gain": [1.0, 5.0, 2.0], "kept": [True, True, False]})
        >>> found = samples(table)
        >>> found.ids.tolist(), found.gain.tolist(), found.kept.tolist()
        ([4, 7], [1.5, 5.0], [False, True])

    """
    n, names = len(table), table.column_names
    ids = column(table, "id").astype(np.int64) if "id" in names else np.arange(n)
    unique, place, visits = np.unique(ids, return_inverse=True, return_counts=True)
    last = np.zeros(len(unique), dtype=np.int64)
    last[place] = np.arange(n)  # later visits overwrite earlier ones

    def mean(x: Floats) -> Floats:
        known = np.isfinite(x)
        total = np.bincount(place[known], x[known], len(unique))
        with np.errstate(invalid="ignore"):
            return total / np.bincount(place[known], minlength=len(unique))

    nll = np.full(len(unique), np.nan)
    if "nll" in names:
        measured = np.flatnonzero(np.isfinite(lengths := column(table, "nll")))
        nll[place[measured]] = lengths[measured]
    steps = column(table, "step").astype(np.int64) if "step" in names else np.zeros(n, dtype=np.int64)
    kept = column(table, "kept") > 0 if "kept" in names else np.ones(n, dtype=bool)
    named = table["source"].take(pa.array(last)).to_pylist() if "source" in names else [None] * len(unique)
    return Samples(
        ids=unique,
        visits=visits,
        step=steps[last],
        gain=mean(column(table, "gain")),
        kept=kept[last],
        nll=nll,
        source=[NO_SOURCE if name is None else str(name) for name in named],
        parts={name.removeprefix("gain/"): mean(column(table, name)) for name in names if name.startswith("gain/")},
    )


def joined(table: pa.Table, data: Any) -> Any:
    """``data`` with the last row in ``table`` of each of its samples; see :meth:`Ledger.join`."""
    names = [name for name in table.column_names if name not in ("id", "source")]
    ids = table["id"].to_numpy()
    if len(ids) and ids.max() >= len(data):
        raise ValueError(
            f"`data` has {len(data)} rows, and the ledger holds id {ids.max()}: join it with the training set of "
            "this run, in its order."
        )
    last = np.full(len(data), len(table))
    last[ids] = np.arange(len(table))  # of several rows the last one stays
    rows = pa.array(last, mask=last == len(table))
    columns = {f"ggmi/{name}": table[name].take(rows) for name in names}
    if hasattr(data, "add_column"):
        import datasets

        return datasets.concatenate_datasets([data, datasets.Dataset(pa.table(columns))], axis=1)
    return [{**row, **more} for row, more in zip(data, pa.table(columns).to_pylist(), strict=True)]


@dataclass(frozen=True)
class Group:
    """Samples of one source."""

    name: str
    samples: int
    gain: Mean
    kept: float
    """Share of them."""


def by_source(found: Samples) -> list[Group]:
    """Groups of ``found`` by source, the largest first; names decide between equals."""
    names, place = np.unique(np.array(found.source, dtype=object), return_inverse=True)
    order = np.argsort(place, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(place, minlength=len(names)))[:-1]) if len(names) else []
    groups = [
        Group(name, len(piece), Mean.of(found.gain[piece]), float(found.kept[piece].mean()))
        for name, piece in zip(names, pieces, strict=True)
    ]
    return sorted(groups, key=lambda group: (-group.samples, group.name))


def to_html(table: pa.Table) -> str:
    """A small table for notebooks: rows, sources, mean gain, share kept. Names are escaped."""
    found = samples(table)
    groups = by_source(found)
    rows = "".join(map(_row, groups[:_MOST_SOURCES]))
    if len(groups) > 1:
        rows += _row(Group("all", len(found), Mean.of(found.gain), float(found.kept.mean())))
    more = f" {len(groups) - _MOST_SOURCES} smaller sources are left out." if len(groups) > _MOST_SOURCES else ""
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("source", "samples", "mean gain, 95 % interval", "kept"))
    return (
        f"<table><caption>Ledger: {len(table):,} rows of {len(found):,} samples.{more}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(group: Group) -> str:
    gain = group.gain
    text = f"{gain.value:+.3g} [{gain.low:+.3g}, {gain.high:+.3g}]" if gain.n else "not scored"
    name = html.escape(group.name[:80])
    return f'<tr><th scope="row">{name}</th><td>{group.samples:,}</td><td>{text}</td><td>{group.kept:.0%}</td></tr>'


def bin_edges(x: Floats, about: int = 36) -> Floats:
    """Edges of a histogram of ``x``: round steps, zero among them; the outermost 0.5 % go into the bins at the ends.

    Example:
        >>> bin_edges(np.array([-1.0, 3.0]), about=4).tolist()
        [-1.0, 0.0, 1.0, 2.0, 3.0]

    """
    x = finite(x)
    low, high = np.quantile(x, [0.005, 0.995]) if len(x) else (0.0, 1.0)
    wide = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-9) / about
    size = 10.0 ** np.floor(np.log10(wide))
    step = size * min((m for m in (1, 2, 5, 10) if m * size >= wide), default=10)
    return step * np.arange(np.floor(low / step), np.floor(high / step) + 2)


def draw(ax: Axes | Any, table: pa.Table) -> None:
    """Draw the distribution of gain on ``ax``, what is kept on what is dropped."""
    found = samples(table)
    known = np.isfinite(found.gain)
    kept, dropped = found.gain[known & found.kept], found.gain[known & ~found.kept]
    edges = bin_edges(found.gain)
    below = np.zeros(len(edges) - 1)
    for values, label, colour, hatch in ((kept, "kept", "C0", ""), (dropped, "dropped", "C1", "///")):
        if len(values):
            height = np.histogram(values.clip(edges[0], edges[-1]), edges)[0]
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.4}
            ax.bar(edges[:-1], height, np.diff(edges), below, align="edge", label=f"{label} ({len(values):,})", **look)
            below = below + height
    if known.any():
        ax.legend(frameon=False, fontsize=8)
    ax.axvline(0.0, color="0.3", linewidth=0.8)
    ax.set_xlabel(f"gain ({unit_of(table) or 'nats per sample, or the unit of the scorer'})")
    ax.set_ylabel("samples")
    ax.spines[["top", "right"]].set_visible(False)
