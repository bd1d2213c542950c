"""Some rows of a data set, written as they were."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ggmi_callbacks.scorers._stamp import Stamp
from ggmi_callbacks.scoring.data import digest_of_rows, read
from ggmi_callbacks.scoring.parts import whole

_FORMS = (".jsonl", ".json", ".parquet")


def check_output(output: str, data: str) -> None:
    """Raise if ``output`` cannot be written, or is ``data`` itself."""
    if output == "-":
        return
    if _form(output) not in _FORMS or output.endswith(".parquet.gz"):
        raise ValueError(
            f"--output {output!r} must end in {', '.join(_FORMS)}, .jsonl.gz or .json.gz, or be - (stdout)."
        )
    if Path(data).exists() and Path(output).resolve() == Path(data).resolve():
        raise ValueError(f"--output {output!r} is the data themselves: name another file.")


class Original:
    """The data that were scored.

    Args:
        data: a file, or a name on the hub, as :func:`ggmi_callbacks.scoring.data.read` takes it.

    """

    def __init__(self, data: str) -> None:
        self.data, self.rows = data, read(data, "data")

    def check(self, stamp: Stamp, size: int, scored: Path) -> None:
        """Raise if it is not these rows, the first ``size`` of them, that were scored."""
        if len(self.rows) < size or digest_of_rows(self.rows[:size]) != stamp.content:
            raise ValueError(
                f"{str(scored)!r} holds scores of {size} other rows than those of --data {self.data!r}: give the data "
                "that were scored, unchanged, or score again."
            )

    def write(self, ids: np.ndarray, output: str) -> None:
        """Write the rows ``ids``, in their order."""
        if output == "-":
            self._lines(ids, sys.stdout.buffer)
        elif _form(output) == ".parquet":
            whole(Path(output), lambda file: pq.write_table(self._table(ids), file))
        elif output.endswith(".gz"):
            whole(Path(output), lambda file: self._zipped(ids, output, file))
        else:
            whole(Path(output), lambda file: self._plain(ids, output, file))

    def _zipped(self, ids: np.ndarray, output: str, file: IO[bytes]) -> None:
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as zipped:
            self._plain(ids, output, zipped)  # type: ignore[arg-type]

    def _plain(self, ids: np.ndarray, output: str, file: IO[bytes]) -> None:
        if _form(output) == ".json":
            file.write(_json([self.rows[i] for i in ids], indent=1))
        else:
            self._lines(ids, file)

    def _lines(self, ids: np.ndarray, file: IO[bytes]) -> None:
        lines = list(_raw_lines(self.data)) if _form(self.data) in (".jsonl", ".json") else []
        for i in ids:
            # A .json file with an array has no line for each row.
            file.write(lines[i] if len(lines) == len(self.rows) else _json(self.rows[i]))

    def _table(self, ids: np.ndarray) -> pa.Table:
        if self.data.endswith(".parquet"):
            return pq.read_table(self.data).take(pa.array(ids))
        return pa.Table.from_pylist([self.rows[i] for i in ids])


def _form(name: str) -> str:
    return Path(name.removesuffix(".gz")).suffix


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str, indent=indent).encode() + b"\n"


def _raw_lines(name: str) -> Iterator[bytes]:
    """Lines that hold a row, each with its end."""
    with pa.input_stream(name) as stream:  # unzips by the name's end
        content = stream.read()
    if content.lstrip()[:1] == b"[":
        return
    for line in content.splitlines(keepends=True):
        if line.strip():
            yield line if line.endswith(b"\n") else line + b"\n"
