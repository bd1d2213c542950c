"""The training set of a Hugging Face trainer as the engine has to know it: ids, sources, size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from torch.utils.data import IterableDataset, get_worker_info

from ggmi_callbacks.data import Numbered, SampleData, decoder
from ggmi_callbacks.tasks import SAMPLE_KEY


@dataclass(frozen=True)
class Samples:
    """A training set and what was read from it."""

    data: Any
    """The data set itself, as the trainer has it."""
    numbered: Any
    """The same with sample ids, which a collator carries into the batch."""
    size: int | None
    """How many samples there are, if ids are positions among them."""
    sources: list[str | None] | None = None
    """Source of each sample, by id."""
    per_row: int = 1
    """Most samples in a row."""
    table: SampleData | None = None
    """What scorers may read of the samples, by id; None for a stream."""
    heldout: Any = None
    """Rows with ids that are not among ``numbered``, since they are never trained on; None if no share is held out."""


class Decoded:
    """Texts of a tokenised training set by sample id, as the model reads them."""

    def __init__(self, samples: SampleData) -> None:
        self._samples = samples

    def __getitem__(self, index: int) -> dict[str, str]:
        if not 0 <= index < len(self._samples):
            raise IndexError(index)
        return self._samples.text(index)


def read_samples(data: Any, source: str | None, ranks: int = 1, rank: int = 0, tokenizer: Any = None) -> Samples:
    """Samples of a training set of which each row is one.

    Args:
        data: the trainer's training set.
        source: name of the column with sources, or None.
        ranks: processes that train together.
        rank: this one's number.
        tokenizer: the trainer's ``processing_class``, for scores that read texts.

    Raises:
        ValueError: if there is no training set, it cannot be numbered, or has no such column.

    """
    if data is None:
        raise ValueError("`trainer` has no `train_dataset`, so there are no samples to score.")
    sources = None if source is None else read_sources(data, source)
    numbered = number(data, ranks, rank)
    if not hasattr(data, "__len__"):
        return Samples(data, numbered, None, sources)
    return Samples(data, numbered, len(data), sources, table=SampleData(data, decode=decoder(tokenizer)))


def read_named(data: Any, source: str) -> Samples | None:
    """Samples of an evaluation set with their sources; None for a set that does not name them, or for a stream."""
    if isinstance(data, (IterableDataset, datasets.IterableDataset)):
        return None
    columns = data.column_names if isinstance(data, datasets.Dataset) else data[0] if len(data) else ()
    if not isinstance(columns, (list, Mapping)) or source not in columns:
        return None
    return Samples(data, number(data), len(data), read_sources(data, source))


def read_sources(data: Any, column: str) -> list[str | None]:
    """Source of each sample of ``data``, by position."""
    if isinstance(data, (IterableDataset, datasets.IterableDataset)):
        raise ValueError(
            f"`source` {column!r} needs a data set with a length; a stream's sources are not known beforehand."
        )
    if isinstance(data, datasets.Dataset):
        if column not in data.column_names:
            raise ValueError(f"`source` {column!r} is not a column of `train_dataset`, which has {data.column_names}.")
        values = data[column]
    else:
        values = [data[i].get(column) for i in range(len(data))]
        if None in values:
            raise ValueError(f"`source` {column!r} is missing from sample {values.index(None)} of `train_dataset`.")
    return [None if value is None else str(value) for value in values]


def number(data: Any, ranks: int = 1, rank: int = 0) -> Any:
    """``data`` with a column of sample ids: positions in it, or for a stream numbers that no other sample has."""
    if isinstance(data, datasets.IterableDataset):
        return data.map(_number_in_stream, with_indices=True, fn_kwargs={"ranks": ranks, "rank": rank})
    if isinstance(data, datasets.Dataset):
        return data.add_column(SAMPLE_KEY, list(range(len(data))))
    if isinstance(data, IterableDataset):
        raise ValueError("`train_dataset` must be a `datasets` data set or have a length, got an IterableDataset.")
    return Numbered(data)


def _number_in_stream(row: dict[str, Any], index: int, ranks: int, rank: int) -> dict[str, int]:
    """Each rank and each of its workers counts its own part of the stream from zero."""
    worker = get_worker_info()
    if worker is not None:
        index = index * worker.num_workers + worker.id
    return {SAMPLE_KEY: index * ranks + rank}
