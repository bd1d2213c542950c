"""Loss, gain and share kept by source as one table, at the end of a run, in loggers that have tables.

W&B          a table, and a bar chart of each number
TensorBoard  a table under "text", and a chart of all sources for each number under "custom scalars"
MLflow       ``ggmi/sources.csv`` among the artifacts; ``ggmi/gain`` is ``ggmi/gain/all sources`` there
Trackio      a table
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from typing import Any

_NUMBERS = ("nll", "gain", "kept")
KEY = "ggmi/sources"

Table = tuple[list[str], list[list[Any]]]
"""Names of the columns, and rows."""


def table_of(results: Mapping[str, Any]) -> Table:
    """The numbers of each source in ``results``; no rows if there are none.

    Example:
        >>> table_of({"ggmi/nll/exam": 2.0, "ggmi/nll/web": 3.0, "ggmi/gain/web": 0.5, "ggmi/gain": 0.1})
        (['source', 'nll', 'gain'], [['exam', 2.0, None], ['web', 3.0, 0.5]])

    """
    found: dict[str, dict[str, Any]] = {}
    for key, value in results.items():
        kind, _, source = key.removeprefix("ggmi/").partition("/")
        if source and kind in _NUMBERS:
            found.setdefault(source, {})[kind] = value
    kinds = [kind for kind in _NUMBERS if any(kind in numbers for numbers in found.values())]
    rows = [[source, *(numbers.get(kind) for kind in kinds)] for source, numbers in sorted(found.items())]
    return ["source", *kinds], rows


def told_apart(logs: Mapping[str, Any]) -> dict[str, Any]:
    """``logs`` for a store that cannot hold ``ggmi/gain`` beside ``ggmi/gain/<source>``: MLflow's files and folders.

    Example:
        >>> told_apart({"loss": 2.0, "ggmi/gain": 0.1, "ggmi/gain/web": 0.5})
        {'loss': 2.0, 'ggmi/gain/all sources': 0.1, 'ggmi/gain/web': 0.5}

    """
    totals = {f"ggmi/{kind}" for kind in _NUMBERS}
    return {f"{key}/all sources" if key in totals else key: value for key, value in logs.items()}


def to_wandb(run: Any, table: Table) -> None:
    """Log ``table`` to a run of W&B."""
    import wandb

    columns, rows = table
    shown = wandb.Table(columns=columns, data=rows)
    bars = {f"{KEY}/{kind}": wandb.plot.bar(shown, "source", kind, title=f"{kind} by source") for kind in columns[1:]}
    run.log({KEY: shown, **bars})


def to_trackio(log: Callable[[dict[str, Any]], Any], table: Table) -> None:
    """Log ``table`` with Trackio's ``log``."""
    import trackio

    columns, rows = table
    log({KEY: trackio.Table(columns=columns, data=rows)})


def to_tensorboard(writer: Any, table: Table, step: int) -> None:
    """Write ``table`` with a ``SummaryWriter``."""
    columns, rows = table
    lines = [columns, ["---"] * len(columns), *rows]
    writer.add_text(KEY, "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines), step)
    charts = {f"{kind} by source": ["Multiline", [rf"ggmi/{kind}/"]] for kind in columns[1:]}
    writer.add_custom_scalars({"GGMI": charts})
    writer.flush()


def to_mlflow(log_text: Callable[[str, str], Any], table: Table) -> None:
    """Log ``table`` as an artifact, with ``log_text(text, file)``."""
    columns, rows = table
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    log_text(text.getvalue(), f"{KEY}.csv")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
