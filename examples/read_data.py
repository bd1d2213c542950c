"""Data sets from files and from the hub, in a form that ``SFTTrainer`` takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, load_dataset

from ggmi_callbacks.scoring.data import COMPLETIONS, PROMPTS, find_column

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
READY = ({"messages"}, {"prompt", "completion"}, {"text"})


def read(
    argument: str,
    name: str,
    *,
    columns: tuple[str | None, str | None] = (None, None),
    keep: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Read a data set and name its columns as ``SFTTrainer`` expects them.

    Args:
        argument: the command-line argument that gave ``name``, for messages.
        name: a file (JSONL or Parquet, also gzipped), or ``NAME[:CONFIG[:SPLIT]]`` on the hub.
        columns: names of the prompt's and the completion's column; found by their usual names if None.
        keep: other columns to keep; they must be there.
        limit: at most so many rows, drawn at random.
        seed: of that draw.

    """
    data = _load(argument, name)
    missing = [column for column in keep if column not in data.column_names]
    if missing:
        sys.exit(f"{argument} {name}: there is no column {missing[0]!r}, only {', '.join(data.column_names)}.")
    data = _rename(argument, data, columns, keep)
    if limit is not None and limit < len(data):
        data = data.shuffle(seed=seed).select(range(limit))
    return data


def texts_of(data: Dataset) -> list[str]:
    """Return what a tokenizer should be trained on."""
    if "text" in data.column_names:
        return list(data["text"])
    if "messages" in data.column_names:
        return [message["content"] for messages in data["messages"] for message in messages]
    return [row["prompt"] + row["completion"] for row in data]


def _load(argument: str, name: str) -> Dataset:
    path = Path(name)
    kind = FORMATS.get(path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix)
    if path.is_file() and kind:
        return load_dataset(kind, data_files=str(path), split="train")
    if kind or path.exists():
        what = "is not there" if kind else "is not JSONL or Parquet"
        sys.exit(f"{argument} {name}: the file {what}. Files end in .jsonl, .jsonl.gz, .json or .parquet.")
    hub, config, split = ([*name.split(":"), "", ""])[:3]
    try:
        return load_dataset(hub, config or None, split=split or "train")
    except (OSError, ValueError) as error:
        sys.exit(
            f"{argument} {name}: neither a file nor readable from the hub ({error}).\n"
            "Give a .jsonl, .jsonl.gz or .parquet file, or NAME[:CONFIG[:SPLIT]] on the hub, as in openai/gsm8k:main."
        )


def _rename(argument: str, data: Dataset, columns: tuple[str | None, str | None], keep: Sequence[str]) -> Dataset:
    """Give the text columns the names that ``SFTTrainer`` knows, and drop what nobody asked for."""
    names = data.column_names
    ready = next((form for form in READY if form <= set(names)), None)
    if ready is not None and not set(columns) & set(names):
        return data.select_columns([*ready, *keep])
    try:
        prompt = find_column(argument, "--prompt-column", columns[0], PROMPTS, names)
        completion = find_column(argument, "--completion-column", columns[1], COMPLETIONS, names)
    except ValueError as error:
        sys.exit(str(error))

    def join(row: dict[str, str]) -> dict[str, str]:
        question = "\n".join(filter(None, (row[prompt], row.get("input"))))  # instruction data has an input, or ""
        return {"prompt": question + "\n", "completion": row[completion]}

    return data.map(join, remove_columns=[name for name in names if name not in keep])
