"""What ranks tell each other. With one process each function is the identity, without a collective."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether several ranks run together."""
    return dist.is_available() and dist.is_initialized()


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of ranks."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum of ``values`` over all ranks."""
    if is_distributed():
        values = values.clone()
        dist.all_reduce(values)
    return values


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite ``tensors`` with those of rank 0."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def gather_padded(values: Tensor, capacity: int | None) -> Tensor:
    """``values`` [n] of all ranks in their order, each padded with NaN to ``capacity``: no rank waits for a size.

    Raises:
        ValueError: if there are several ranks and ``capacity`` is missing or too small.

    """
    if not is_distributed():
        return values
    if capacity is None or len(values) > capacity:
        raise ValueError(f"`capacity` must be at least the samples in a batch ({len(values)}), got {capacity}.")
    padded = values.new_full((capacity,), float("nan"))
    padded[: len(values)] = values
    out = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
    dist.all_gather(out, padded)
    return torch.cat(out)
