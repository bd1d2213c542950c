"""Packed data sets: rows that hold several samples, split again and found again by content."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import datasets
import numpy as np

_LENGTHS = "seq_lengths"


def is_packed(data: Any) -> bool:
    """Whether rows of ``data`` say how many tokens each of their samples has."""
    return _LENGTHS in (getattr(data, "column_names", None) or ())


def unpack(data: datasets.Dataset) -> datasets.Dataset:
    """Data set with a row for each sample of the packed ``data``.

    Example:
        >>> row = {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, 5], "seq_lengths": [3, 2]}
        >>> unpack(datasets.Dataset.from_list([row])).to_list()
        [{'input_ids': [1, 2, 3], 'labels': [-100, 2, 3]}, {'input_ids': [4, 5], 'labels': [-100, 5]}]

    """
    return datasets.Dataset.from_list([sample for row in data for sample in _samples(row)])


def sizes(data: datasets.Dataset) -> list[int]:
    """Number of samples in each row."""
    return [len(lengths) for lengths in data[_LENGTHS]]


def number_packed(data: datasets.Dataset) -> list[list[int]]:
    """Ids of the samples in each row, in the order in which they stand there."""
    flat = iter(range(sum(sizes(data))))
    return [[next(flat) for _ in range(size)] for size in sizes(data)]


def match(data: datasets.Dataset, unpacked: Iterable[Mapping[str, Any]], max_length: int) -> list[list[int]]:
    """Positions in ``unpacked`` of the samples in each row of ``data``, by content; packing cuts at ``max_length``.

    Raises:
        ValueError: if a sample is not among them.

    """
    places: dict[bytes, deque[int]] = defaultdict(deque)
    for i, row in enumerate(unpacked):
        places[_content({key: row[key][:max_length] for key in ("input_ids", "labels")})].append(i)
    try:
        return [[places[_content(sample)].popleft() for sample in _samples(row)] for row in data]
    except IndexError:
        raise ValueError(
            "`train_dataset` or `eval_dataset` does not hold every sample that the trainer has packed: give the "
            "callback the very data set that you gave the trainer."
        ) from None


def _samples(row: Mapping[str, Any]) -> Iterator[dict[str, list[int]]]:
    start = 0
    for length in row[_LENGTHS]:
        yield {key: row[key][start : start + length] for key in ("input_ids", "labels")}
        start += length


def _content(sample: Mapping[str, list[int]]) -> bytes:
    return np.asarray([sample["input_ids"], sample["labels"]]).tobytes()
