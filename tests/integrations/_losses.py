"""Losses by source, found by hand and read from a log."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def by_hand(model, data) -> dict[str, tuple[float, int]]:
    """Nats and targets of each source, sample by sample."""
    found: dict[str, tuple[float, int]] = {}
    model.eval()
    for row in data:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        nll = F.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum", ignore_index=-100)
        name = row["source"] or "unknown"
        before = found.get(name, (0.0, 0))
        found[name] = before[0] + float(nll), before[1] + int((labels[0, 1:] != -100).sum())
    return found


def mean(found: dict[str, float], counts: dict[str, int]) -> float:
    return sum(found[name] * counts[name] for name in counts) / sum(counts.values())


def logged(entry: dict, prefix: str = "") -> dict[str, float]:
    start = f"{prefix}ggmi/nll/"
    return {key.removeprefix(start): value for key, value in entry.items() if key.startswith(start)}
