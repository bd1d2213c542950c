"""How much a sample repeats itself; needs no model.

    novelty(z) = log( distinct n-grams of its targets ) - log( n-grams of its targets )        nats, at most 0

The Hartley entropy of its n-grams less that of a text that never repeats one (the logarithm of "distinct-n", Li et al.
2016). Sees: repeated lines, loops. Blind to everything else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ggmi_callbacks.scorers._base import Scorer
from ggmi_callbacks.tasks import IGNORE, Inputs, Layout

_PRIME = 1_000_003


class DistinctScorer(Scorer):
    """novelty(z) = log of the share of distinct n-grams among a sample's targets; zero if it has none.

    It is never positive: alone, filter by it with ``Filter(keep=...)`` or a negative threshold.

    Args:
        n: tokens in an n-gram.

    """

    static = True
    needs_anchors = False

    def __init__(self, n: int = 4) -> None:
        super().__init__()
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}.")
        self.n = n

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """See :meth:`Scorer.gain`."""
        if "labels" not in inputs:
            raise ValueError(
                f"`DistinctScorer` counts tokens, and the batch has no `labels`; it holds {sorted(inputs)}."
            )
        labels = inputs["labels"][:, 1:]
        rows = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
        sample = rows if layout.segment is None else layout.segment
        whole, key = labels != IGNORE, sample.clone()
        for back in range(self.n):  # the n-gram that ends at each position
            earlier = labels.roll(back, 1)
            whole = whole & (earlier != IGNORE) & (sample == sample.roll(back, 1))
            whole[:, :back] = False
            key = key * _PRIME + earlier  # wraps around: a hash
        places = sample.flatten()
        order = torch.where(whole, key, torch.iinfo(torch.long).max).flatten().sort()
        new = torch.ones_like(order.values, dtype=torch.bool)
        new[1:] = order.values[1:] != order.values[:-1]
        new &= whole.flatten()[order.indices]
        counts = torch.zeros(2, layout.n + 1, device=labels.device)
        counts[0].index_add_(0, places[order.indices], new.float())
        counts[1].index_add_(0, places, whole.flatten().float())
        distinct, total = counts[:, : layout.n].clamp_min(1)
        return (distinct / total).log()
