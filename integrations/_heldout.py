"""Samples that are never trained on: the user's own, or a share of the training set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import datasets
import torch
from torch.utils.data import DataLoader, Subset

from ggmi_callbacks.data import CarryIds
from ggmi_callbacks.integrations import _compat
from ggmi_callbacks.integrations._anchors import anchor_batches
from ggmi_callbacks.integrations._datasets import Samples
from ggmi_callbacks.model import preserved_rng
from ggmi_callbacks.tasks import SAMPLE_KEY, Inputs

FEWEST = 16
"""Samples below which nothing is held out: as many pairs as one bin of the information's estimator takes."""


class HeldOut:
    """What a callback holds out: nothing, samples of the user's own, or a share of the training set.

    Args:
        given: ``None``, a share, or samples.
        read: makes rows of the samples, prepared as the trainer prepares its own.

    Raises:
        TypeError: if ``given`` is a whole number.
        ValueError: if it is a share that is not between 0 and 1.

    """

    def __init__(self, given: Any, read: Callable[[], Any]) -> None:
        is_number = isinstance(given, (int, float)) and not isinstance(given, bool)
        if is_number and not 0 < given < 1:
            raise ValueError(
                f"`heldout` must be a share of the training set between 0 and 1, such as 0.02, or samples, got {given}."
            )
        self._share: float | None = given if is_number else None
        self._own = None if is_number or given is None else read()

    def reserve(self, samples: Samples, seed: int) -> Samples:
        """``samples`` without the share, drawn at random by ``seed``, which stands in :attr:`Samples.heldout`.

        Ids, sources and table stay those of the whole set. Rows are drawn one by one, whatever prompt they answer, so
        that those held out are a random part of the very law that is trained on. Packed rows are held out whole.

        Raises:
            ValueError: if the data is a stream, or the share has too few samples or leaves none.

        """
        if self._share is None:
            return samples
        if samples.size is None:
            raise ValueError(
                f"`heldout={self._share}` is a share of a training set, and a stream has no size: give rows of the "
                "same kind that are not trained on, as in `heldout=list(stream.take(256))` beside "
                "`train_dataset=stream.skip(256)`."
            )
        rows = samples.numbered
        count = round(self._share * len(rows))
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        held, left = (_at(rows, part.sort().values.tolist()) for part in (drawn[:count], drawn[count:]))
        found = _count(held)
        if found < FEWEST or not len(left):
            raise ValueError(
                f"`heldout={self._share}` of {samples.size} samples gives {found}, and at least {FEWEST} are needed, "
                f"with some left to train on: {FEWEST} are a share of {FEWEST / samples.size:.2g}. Give a share that "
                "has them, or samples of your own."
            )
        return replace(samples, numbered=left, heldout=held)

    def batches(self, trainer: Any, samples: Samples, size: int, collate: Any, model: Any) -> list[Inputs]:
        """What is held out, in batches of ``size``; those of a share carry ids, and are made as training batches are.

        Args:
            trainer: the trainer.
            samples: what :meth:`reserve` made.
            size: of a batch.
            collate: makes batches of the user's own samples.
            model: that trains.

        """
        if self._own is not None:
            return anchor_batches(self._own, len(self._own), size, collate, model)
        if samples.heldout is None:
            return []
        used = {*_compat.signature_columns(trainer), SAMPLE_KEY}
        keep_all = not trainer.args.remove_unused_columns
        rows = [{name: x for name, x in row.items() if keep_all or name in used} for row in _each(samples.heldout)]
        with preserved_rng():  # a DataLoader draws even when it does not shuffle
            loader: DataLoader[Any] = DataLoader(rows, size, collate_fn=CarryIds(trainer.data_collator))  # type: ignore[arg-type]
            return [dict(batch) for batch in loader]


def _at(rows: Any, places: list[int]) -> Any:
    return rows.select(places) if isinstance(rows, datasets.Dataset) else Subset(rows, places)


def _each(rows: Any) -> Iterator[dict[str, Any]]:
    return (rows[i] for i in range(len(rows)))


def _count(rows: Any) -> int:
    """Number of samples: a packed row has several ids."""
    return sum(len(row[SAMPLE_KEY]) if isinstance(row[SAMPLE_KEY], list) else 1 for row in _each(rows))
