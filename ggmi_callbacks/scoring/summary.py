"""Scores by source, for people."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def by_source(scored: pa.Table) -> list[dict[str, Any]]:
    """A row for each source and one for all, the source ``None`` standing for samples of none.

    Each has ``source``, ``samples``, ``scored``, ``gain`` (mean), ``error`` (its standard error, None for a single
    sample) and ``positive`` (share above zero).

    Example:
        >>> by_source(pa.table({"source": ["a", "a", "b"], "gain": [1.0, 3.0, None]}))[0]
        {'source': 'a', 'samples': 2, 'scored': 2, 'gain': 2.0, 'error': 1.0, 'positive': 1.0}

    """
    gain, sources = scored["gain"].to_numpy(), np.array(scored["source"].to_pylist(), dtype=object)
    groups: list[tuple[Any, np.ndarray]] = [
        (name, gain[sources == name]) for name in sorted(set(sources), key=lambda name: (name is None, name or ""))
    ]
    if len(groups) > 1:
        groups.append(("all", gain))
    return [{"source": name, **_numbers(values)} for name, values in groups]


def as_text(scored: pa.Table) -> str:
    """The same as a table, with the names of its columns."""
    lines = [("source", "samples", "scored", "mean gain", "+-", "above 0")]
    for row in by_source(scored):
        numbers = ("" if row[key] is None else f"{row[key]:{form}}" for key, form in _FORMS.items())
        lines.append((row["source"] or "(none)", *numbers))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


_FORMS = {"samples": "d", "scored": "d", "gain": ".3f", "error": ".3f", "positive": ".0%"}


def _numbers(gain: np.ndarray) -> dict[str, Any]:
    known = gain[~np.isnan(gain)]
    n = len(known)
    return {
        "samples": len(gain),
        "scored": n,
        "gain": float(known.mean()) if n else None,
        "error": float(known.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "positive": float((known > 0).mean()) if n else None,
    }
