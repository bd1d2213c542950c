"""Several processes that score together, under ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from ggmi_callbacks.distributed import is_distributed, rank_and_size

_PATIENCE = timedelta(days=2)  # processes meet after the last batch, and some have more to do


@contextmanager
def processes(device: torch.device) -> Iterator[tuple[int, int]]:
    """Inside, the processes that a launcher started know each other; gives this one's rank and their number."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if is_distributed() or alone:
        yield rank_and_size()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield rank_and_size()
    finally:
        dist.destroy_process_group()


def own_device(device: str | torch.device | None) -> torch.device:
    """Where this process computes: ``device``, by default a GPU if there is one; each process has one of its own."""
    found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if found.type != "cuda":
        return found
    found = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if found.index is None else found.index)
    torch.cuda.set_device(found)
    return found


def meet() -> None:
    """Wait for all processes."""
    if is_distributed():
        dist.barrier()
