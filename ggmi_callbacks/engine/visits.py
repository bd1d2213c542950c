"""Telling a sample's first visit from later ones: its code length then is prequential, and its gain counts once."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ggmi_callbacks.distributed import is_distributed

STREAM = 2**24
"""Places for samples of a stream of unknown length, a byte each. Two samples on one place count as one: in a stream of
a million that befalls 3 % of the samples without ids, and none of those with ids below 16 million."""


class Visits:
    """Which samples have been visited, one place each, on the device; nothing here waits for it.

    Args:
        size: number of samples, if ids are below it; None for a stream, or for samples told apart by their content.
        device: where ids are.

    Example:
        >>> visits = Visits(10, torch.device("cpu"))
        >>> visits.mark(torch.tensor([3, 7, 3]))
        tensor([ True,  True, False])
        >>> visits.mark(torch.tensor([7, 8]))
        tensor([False,  True])
        >>> visits.mark(torch.tensor([8, 9]), torch.tensor([True, False]))  # 9 was not visited, and may be yet
        tensor([False, False])

    """

    def __init__(self, size: int | None, device: torch.device) -> None:
        self._met = torch.zeros(size or STREAM, dtype=torch.uint8, device=device)

    def mark(self, ids: Tensor, which: Tensor | None = None) -> Tensor:
        """Note a visit to each of ``ids`` [m], or to those of ``which`` [m] alone; which are first ones, bool [m]."""
        which = torch.ones_like(ids, dtype=torch.bool) if which is None else which
        place = ids % len(self._met)
        twice = ((place[:, None] == place[None, :]) & which[None, :]).tril(-1).any(1)
        first = which & (self._met[place] == 0) & ~twice
        self._met.scatter_reduce_(0, place, which.to(self._met.dtype), "amax")
        return first

    def pool(self) -> None:
        """Make the visits of all ranks known to each; every rank must call it."""
        if is_distributed():
            dist.all_reduce(self._met, dist.ReduceOp.MAX)

    def state_dict(self) -> dict[str, Tensor]:
        """The places that were visited."""
        return {"met": self._met.nonzero().flatten()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back :meth:`state_dict`."""
        self._met.zero_()
        self._met[state["met"]] = 1
