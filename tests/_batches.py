"""Samples of random tokens, and the three ways in which batches hold them: padded right, padded left, packed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ggmi_callbacks.model import Shadow

VOCABULARY = 40
PAD = 1

Sample = tuple[Tensor, Tensor]  # ids and labels, [T] each


def samples(n: int, seed: int = 0, prompt: int = 2) -> list[Sample]:
    """Samples of 5 to 10 tokens, the first ``prompt`` of them without a label."""
    draw = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, VOCABULARY, (5 + i * 5 % 6,), generator=draw) for i in range(n)]
    return [(x, torch.cat([torch.full((prompt,), -100), x[prompt:]])) for x in ids]


def padded(batch: list[Sample], left: bool = False) -> dict[str, Any]:
    """Rows [B, T] with an attention mask."""

    def pad(rows: list[Tensor], value: int) -> Tensor:
        side = "left" if left else "right"
        return nn.utils.rnn.pad_sequence(rows, True, value, side)

    return {
        "input_ids": pad([ids for ids, _ in batch], PAD),
        "labels": pad([labels for _, labels in batch], -100),
        "attention_mask": pad([torch.ones_like(ids) for ids, _ in batch], 0),
    }


def packed(batch: list[Sample], boundaries: bool = False) -> dict[str, Any]:
    """One row [1, T] whose ``position_ids`` restart, with what variable-length kernels read if ``boundaries``."""
    sizes = torch.tensor([len(ids) for ids, _ in batch])
    inputs: dict[str, Any] = {
        "input_ids": torch.cat([ids for ids, _ in batch])[None],
        "labels": torch.cat([labels for _, labels in batch])[None],
        "position_ids": torch.cat([torch.arange(int(size)) for size in sizes])[None],
    }
    if boundaries:
        bounds = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]).int()
        inputs |= {
            "cu_seq_lens_q": bounds,
            "cu_seq_lens_k": bounds,
            "max_length_q": int(sizes.max()),
            "max_length_k": int(sizes.max()),
            "seq_idx": torch.repeat_interleave(torch.arange(len(batch)), sizes).int()[None],
        }
    return inputs


def batches(n: int, size: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    """``n`` padded batches of ``size`` samples."""
    drawn = samples(n * size, seed)
    return [padded(drawn[i : i + size]) for i in range(0, len(drawn), size)]


def shadow_of(parameters: dict[str, Tensor]) -> Shadow:
    """A shadow with ``parameters``, of which nothing else is known."""
    nothing = torch.empty(0)
    unknown = {"epochs": 0, "learning_rate": 0.0, "rates": [], "improved": True, "seconds": 0.0, "heldout": [0]}
    return Shadow(parameters, nothing, nothing, nothing, heldout_lengths=torch.empty(1, 0), **unknown)
