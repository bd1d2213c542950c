"""One self-contained page: numbers are gathered here, templates say how they look."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

import ggmi_callbacks
from ggmi_callbacks._extras import extra
from ggmi_callbacks.distributed import rank_and_size
from ggmi_callbacks.engine.ledger_view import Mean, Samples, by_source, column, samples
from ggmi_callbacks.report import numbers, words
from ggmi_callbacks.report.cards import NAME, show
from ggmi_callbacks.report.charts import Axis, histogram, over_steps
from ggmi_callbacks.report.sections import cost, everything, gaps, ggmi_forms, of_sources, parts
from ggmi_callbacks.report.source import Source, read_source
from ggmi_callbacks.report.texts import harmless

_MOST_SOURCES = 30
_SENTENCE = 1000  # characters of a verdict, at most


def report(
    source: Any,
    path: str | PathLike[str],
    *,
    texts: Any = None,
    title: str = "What this data teaches",
) -> Path:
    """Write a page about a run, a ledger or an offline scoring; it opens anywhere and asks nothing of a network.

    Args:
        source: a callback or an engine; a :class:`~ggmi_callbacks.Ledger`, or the folder in which a run writes it; or
            the path of a Parquet file that ``Ledger.to_parquet`` or an offline scoring wrote. Of all but the first two
            the page has what the table holds.
        path: where the page goes; folders are made, a file there is replaced.
        texts: rows of the training set by sample id, to show what samples say: a data set, a list or a mapping of
            texts, of messages, or of dictionaries with the usual columns (``text``; ``messages``; ``prompt``,
            ``question``, ... and ``completion``, ``answer``, ...). By default a callback's own training set, or the
            file's own columns.
        title: heading of the page.

    Returns:
        The path. Of several ranks, which all must call it, rank zero writes.

    Raises:
        ImportError: without jinja2, which extra ``report`` brings along.
        TypeError: if ``source`` is none of the above.
        ValueError: if the file has no column ``gain``, or ``texts`` lack a sample or hold no text.
        FileNotFoundError: if ``source`` names no file.

    Example:
        >>> import tempfile, torch
        >>> from ggmi_callbacks import Ledger
        >>> ledger = Ledger(["human", "model"])
        >>> ids = torch.arange(4)
        >>> gain, weight = torch.tensor([0.5, 1.5, -1.0, 0.2]), torch.tensor([1.0, 1.0, 0.0, 1.0])
        >>> rows = ledger.write(0, ids, ids % 2, gain, weight)
        >>> page = report(ledger, Path(tempfile.mkdtemp()) / "gain.html", texts=["two", "three", "zebra", "five"])
        >>> "of 4 samples were kept" in page.read_text(encoding="utf-8")
        True

    """
    path, read = Path(path), read_source(source, texts)
    if rank_and_size()[0]:
        return path
    html = render(read, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8", errors="replace")
    return path


def render(read: Source, title: str) -> str:
    """The page about ``read``."""
    with extra("report", "The report page"):
        import jinja2
    loader = jinja2.PackageLoader("ggmi_callbacks.report", "templates")
    world = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    world.filters |= {"number": numbers.number, "percent": numbers.percent, "interval": numbers.interval}
    world.filters |= {"name": lambda text: harmless(str(text), NAME, mark=False), "count": "{:,}".format}
    script, style = (loader.get_source(world, name)[0] for name in ("search.js", "style.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return world.get_template("page.html.j2").render(
        **_content(read), title=title, script=script, style=style, script_digest=digest
    )


def _content(read: Source) -> dict[str, Any]:
    table, results = read.table, read.results
    found = samples(table)
    gain, groups = Mean.of(found.gain), by_source(found)
    coverage = float(np.isfinite(column(table, "gain")).mean()) if len(table) else 0.0
    acted, unit = bool((~found.kept).any()), read.unit or words.unit_of(read.scorer)
    shown = groups[:_MOST_SOURCES]
    ends = [end for group in shown for end in (group.gain.value, group.gain.low, group.gain.high) if group.gain.n > 1]
    return {
        "about": _about(read, found),
        "verdict": harmless(words.verdict(results, gain, groups, acted, unit), _SENTENCE),
        "alarms": words.alarms(results, coverage),
        "gain": gain,
        "kept": float(found.kept.mean()) if len(found) else float("nan"),
        "acted": acted,
        "coverage": coverage,
        "unit": unit,
        "gain_note": words.gain_note(unit),
        "forms": ggmi_forms(results),
        "gaps": gaps(results),
        "has_steps": "step" in table.column_names,
        "steps": over_steps(table),
        "groups": shown,
        "more_groups": len(groups) - len(shown),
        "scale": Axis.over(0.0, *ends),
        "of_sources": of_sources(results),
        "histogram": histogram(found) if gain.n else None,
        "parts": parts(found),
        "cost": cost(results, found, coverage),
        "everything": everything(results),
        **show(found, read),
    }


def _about(read: Source, found: Samples) -> list[str]:
    named = [("scorer", read.results.get("scorer")), ("policy", read.results.get("policy"))]
    visits = len(read.table)
    return [
        *(f"{what} {harmless(str(value), NAME, mark=False)}" for what, value in named if value),
        f"{len(found):,} samples" + (f" in {visits:,} visits" if visits > len(found) else ""),
        f"written on {datetime.now():%d %B %Y} by ggmi-callbacks {ggmi_callbacks.__version__}",
    ]
