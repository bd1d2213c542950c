"""Rows of a file, for whoever brings no data sets along."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

_FORMS = (".jsonl", ".json", ".parquet")


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a ``.jsonl``, ``.json`` (an array of objects, or one a line) or ``.parquet`` file, gzipped or not.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is of another form, or cannot be read as what its name says.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "anchors.jsonl"
        >>> _ = file.write_text('{"text": "two and two"}')
        >>> read_rows(file)
        [{'text': 'two and two'}]

    """
    path = Path(path)
    form = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if form not in _FORMS:
        raise ValueError(f"{str(path)!r} must end in {', '.join(_FORMS)}, or one of these and .gz.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} (looked from {str(Path.cwd())!r}).")
    try:
        with pyarrow.input_stream(str(path)) as stream:  # unzips by the name's end
            content = stream.read()
        rows = parquet.read_table(pyarrow.BufferReader(content)).to_pylist() if form == ".parquet" else _json(content)
    except (OSError, ValueError) as error:  # Arrow's and json's own errors are among these
        raise ValueError(f"{str(path)!r} cannot be read as {form}: {error}") from error
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{str(path)!r} must hold an object for each row, got {row!r}.")
    return rows


def _json(content: bytes) -> list[Any]:
    """The rows of an array, or of one line each. Arrow's own reader would make dates of texts that look like some."""
    if content.lstrip()[:1] == b"[":
        return json.loads(content)
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return rows
