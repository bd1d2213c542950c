"""What a report is made of, from whatever it is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.engine.ledger_view import Samples, unit_of
from ggmi_callbacks.report.texts import COLUMNS, Text, text_of


@dataclass(frozen=True)
class Source:
    """A ledger's table, what a run said of itself, and texts by sample id."""

    table: pa.Table
    results: Mapping[str, Any]
    scorer: Any
    """The scorer or its name; None if it is not known."""
    texts: Any
    unit: str | None = None
    """Of the gains, in words, where the table says so; else the scorer tells."""

    def text(self, found: Samples, i: int) -> Text | None:
        """Text of the ``i``-th sample of ``found``; None if there are no texts.

        Raises:
            ValueError: if ``texts`` do not have it, or hold no text.

        """
        if self.texts is None:
            return None
        number = int(found.ids[i])
        try:
            row = self.texts[number]
        except (IndexError, KeyError) as error:
            raise ValueError(
                f"`texts` has no row for sample {number}: give the training set that the run had, in its order."
            ) from error
        text = text_of(row)
        if text is None:
            has = f"the columns {sorted(row)}" if isinstance(row, Mapping) else type(row).__name__
            raise ValueError(
                f"`texts` holds no text of sample {number}: its row has {has}, and texts are looked for under "
                f"{', '.join(COLUMNS)}. Rename a column, or give a list of strings."
            )
        return text


def read_source(source: Any, texts: Any) -> Source:
    """Read a callback, an engine, a ledger, its folder or a file; ``texts`` go before its own.

    Raises:
        TypeError: if it is none of these.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no Parquet file, or its table has no column ``gain``.

    """
    if isinstance(source, str | PathLike):
        table = _read(Path(fspath(source)))
        own = _Columns(table) if set(COLUMNS) & set(table.column_names) else None
        scorer = _scorer(table)
        texts = own if texts is None else texts
        return Source(table, {"scorer": scorer} if scorer else {}, scorer, texts, unit_of(table))
    if isinstance(source, Ledger):
        return Source(source.table, {}, None, texts, source.unit)
    if not hasattr(source, "ledger") or not hasattr(source, "results"):
        raise TypeError(
            "`source` must be a callback, a GainEngine, a Ledger or the path of a Parquet file, got "
            f"{type(source).__name__}."
        )
    results, engine = source.results(), getattr(source, "engine", source)
    scorer = getattr(engine, "scorer", None) or results.get("scorer")
    return Source(source.ledger.table, results, scorer, getattr(source, "texts", None) if texts is None else texts)


def _read(path: Path) -> pa.Table:
    if path.is_dir():
        return Ledger.read(path).table
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} (looked from {str(Path.cwd())!r}).")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # Arrow's own errors are among these
        raise ValueError(f"{str(path)!r} cannot be read as Parquet: {error}") from error
    if "gain" not in table.column_names:
        raise ValueError(
            f"{str(path)!r} has no column 'gain' but {table.column_names}: give what `Ledger.to_parquet` or "
            "`ggmi score` wrote."
        )
    return table


def _scorer(table: pa.Table) -> str | None:
    """The scorer that an offline scoring names in its file; None in a ledger's."""
    stamp = (table.schema.metadata or {}).get(b"ggmi_scored")
    return json.loads(stamp).get("scorer") if stamp else None


class _Columns:
    """Rows of a table by sample id, for texts that it brings along; a later visit's row like an earlier one's."""

    def __init__(self, table: pa.Table) -> None:
        names = [name for name in table.column_names if name in COLUMNS]
        self._table = table.select(names)
        ids = table["id"].to_pylist() if "id" in table.column_names else range(len(table))
        self._place = {number: i for i, number in enumerate(ids)}

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._table.slice(self._place[number], 1).to_pylist()[0]
