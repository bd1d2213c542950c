"""A training loop written by hand around a :class:`GainEngine`, and data from which anchors teach something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ggmi_callbacks import GainEngine, Policy, Scorer
from ggmi_callbacks.tasks import SAMPLE_KEY, CausalLM
from tests._batches import VOCABULARY, packed, padded, samples

TASK = CausalLM()
SIZE = 4
SOURCES = ["good", "bad", "good", None] * 20


def runs(n: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Samples that have something in common: one token after another, the first two without a label."""
    ids = [torch.arange(8) + 3 + (start + i) % 7 for i in range(n)]
    return [(x, torch.cat([torch.tensor([-100, -100]), x[2:]])) for x in ids]


ANCHORS = [padded(runs(2, start)) for start in range(6)]


def stream(n: int, form: str = "rows") -> list[dict[str, Any]]:
    """Batches of four samples, every second sample like the anchors and the others noise, with their ids."""
    mixed = [pair for both in zip(runs(2 * n), samples(2 * n, seed=9), strict=True) for pair in both]
    pack = packed if form == "packed" else padded
    return [{**pack(mixed[i : i + SIZE]), SAMPLE_KEY: torch.arange(i, i + SIZE)} for i in range(0, len(mixed), SIZE)]


class Fixed(Scorer):
    """The gains that it is told, whatever the samples."""

    def __init__(self, *gains: float) -> None:
        super().__init__()
        self.gains = torch.tensor(gains)

    def gain(self, inputs, layout) -> Tensor:
        return self.gains[: layout.n].clone()


class Pattern(Policy):
    """Weights by a sample's place in its batch, whatever its gain."""

    def __init__(self, *values: float, drops: bool = False) -> None:
        super().__init__()
        self.values, self.drops = values, drops

    def weigh(self, gain: Tensor) -> Tensor:
        return torch.tensor(self.values)[torch.arange(len(gain)) % len(self.values)]


class Loop:
    """A training loop as a user would write it: sum_i w_i sum_t nll_it / N, N of the whole batch."""

    def __init__(self, model: nn.Module, engine: GainEngine | None, lr: float = 1e-3) -> None:
        self.model, self.engine = model.train(), engine
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
        self.losses: list[float] = []

    def step(self, batch: dict[str, Any]) -> None:
        count = batch["labels"][:, 1:].ne(-100).sum()
        inputs = self.engine.observe(batch) if self.engine else {k: v for k, v in batch.items() if k != SAMPLE_KEY}
        log_probs = TASK.log_probs(self.model, inputs)
        weights = None
        if self.engine:
            self.engine.record_log_probs(log_probs)
            weights = self.engine.weights
        loss = -(log_probs if weights is None else log_probs * weights).sum() / count
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.losses.append(loss.item())
        if self.engine:
            self.engine.end_step()

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def builder(make_model: Callable[..., nn.Module]) -> Callable[..., Loop]:
    """Build a loop, with dropout, whose engine is prepared."""

    def make(policy=None, *, prepare: bool = True, model: nn.Module | None = None, **settings) -> Loop:
        model = model or make_model(vocab_size=VOCABULARY, attention_dropout=0.2)
        settings = {"learning_rate": 3e-3, "progress": False, "sources": SOURCES, **settings}
        engine = GainEngine(model, settings.pop("anchors", ANCHORS), policy=policy, **settings)
        if prepare:
            engine.prepare()
        torch.manual_seed(1)
        return Loop(model, engine)

    return make
