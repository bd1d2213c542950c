"""Where the rows of a ledger are: in memory, or in a folder of Parquet files that grows as the run goes.

The folder holds ``rows-<first>-<end>.parquet``, each with the rows of these positions. A file appears whole or not at
all, so whatever kills the run leaves a folder that can be read. Many small files become one: first the new one is
there, then the old ones go, and whoever reads takes the file that covers most. So no row is read twice or missed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from ggmi_callbacks.distributed import rank_and_size

ROW_GROUP = 2**17
"""Rows after which a file is complete and not written again."""

_LOOSE = 64  # smaller files that wait to become one
_logger = logging.getLogger("ggmi_callbacks")
_NAME = re.compile(r"rows-(\d+)-(\d+)\.parquet")


class Store(Protocol):
    """Rows in the order in which they came."""

    def __len__(self) -> int: ...

    def begin(self) -> None:
        """Say that a run begins to write."""

    def append(self, table: pa.Table) -> None:
        """Add rows."""

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows, some at a time."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold of them."""
        ...

    def load_state_dict(self, state: dict[str, Any], schema: pa.Schema) -> None:
        """Go back to where :meth:`state_dict` was called."""


class Memory:
    """Rows in memory; a checkpoint holds them all."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def begin(self) -> None:
        """See :meth:`Store.begin`."""

    def append(self, table: pa.Table) -> None:
        """See :meth:`Store.append`."""
        self._tables.append(table)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """See :meth:`Store.tables`."""
        for table in self._tables:
            yield table if columns is None else table.select(list(columns))

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Store.state_dict`."""
        return {"columns": pa.concat_tables(self._tables).to_pydict() if self._tables else {}}

    def load_state_dict(self, state: dict[str, Any], schema: pa.Schema) -> None:
        """See :meth:`Store.load_state_dict`.

        Raises:
            ValueError: if the rows are in a folder.

        """
        if "columns" not in state:
            raise ValueError(
                f"the checkpoint's ledger is in the folder {state['folder']!r}: give `ledger=` that folder."
            )
        self._tables = [pa.table(state["columns"], schema=schema)] if state["columns"] else []


class Folder:
    """Rows in a folder; a checkpoint holds their number. The first of several ranks writes.

    Args:
        path: of the folder, which is made.

    Raises:
        ValueError: if something else than a folder is there.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(
                f"`ledger` {str(path)!r} is a file, and a ledger is written into a folder: give another path."
            )
        self._writes = rank_and_size()[0] == 0
        self._rows = 0
        self._begun = False
        self._loose: list[Path] = []  # the last files, which are to become one
        self._waiting: list[pa.Table] = []  # what could not be written yet
        self._failed = False

    def __len__(self) -> int:
        return self._rows if self._begun else max((_ends(path)[1] for path in self._files()), default=0)

    @property
    def _kept_back(self) -> int:
        return sum(map(len, self._waiting))

    def begin(self) -> None:
        """See :meth:`Store.begin`.

        Raises:
            ValueError: if rows of another run are there, or what is no ledger.

        """
        if self._begun:
            return
        if others := sorted(path.name for path in self._all() if not _is_ours(path)):
            raise ValueError(
                f"`ledger` {str(self.path)!r} holds {', '.join(others[:3])}, which are no rows of a ledger: give a "
                "folder of its own, such as that one's 'ledger'."
            )
        if rows := len(self):
            raise ValueError(
                f"`ledger` {str(self.path)!r} holds {rows} rows of another run: give another folder, or move it away. "
                "To go on with that run, resume it from its checkpoint."
            )
        self._begun = True

    def append(self, table: pa.Table) -> None:
        """See :meth:`Store.append`."""
        self._rows += len(table)
        if not self._writes or not len(table):
            return
        self._waiting.append(table)
        try:
            self._write_waiting()
        except OSError as error:  # a full disk, a share that is gone: nothing to end a run for
            if not self._failed:
                self._failed = True
                _logger.warning(
                    "GGMI: the ledger cannot be written into %s (%s). Its rows stay in memory, and are written as soon "
                    "as that can be; training goes on.",
                    self.path,
                    error,
                )

    def _write_waiting(self) -> None:
        """Write the rows that wait, and make one file of many."""
        self._loose.append(self._write(self._rows - self._kept_back, pa.concat_tables(self._waiting)))
        self._waiting, self._failed = [], False
        rows = self._rows - _ends(self._loose[0])[0]
        if rows >= ROW_GROUP or len(self._loose) >= _LOOSE:
            old, start = self._loose, _ends(self._loose[0])[0]
            whole = old[0] if len(old) == 1 else self._write(start, pa.concat_tables(map(_read, old)))
            for path in old:
                if path != whole:
                    path.unlink()
            self._loose = [] if rows >= ROW_GROUP else [whole]

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """See :meth:`Store.tables`."""
        for path in self._files():
            yield _read(path, columns)
        for table in self._waiting:
            yield table if columns is None else table.select(list(columns))

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Store.state_dict`."""
        return {"rows": self._rows - self._kept_back, "folder": str(self.path)}

    def load_state_dict(self, state: dict[str, Any], schema: pa.Schema) -> None:
        """See :meth:`Store.load_state_dict`; rows that came after the checkpoint are removed.

        Raises:
            ValueError: if the folder does not hold what the checkpoint has counted.

        """
        if "columns" in state:  # of a run that had no folder
            self.begin()
            self._rows = 0
            self.append(pa.table(state["columns"], schema=schema))
            return
        self._begun, found = False, len(self)
        if found < state["rows"]:
            raise ValueError(
                f"`ledger` {str(self.path)!r} holds {found} rows, and the checkpoint was written after "
                f"{state['rows']}: give the folder of that run, {state['folder']!r} at that time."
            )
        self._begun, self._rows = True, state["rows"]
        if self._writes:
            self._cut(state["rows"])

    def _cut(self, rows: int) -> None:
        """Remove all beyond the first ``rows`` rows, and what a kill has left behind."""
        self._loose, kept = [], []
        for path in self._files():
            start, end = _ends(path)
            if start < rows < end:
                path = self._write(start, _read(path).slice(0, rows - start))
            if start < rows:
                kept.append(path)
                self._loose = [] if min(rows, end) - start >= ROW_GROUP else [*self._loose, path]
        for path in self._all():
            if path not in kept and _is_ours(path):
                path.unlink()

    def _all(self) -> list[Path]:
        return list(self.path.iterdir()) if self.path.exists() else []

    def _files(self) -> list[Path]:
        """Files that together hold every row once, in their order."""
        paths = [path for path in self.path.glob("rows-*.parquet") if _NAME.fullmatch(path.name)]
        found, at = [], 0
        for path in sorted(paths, key=lambda path: (_ends(path)[0], -_ends(path)[1])):
            start, end = _ends(path)
            if start == at:
                found.append(path)
                at = end
        return found

    def _write(self, first: int, table: pa.Table) -> Path:
        """Write a file, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / f"rows-{first:012d}-{first + len(table):012d}.parquet"
        part = path.with_suffix(".part")
        pq.write_table(table, part)
        os.replace(part, path)
        return path


def _read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Rows of one file, whatever the names of the folders around it say."""
    with pq.ParquetFile(path) as file:
        return file.read(None if columns is None else list(columns))


def _is_ours(path: Path) -> bool:
    """Whether a ledger writes files of that name."""
    return bool(_NAME.fullmatch(path.with_suffix(".parquet").name)) and path.suffix in (".parquet", ".part")


def _ends(path: Path) -> tuple[int, int]:
    """Positions of a file's first row and after its last one."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2])
