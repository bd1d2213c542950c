"""A loader that spends what a filter saves: every batch is full of samples that passed.

    candidates drawn ──> engine.screen ──> kept ones wait ──> a batch as soon as there are enough

An optimiser step then sees the batch size that the user tuned, and a run takes as many steps as without a filter: what
is dropped is made up for by more passes over the data. Once every gain is known (they never change, and each sample has
been scored), samples that would be dropped are not drawn any more; nor, from the first pass on, those that a score of
the data rules out whatever the model's scores are. For a policy that has to know every gain (the best of each prompt)
the training set is scored before the first pass.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from ggmi_callbacks.data import to_device
from ggmi_callbacks.distributed import is_distributed, rank_and_size
from ggmi_callbacks.engine.heldout import ids_left
from ggmi_callbacks.engine.sample_engine import SampleEngine
from ggmi_callbacks.tasks import GAIN_KEY, SAMPLE_KEY


class Refill:
    """Iterates full batches of samples that ``engine``'s policy keeps; each iteration goes on where the last one ended.

    Args:
        engine: prepared by the first iteration.
        loader: the loader of unfiltered batches, of a map-style data set whose rows carry their position under
            ``"ggmi_sample"`` (:class:`~ggmi_callbacks.Numbered`) and a collator that keeps it
            (:class:`~ggmi_callbacks.CarryIds`). Its length is that of an iteration. Where the engine holds out some of
            the training set by id, the data set is what is left of it, in its order and with its ids.
        seed: of the order of each pass.

    Raises:
        TypeError: if ``loader`` is not a DataLoader of a data set with a length.
        ValueError: if the policy drops nothing, the loader batches or orders its rows in a way of its own, or a whole
            pass over the data keeps no sample.

    """

    def __init__(self, engine: SampleEngine, loader: DataLoader[Any], seed: int = 0) -> None:
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
            raise TypeError(f"`loader` must be a DataLoader of a data set with a length, got {type(loader).__name__}.")
        if not engine.policy.drops:
            raise ValueError(f"{engine.policy!r} drops nothing, so there is nothing to refill: use `loader` itself.")
        self.engine, self.loader, self.seed = engine, loader, seed
        self.batch_size, self._shuffles = _batching(loader)
        self._ids = ids_left(len(loader.dataset), engine.reserved, engine.num_samples)  # by position
        share = getattr(engine.policy, "keep", None) or 1.0
        self.candidates = math.ceil(self.batch_size / share)
        """Samples that are drawn and scored together: about as many as it takes for one batch."""
        if is_distributed() and (engine.capacity or 0) < self.candidates:
            raise ValueError(
                f"`capacity` of the engine is {engine.capacity}, and {self.candidates} candidates are scored together "
                f"to fill batches of {self.batch_size}: give {type(engine).__name__}(capacity={self.candidates})."
            )
        self._pass = 0
        self._order: list[int] = []  # positions of this pass, this rank's share
        self._dropped = torch.empty(0, dtype=torch.long)  # ids that this pass leaves out, known beforehand
        self._decided = False  # whether all positions of this pass are kept, by what was known before it
        self._drawn = 0  # of the positions
        self._kept = 0  # of those that were drawn
        self._waiting: deque[tuple[Any, Tensor]] = deque()  # rows, and their scores [2 + parts]
        self._yielded = 0  # batches of this iteration
        engine.loader = self
        if engine.loader_state is not None:
            self.load_state_dict(engine.loader_state)

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def dataset(self) -> Any:
        """The data set that is drawn from."""
        return self.loader.dataset

    def __iter__(self) -> Iterator[Any]:
        self._yielded = self.yielded
        candidates = self._candidates()
        while self._yielded < len(self):
            while not self._full():
                rows, batch = next(candidates)
                self._screen(rows, batch)
            self._yielded += 1
            yield self._batch()

    @property
    def yielded(self) -> int:
        """Batches of the present iteration so far, also after a restart; zero once it is complete."""
        return self._yielded if self._yielded < len(self) else 0

    def state_dict(self) -> dict[str, Any]:
        """Where the draw is, and the samples that wait, by id."""
        gains = [gain for _, gain in self._waiting]
        return {
            "pass": self._pass,
            "order": torch.tensor(self._order, dtype=torch.long),
            "dropped": self._dropped,
            "decided": self._decided,
            "drawn": (self._drawn, self._kept, self._yielded),
            "waiting": [int(row[SAMPLE_KEY]) for row, _ in self._waiting],
            "gains": torch.stack(gains).cpu() if gains else torch.empty(0),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self._pass, (self._drawn, self._kept, self._yielded) = state["pass"], state["drawn"]
        self._order, self._dropped = state["order"].tolist(), state["dropped"].cpu()
        self._decided = state["decided"]
        places = torch.searchsorted(self._ids, torch.tensor(state["waiting"], dtype=torch.long))
        rows = [self.dataset[i] for i in places.tolist()]
        self._waiting = deque(zip(rows, state["gains"].to(self.engine.device), strict=True))

    def _candidates(self) -> Iterator[tuple[list[Any], Any]]:
        """Rows and their batch, pass after pass."""
        while True:
            if not self._order:
                self._begin_pass()
            for rows, batch in self._loader_of(self._order[self._drawn :]):
                self._leave_out(self._drawn, self._drawn + len(rows))
                self._drawn += len(rows)
                yield rows, batch
            if not self._kept:
                raise ValueError(
                    f"{self.engine.policy!r} kept none of {len(self.dataset)} samples in a whole pass over the data: "
                    "lower `threshold`, raise `margin`, use `Filter(keep=...)`, or look whether the anchors are of "
                    "this task."
                )
            self._order, self._pass = [], self._pass + 1

    def _begin_pass(self) -> None:
        rank, size = rank_and_size()
        self.engine.begin_epoch(self._pass)
        positions = torch.arange(len(self.dataset))
        everything = positions.tolist()[rank::size]
        self.engine.score_first(self._inputs(rows, batch) for rows, batch in self._loader_of(everything))
        may_keep, self._decided = self.engine.may_keep(), self.engine.keeps() is not None
        self._dropped = positions[:0]
        if may_keep is not None:
            may_keep = may_keep.cpu()[self._ids]
            self._dropped, positions = self._ids[~may_keep][rank::size], positions[may_keep]
        if self._shuffles:
            draw = torch.Generator().manual_seed(self.seed + self._pass)
            positions = positions[torch.randperm(len(positions), generator=draw)]
        share = len(positions) // size * size or len(positions)  # every rank draws as many
        self._order, self._drawn, self._kept = positions[:share][rank::size].tolist(), 0, 0

    def _leave_out(self, begin: int, end: int) -> None:
        """Account for what was dropped beforehand, evenly along the pass, while positions ``begin`` to ``end`` come."""
        first, last = (len(self._dropped) * place // len(self._order) for place in (begin, end))
        if last > first:
            self.engine.leave_out(self._dropped[first:last].to(self.engine.device))

    def _loader_of(self, positions: list[int]) -> DataLoader[Any]:
        return DataLoader(
            self.dataset,
            self.candidates,
            sampler=positions,
            collate_fn=_WithRows(self.loader.collate_fn),
            num_workers=self.loader.num_workers,
            generator=torch.Generator().manual_seed(self.seed),  # a DataLoader draws from the global stream otherwise
        )

    def _inputs(self, rows: list[Any], batch: Any) -> dict[str, Any]:
        """``batch`` of ``rows``, with ids, on the engine's device."""
        ids = batch.get(SAMPLE_KEY)
        if ids is None or SAMPLE_KEY not in rows[0]:
            raise ValueError(
                f"rows and batches of the loader carry no ids under {SAMPLE_KEY!r}: make it of `Numbered(data)`, with "
                "`collate_fn=CarryIds(collate)`."
            )
        return {**to_device(batch, self.engine.device), SAMPLE_KEY: ids.to(self.engine.device)}

    def _screen(self, rows: list[Any], batch: Any) -> None:
        kept, gains = self.engine.screen(self._inputs(rows, batch), self._decided)
        self._kept += sum(kept)
        self._waiting.extend((row, gain) for row, keep, gain in zip(rows, kept, gains, strict=True) if keep)

    def _full(self) -> bool:
        """Whether a batch can be made, on every rank: those that have one wait for the others in step."""
        others = {int(row[SAMPLE_KEY]) for row, _ in self._waiting}
        # A sample stands once in a batch; where fewer are kept than a batch holds, that cannot be.
        enough = len(others) >= self.batch_size or len(self._waiting) >= 3 * self.batch_size
        if not is_distributed():
            return enough
        flag = torch.tensor(int(enough), device=self.engine.device)
        dist.all_reduce(flag, dist.ReduceOp.MIN)
        return bool(flag)

    def _batch(self) -> Any:
        places: dict[int, int] = {}  # of the first row of each sample that waits
        for place, (row, _) in enumerate(self._waiting):
            places.setdefault(int(row[SAMPLE_KEY]), place)
        first = list(places.values())[: self.batch_size]
        again = [place for place in range(len(self._waiting)) if place not in set(first)]
        taken = sorted([*first, *again[: self.batch_size - len(first)]])
        chosen = [self._waiting[place] for place in taken]
        self._waiting = deque(item for place, item in enumerate(self._waiting) if place not in set(taken))
        batch = self.loader.collate_fn([row for row, _ in chosen])
        batch[GAIN_KEY] = torch.stack([gain for _, gain in chosen])
        return batch


def _batching(loader: DataLoader[Any]) -> tuple[int, bool]:
    """Batch size of ``loader``, and whether it shuffles."""
    sampler: Any = loader.sampler
    size = loader.batch_size
    if size is None and type(loader.batch_sampler) is BatchSampler:  # as Accelerate makes them
        sampler, size = loader.batch_sampler.sampler, loader.batch_sampler.batch_size
    if size is None or not isinstance(sampler, (RandomSampler, SequentialSampler)):
        raise ValueError(
            "`loader` has a sampler of its own, whose order a refilled loader cannot keep: shuffle=True or False, or "
            "Filter(refill=False), which trains on smaller batches."
        )
    return size, isinstance(sampler, RandomSampler)


def can_refill(loader: DataLoader[Any]) -> bool:
    """Whether ``loader`` draws its rows in an order that a refilled loader keeps."""
    try:
        _batching(loader)
    except ValueError:
        return False
    return True


class _WithRows:
    """A collator that hands on the rows beside the batch made of them."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, rows: list[Any]) -> tuple[list[Any], Any]:
        return list(rows), self.collate([dict(row) for row in rows])
