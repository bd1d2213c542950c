"""Packed batches: one row that holds several samples, and the row without some of them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.tasks.base import Inputs


def select_segments(inputs: Mapping[str, Any], kept: list[int], lengths: list[int]) -> Inputs:
    """Segments ``kept`` of a packed batch in one row, with its boundaries rebuilt.

    Stale boundaries would be harmless under sdpa, which reads ``position_ids``, and silently wrong under the
    variable-length kernels, which read ``cu_seq_lens_*``, ``max_length_*`` and ``seq_idx``.
    """
    starts = list(accumulate(lengths, initial=0))
    index = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in kept])
    index = index.to(inputs["input_ids"].device, non_blocking=True)
    shape = inputs["input_ids"].shape
    out = {
        key: value.flatten()[index][None] if isinstance(value, Tensor) and value.shape == shape else value
        for key, value in inputs.items()
    }
    sizes = [lengths[i] for i in kept]
    bounds = torch.tensor(list(accumulate(sizes, initial=0)), dtype=torch.int32).to(index.device, non_blocking=True)
    rows = torch.repeat_interleave(torch.arange(len(kept)), torch.tensor(sizes))
    rebuilt = {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(sizes),
        "max_length_k": max(sizes),
        "seq_idx": rows.to(index.device, torch.int32, non_blocking=True)[None],
    }
    out.update({key: value for key, value in rebuilt.items() if key in inputs})
    return out
