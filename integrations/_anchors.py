"""Anchors by one door: whatever people have becomes rows, and rows become batches of model inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from torch.utils.data import DataLoader

from ggmi_callbacks.data import check_vocabulary
from ggmi_callbacks.model import preserved_rng
from ggmi_callbacks.tasks import Inputs

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_MOST = 10_000  # rows that are read from a stream; one with more may have no end


def read_anchors(anchors: Any, text: str = "text") -> Any:
    """Rows of ``anchors``, a ``datasets.Dataset`` or a map-style data set as it is.

    Args:
        anchors: a data set; a list of rows, conversations or texts; the path of a ``.jsonl``, ``.json`` or
            ``.parquet`` file; a name that ``datasets.load_dataset`` knows; a ``DatasetDict`` with one split; or a
            stream of at most 10,000 rows.
        text: column that a list of texts makes.

    Raises:
        TypeError: if they are none of these.
        ValueError: if there are fewer than two, several splits, no such data set, or a stream does not end.
        FileNotFoundError: if there is no such file.

    Example:
        >>> read_anchors(["two and two are four", "three and three are six"])[0]
        {'text': 'two and two are four'}

    """
    if isinstance(anchors, (str, os.PathLike)):
        anchors = _load(anchors)
    if isinstance(anchors, Mapping):
        anchors = _only_split(anchors)
    if isinstance(anchors, datasets.IterableDataset):
        anchors = _read_stream(anchors)
    if isinstance(anchors, (list, tuple)):
        anchors = datasets.Dataset.from_list([_row(i, row, text) for i, row in enumerate(anchors)])
    if anchors is not None and not (hasattr(anchors, "__len__") and hasattr(anchors, "__getitem__")):
        raise TypeError(
            "`anchors` must be a data set, a list of rows, the path of a .jsonl, .json or .parquet file, or a name on "
            f"the hub, got {type(anchors).__name__}."
        )
    size = 0 if anchors is None else len(anchors)
    if size < 2:
        raise ValueError(f"`anchors` must hold at least two real examples of the task, got {size}.")
    return anchors


def anchor_batches(
    prepared: Any, given: int, size: int, collate: Callable[[list[Any]], Any], model: Any
) -> list[Inputs]:
    """Batches of at most ``size`` anchors; ``given`` is how many there were before preprocessing."""
    if len(prepared) < 2:
        raise ValueError(
            f"`anchors` hold {len(prepared)} samples with target tokens after preprocessing (of {given}): their "
            "answers were masked or truncated away. Raise `max_length`, or check the completion mask."
        )
    size = min(size, max(1, len(prepared) // 4))
    with preserved_rng(), naming_columns(prepared):  # a DataLoader draws even when it does not shuffle
        batches = [dict(batch) for batch in DataLoader(prepared, size, collate_fn=collate)]
    if "input_ids" not in batches[0]:
        raise ValueError(f"the data collator makes no 'input_ids' of `anchors`; it makes {sorted(batches[0])}.")
    check_vocabulary(batches, model)
    return batches


class naming_columns:
    """Inside, a column that ``anchors`` lack is named, beside those that they have."""

    def __init__(self, anchors: Any) -> None:
        self.anchors = anchors

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyError):
            raise ValueError(
                f"`anchors` lack the column {error} that the trainer's preprocessing reads; they have "
                f"{columns_of(self.anchors)}. Give them the columns of `train_dataset`."
            ) from error


def columns_of(rows: Any) -> list[str]:
    """Names of the columns of ``rows``."""
    return list(rows.column_names if isinstance(rows, datasets.Dataset) else rows[0])


def _load(name: str | os.PathLike[str]) -> Any:
    path = Path(name)
    if path.suffix in _BUILDERS:
        if not path.is_file():
            raise FileNotFoundError(f"`anchors`: there is no file {str(path)!r}.")
        if path.stat().st_size == 0:
            raise ValueError(f"`anchors` {str(path)!r} is empty: give at least two real examples of the task.")
        return datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train")
    try:
        return datasets.load_dataset(os.fspath(name))
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`anchors` {os.fspath(name)!r} is neither a .jsonl, .json or .parquet file nor a data set that "
            f"`datasets.load_dataset` finds: {error}"
        ) from error


def _only_split(splits: Mapping[str, Any]) -> Any:
    if len(splits) != 1 or not isinstance(next(iter(splits.values())), (datasets.Dataset, datasets.IterableDataset)):
        raise ValueError(
            f"`anchors` must be one data set, got a {type(splits).__name__} with {sorted(splits)}: give one of them, "
            "as in `anchors=data['train']`."
        )
    return next(iter(splits.values()))


def _read_stream(stream: datasets.IterableDataset) -> datasets.Dataset:
    rows = list(islice(stream, _MOST + 1))
    if len(rows) > _MOST:
        raise ValueError(
            f"`anchors` is a stream of more than {_MOST} rows, or without an end: take what you mean, as in "
            "`anchors=stream.take(128)`."
        )
    return datasets.Dataset.from_list(rows, features=stream.features)


def _row(i: int, row: Any, text: str) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(row)
    if isinstance(row, str):
        return {text: row}
    if isinstance(row, Sequence) and row and all(isinstance(turn, Mapping) and "role" in turn for turn in row):
        return {"messages": [dict(turn) for turn in row]}
    raise TypeError(
        f"`anchors[{i}]` must be a row (a dictionary of columns), a list of messages or a text, got "
        f"{type(row).__name__}."
    )
