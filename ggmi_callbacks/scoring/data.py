"""Rows of whatever people have, with the columns that a trainer of language models knows."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ggmi_callbacks._extras import extra
from ggmi_callbacks.rows import read_rows

PROMPTS = ("prompt", "question", "instruction", "problem", "query")
COMPLETIONS = ("completion", "answer", "solution", "output", "response")
READY = ({"input_ids"}, {"prompt", "completion"}, {"messages"}, {"conversations"}, {"text"})
"""Columns of which nobody has to say what they are, by what is taken first."""

Rows = list[dict[str, Any]]


def read(data: Any, argument: str, limit: int | None = None) -> Rows:
    """Rows of ``data``, the first ``limit`` of them.

    Args:
        data: the path of a ``.jsonl``, ``.json`` or ``.parquet`` file, gzipped or not; ``NAME[:CONFIG[:SPLIT]]`` on the
            hub; or rows: a ``datasets.Dataset``, a sequence of dictionaries.
        argument: that gave it, for messages.
        limit: at most so many; None for all.

    Raises:
        ValueError: if there are no rows, or ``data`` cannot be read.

    """
    rows = data
    if isinstance(data, (str, os.PathLike)):
        name = os.fspath(data)
        is_file = Path(name.removesuffix(".gz")).suffix in (".jsonl", ".json", ".parquet")
        try:
            rows = read_rows(name) if is_file else _load(name)
        except (OSError, ValueError) as error:
            raise ValueError(f"`{argument}`: {error}") from error
    if not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")) or isinstance(rows, Mapping):
        raise ValueError(
            f"`{argument}` must be a file, a name on the hub, a data set or a list of rows, got {type(rows).__name__}."
        )
    rows = list(islice(rows if hasattr(rows, "__iter__") else (rows[i] for i in range(len(rows))), limit))
    if not rows:
        raise ValueError(f"`{argument}` holds no rows.")
    if not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"`{argument}` must hold dictionaries of columns, and the first row is {rows[0]!r}.")
    return rows


def _load(name: str) -> Any:
    with extra("transformers", f"Reading {name!r}, which is no .jsonl, .json or .parquet file,"):
        import datasets

    path, config, split = ([*name.split(":"), "", ""])[:3]
    try:
        return datasets.load_dataset(path, config or None, split=split or "train")
    except Exception as error:  # of a kind for each thing that can go wrong on the hub
        raise ValueError(
            f"{name!r} is neither a .jsonl, .json or .parquet file nor NAME[:CONFIG[:SPLIT]] of a data set: "
            f"{type(error).__name__}: {error}"
        ) from error


def name_columns(rows: Rows, argument: str, prompt: str | None = None, completion: str | None = None) -> Rows:
    """``rows`` with the texts under names that ``SFTTrainer`` knows.

    Columns are found by their usual names, or are the ones named; they are renamed and nothing else.

    Raises:
        ValueError: if no column, or more than one, could be it.

    Example:
        >>> name_columns([{"question": "1+1?", "answer": "2"}], "data")
        [{'prompt': '1+1?', 'completion': '2'}]

    """
    names = set(rows[0])
    for flag, wanted in (("prompt_column", prompt), ("completion_column", completion)):
        if argument == "data" and wanted is not None and wanted not in names:
            raise ValueError(f"`{flag}` {wanted!r} is not a column of `data`, which has {', '.join(rows[0])}.")
    if any(form <= names for form in READY) and not {prompt, completion} & names - {"prompt", "completion"}:
        return rows
    texts = {
        "prompt": find_column(f"`{argument}`", "`prompt_column`", prompt, PROMPTS, rows[0]),
        "completion": find_column(f"`{argument}`", "`completion_column`", completion, COMPLETIONS, rows[0]),
    }
    taken = set(texts.values())
    return [
        {**{k: v for k, v in row.items() if k not in taken}, **{new: row.get(old) for new, old in texts.items()}}
        for row in rows
    ]


def find_column(argument: str, flag: str, wanted: str | None, usual: Sequence[str], names: Collection[str]) -> str:
    """The one of ``names`` that is ``wanted``, or else has a usual name.

    Raises:
        ValueError: if none or several could be it; it says so of ``argument``, and that ``flag`` decides.

    """
    found = [name for name in ([wanted] if wanted else usual) if name in names]
    if wanted and not found and (others := [name for name in usual if name in names]):
        found = others  # files of one job may name their columns differently
    if len(found) != 1:
        trouble = f"columns {' and '.join(found)} could both be it" if found else f"found none of {', '.join(usual)}"
        raise ValueError(f"{argument}: {trouble} among {', '.join(names)}. Say which with {flag}.")
    return found[0]


def digest_of_rows(rows: Rows) -> str:
    """Digest of what ``rows`` hold, in their order, whatever the file that they came in."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
