"""A trainer's loader whose batches are full of samples that its filter keeps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from ggmi_callbacks.engine import Refill, SampleEngine
from ggmi_callbacks.engine.refill import can_refill
from ggmi_callbacks.integrations._datasets import Samples
from ggmi_callbacks.policies import Policy


def refilled(loader: Any, policy: Policy, samples: Samples, args: Any, engine: Callable[[], SampleEngine]) -> Any:
    """``loader``, or one in its place whose batches ``policy`` fills up.

    Args:
        loader: the trainer's own.
        policy: if it does not refill, nothing changes; if it cannot, it warns.
        samples: what the loader draws from.
        args: the trainer's.
        engine: gives the engine of the run, which is made after the loader.

    """
    if not policy.refill:
        return loader
    if (why := _cannot_refill(loader, samples, args)) is not None:
        warnings.warn(
            f"{policy!r} cannot refill batches here ({why}), so they shrink to what is kept: an optimiser step sees "
            "fewer samples than you tuned. `Filter(refill=False)` says that this is meant.",
            stacklevel=3,
        )
        return loader
    return RefilledLoader(loader, engine, args.seed, not args.ignore_data_skip)


def _cannot_refill(loader: Any, samples: Samples, args: Any) -> str | None:
    """Why batches shrink to what a filter keeps, or None if they are filled up."""
    if samples.size is None:
        return "a stream has no other samples to draw"
    if samples.per_row > 1:
        return "rows are packed"
    if args.world_size > 1:
        return "several ranks"
    return None if can_refill(loader) else "the trainer's sampler has an order of its own"


class RefilledLoader(DataLoader[Any]):
    """Stands in for ``loader``: as long, over the same data, its batches from :class:`~ggmi_callbacks.Refill`.

    Args:
        loader: the trainer's own.
        engine: gives the engine of the run, which is made after the loader.
        seed: of the order of each pass.
        skips: whether the trainer, when it resumes in the middle of an epoch, skips batches that it has had.

    """

    def __init__(self, loader: DataLoader[Any], engine: Callable[[], SampleEngine], seed: int, skips: bool) -> None:
        # A DataLoader draws from the global stream if it has no generator.
        super().__init__(_Batches(loader, engine, seed, skips), batch_size=None, generator=torch.Generator())
        self._length = len(loader)

    def __len__(self) -> int:
        return self._length


class _Batches(IterableDataset[Any]):
    """The batches themselves; its length is the number of samples, which trainers report."""

    def __init__(self, loader: DataLoader[Any], engine: Callable[[], SampleEngine], seed: int, skips: bool) -> None:
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
