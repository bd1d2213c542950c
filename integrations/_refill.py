"""A trainer's loader whose batches are full of samples that its filter keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from ggmi_callbacks.engine import GainEngine, Refill


class RefilledLoader(DataLoader[Any]):
    """Stands in for ``loader``: as long, over the same data, its batches from :class:`~ggmi_callbacks.Refill`.

    Args:
        loader: the trainer's own.
        engine: gives the engine of the run, which is made after the loader.
        seed: of the order of each pass.
        skips: whether the trainer, when it resumes in the middle of an epoch, skips batches that it has had.

    """

    def __init__(self, loader: DataLoader[Any], engine: Callable[[], GainEngine], seed: int, skips: bool) -> None:
        # A DataLoader draws from the global stream if it has no generator.
        super().__init__(_Batches(loader, engine, seed, skips), batch_size=None, generator=torch.Generator())
        self._length = len(loader)

    def __len__(self) -> int:
        return self._length


class _Batches(IterableDataset[Any]):
    """The batches themselves; its length is the number of samples, which trainers report."""

    def __init__(self, loader: DataLoader[Any], engine: Callable[[], GainEngine], seed: int, skips: bool) -> None:
        self._loader, self._engine, self._seed, self._skips = loader, engine, seed, skips
        self._refill: Refill | None = None

    def __len__(self) -> int:
        return len(self._loader.dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        if self._refill is None:
            self._refill = Refill(self._engine(), self._loader, self._seed)
            if self._skips:
                for _ in range(self._refill.yielded):
                    yield {}  # which the trainer skips
        yield from self._refill
