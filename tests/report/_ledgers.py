"""Ledgers of which every number is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from ggmi_callbacks import Ledger

NAN = float("nan")
GAINS = {"human": [1.0, 2.0, 3.0, 4.0], "model": [-1.0, -3.0, -2.0, NAN]}
"""By source; samples 0 to 3 and 4 to 7. The last one was not scored, those below zero were dropped."""


def known(parts: bool = True) -> Ledger:
    """Eight samples in four steps of two, and sample 0 once more with a gain of 3."""
    ledger = Ledger(list(GAINS), ["likelihood", "agreement"] if parts else [])
    gains = torch.tensor([gain for of_source in GAINS.values() for gain in of_source])
    for step in range(4):
        ids = torch.tensor([step, step + 4])
        write(ledger, step, ids, gains[ids], parts)
    write(ledger, 4, torch.tensor([0]), torch.tensor([3.0]), parts)
    return ledger


def write(ledger: Ledger, step: int, ids: torch.Tensor, gain: torch.Tensor, parts: bool = True) -> None:
    weight = torch.where(gain < 0, 0.0, 1.0)
    scores = torch.stack([gain, -gain.abs()]) if parts else None
    rows = ledger.write(step, ids, (ids > 3).long(), gain, weight, scores)
    rows.complete(torch.full((len(ids),), 12.5), torch.arange(len(ids)))


def large(n: int, seed: int = 0) -> pa.Table:
    """Of ``n`` rows, with three scores."""
    draw = np.random.default_rng(seed)
    source = draw.choice(["T=0.3", "T=0.7", "T=1.0", "T=1.4"], n)
    scores = draw.normal(size=(3, n)) + np.char.find(source, "3")
    gain = scores.min(0)
    return pa.table(
        {
            "step": np.arange(n) // 8,
            "id": draw.permutation(n),
            "source": source,
            "gain": gain,
            "weight": (gain > -1).astype(float),
            "kept": gain > -1,
            "nll": draw.gamma(4, 6, n),
            **{f"gain/{name}": row for name, row in zip(("likelihood", "prompt", "distinct"), scores, strict=True)},
        }
    )
