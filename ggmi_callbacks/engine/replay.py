"""Small memories of the stream: batches to see again, prompts to compare.

A reservoir (algorithm R) holds a uniform sample of all that has passed, whatever its length, in constant space.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.tasks import Inputs, Layout


@dataclass
class Visit:
    """A batch of samples, trained on or held out, and what is known of them."""

    inputs: Inputs
    layout: Layout
    first_nll: Tensor  # [n], nats, when first seen; empty where nobody asks for it
    source: Tensor | None = None  # [n], codes
    identity: Tensor | None = None  # [n], by which a sample is known again
    reference: Tensor | None = None  # [n], nats under fixed weights, once they were found


class Reservoir:
    """Uniform sample of ``size`` of the batches added, chosen by its own random stream."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.visits: list[Visit] = []
        self._added = 0
        self._random = random.Random(seed)

    def add(self, visit: Visit) -> None:
        """Offer ``visit``."""
        self._added += 1
        if len(self.visits) < self.size:
            self.visits.append(visit)
        elif (place := self._random.randrange(self._added)) < self.size:
            self.visits[place] = visit

    def draw(self, n: int) -> list[Visit]:
        """At most ``n`` of the batches kept, at random: a uniform sample of all that passed."""
        return self._random.sample(self.visits, min(n, len(self.visits)))

    def state_dict(self) -> dict[str, Any]:
        """Batches and the state of the draw."""
        return {
            "visits": [{**vars(v), "layout": vars(v.layout)} for v in self.visits],
            "added": self._added,
            "random": self._random.getstate(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self.visits = [Visit(**{**visit, "layout": Layout(**visit["layout"])}) for visit in state["visits"]]
        self._added = state["added"]
        self._random.setstate(state["random"])


class PromptRing:
    """Mean input embeddings of the prompts and outputs of the last ``size`` scored samples that have both."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fresh = 0
        """Samples that came since somebody set it to zero."""
        self._prompts: list[Tensor] = []
        self._outputs: list[Tensor] = []

    @torch.no_grad()
    def add(self, embeddings: Tensor, prompt: Tensor, layout: Layout) -> None:
        """Pool ``embeddings`` [B, T', D] over each sample's prompt and its targets, and remember both."""
        for mask, memory in ((prompt, self._prompts), (layout.target, self._outputs)):
            weighted = embeddings.float() * mask[..., None]
            memory.append(layout.total(weighted) / layout.total(mask)[:, None])  # NaN where a sample has no prompt
        self.fresh += layout.n
        while sum(map(len, self._prompts[1:])) >= self.size:
            self._prompts.pop(0)
            self._outputs.pop(0)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """The remembered pairs that have a prompt, [m, D] each; waits for the device."""
        if not self._prompts:
            return torch.empty(0, 1), torch.empty(0, 1)
        prompts, outputs = torch.cat(self._prompts)[-self.size :], torch.cat(self._outputs)[-self.size :]
        both = prompts.isfinite().all(1) & outputs.isfinite().all(1)
        return prompts[both], outputs[both]
