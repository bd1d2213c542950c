"""The data side of the Hugging Face integrations: anchors, sample ids and sources of a trainer's data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ggmi_callbacks.data import Numbered
from ggmi_callbacks.model import preserved_rng
from ggmi_callbacks.tasks import SAMPLE_KEY, Inputs


def check_size(anchors: Any) -> None:
    """Raise if ``anchors`` are fewer than two."""
    size = 0 if anchors is None else len(anchors) if hasattr(anchors, "__len__") else 2
    if size < 2:
        raise ValueError(f"`anchors` must hold at least two real examples of the task, got {size}.")


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
    with preserved_rng():  # a DataLoader draws from the global stream even when it does not shuffle
        batches = [dict(batch) for batch in DataLoader(prepared, size, collate_fn=collate)]
    embeddings: nn.Embedding = model.get_input_embeddings()
    largest = max(int(batch["input_ids"].max()) for batch in batches)
    if largest >= embeddings.num_embeddings:
        raise ValueError(
            f"`anchors` hold token id {largest}, the model's vocabulary has {embeddings.num_embeddings}: they were "
            "tokenised with another tokenizer."
        )
    return batches


def read_sources(data: Any, column: str) -> list[str | None]:
    """Source of each sample of ``data``, by position."""
    if isinstance(data, (IterableDataset, datasets.IterableDataset)):
        raise ValueError("`source` needs a data set with a length; a stream's sources are not known in advance.")
    if isinstance(data, datasets.Dataset):
        if column not in data.column_names:
            raise ValueError(f"`source` {column!r} is not a column of `train_dataset`, which has {data.column_names}.")
        values = data[column]
    else:
        values = [data[i].get(column) for i in range(len(data))]
        if None in values:
            raise ValueError(f"`source` {column!r} is missing from sample {values.index(None)} of `train_dataset`.")
    return [None if value is None else str(value) for value in values]


def number(data: Any) -> Any:
    """``data`` with a column of sample ids: the position in the training set."""
    if isinstance(data, datasets.IterableDataset):
        return data.map(lambda _, index: {SAMPLE_KEY: index}, with_indices=True)
    if isinstance(data, datasets.Dataset):
        return data.add_column(SAMPLE_KEY, list(range(len(data))))
    if isinstance(data, IterableDataset):
        raise ValueError("`train_dataset` must be a `datasets` data set or have a length, got an IterableDataset.")
    return Numbered(data)
