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


def own_device() -> torch.device:
    """The GPU of this process, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda", torch.cuda.current_device())


def meet() -> None:
    """Wait for all processes."""
    if is_distributed():
        dist.barrier()
