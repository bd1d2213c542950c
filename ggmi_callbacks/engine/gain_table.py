"""Gains that never change, by sample id."""

from __future__ import annotations

import torch
from torch import Tensor

from ggmi_callbacks.distributed import is_distributed, sum_over_ranks
from ggmi_callbacks.scorers import Score


class GainTable:
    """Scores by sample id, for scorers under which they never change.

    Args:
        size: number of samples in the training set; ids are below it.
        device: where scores are.
        parts: number of scores that a gain is made of; none if it is one.

    """

    def __init__(self, size: int, device: torch.device, parts: int = 0) -> None:
        self.values = torch.zeros(3 + parts, size, device=device)  # scores, and the number of targets
        self.known = torch.zeros(size, device=device)

    def put(self, ids: Tensor, score: Score, tokens: Tensor | None = None) -> None:
        """Remember ``score`` of the samples ``ids`` [n] (NaN too: a sample without targets has none).

        Args:
            ids: of the samples.
            score: theirs.
            tokens: number of their targets, [n]; None where no score is a sum over them.

        """
        targets = torch.ones_like(score.gain) if tokens is None else tokens
        self.values[:, ids] = torch.cat([score.stacked(), targets[None]]).to(self.values)
        self.known[ids] = 1.0

    def get(self, ids: Tensor | slice) -> Score:
        """Scores of the samples ``ids``, [n] each."""
        return Score.unstacked(self.values[:-1, ids])

    @property
    def tokens(self) -> Tensor:
        """Number of targets of each sample by id, [size]."""
        return self.values[-1]

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of what is known."""
        return {"values": self.values.clone(), "known": self.known.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back :meth:`state_dict`."""
        self.values, self.known = state["values"].clone(), state["known"].clone()

    def complete(self) -> bool:
        """Whether every sample is known; pools what all ranks know, and waits for the device."""
        if is_distributed():
            missing = sum_over_ranks(self.values.isnan().float())
            ranks = sum_over_ranks(self.known)  # that know a sample: ranks pad their last batches with others' samples
            mean = sum_over_ranks(self.values.nan_to_num(0.0) * self.known) / ranks.clamp_min(1)
            self.values = torch.where(missing > 0, torch.full_like(mean, float("nan")), mean)
            self.known = ranks.clamp_max(1)
        return bool(self.known.all())
