"""The states of all ranks in a checkpoint that one of them writes."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ggmi_callbacks.distributed import is_distributed

_SHARED = ("shadow", "scorer")  # as large as the model, and the same on every rank


def gather_states(state: dict[str, Any]) -> dict[str, Any]:
    """``state`` of this rank with what is different on each of them; every rank must call it.

    Only rank 0, which writes the checkpoint, has all of them.
    """
    own = {key: value for key, value in state.items() if key not in _SHARED}
    ranks = [own]
    if is_distributed():
        rank = dist.get_rank()
        ranks = [own] * dist.get_world_size()
        on_host = tree_map_only(Tensor, lambda tensor: tensor.cpu(), own)
        dist.gather_object(on_host, ranks if rank == 0 else None)
    return {"ranks": ranks, **{key: state[key] for key in _SHARED if key in state}}


def own_state(gathered: dict[str, Any]) -> dict[str, Any]:
    """The state of this rank out of what :func:`gather_states` gave rank 0.

    In a run of more ranks than that the state is rank 0's: the engine refuses it, and says why.
    """
    rank = dist.get_rank() if is_distributed() else 0
    ranks = gathered["ranks"]
    shared = {key: gathered[key] for key in _SHARED if key in gathered}
    return {**ranks[rank if rank < len(ranks) else 0], **shared}
