"""What the tests of the shadow share: anchors of which one can tell what they teach, and one way to train on them."""

from __future__ import annotations

import torch
from torch import Tensor

from ggmi_callbacks import CausalLM
from ggmi_callbacks.model import Probe, Shadow, train_shadow
from tests._batches import VOCABULARY, batches, padded

NOISE = batches(8, seed=4)
TASK = CausalLM()


def run(probe: Probe, anchors=NOISE, **settings) -> Shadow:
    return train_shadow(probe, anchors, **{"learning_rate": 3e-3, "progress": False, **settings})


def mean_nll(probe: Probe, parameters: dict[str, Tensor], anchors) -> float:
    return float(torch.cat([probe.nll(batch, TASK.layout(batch), parameters) for batch in anchors]).mean())


def split(seed: int, n: int = len(NOISE)) -> tuple[list[int], list[int]]:
    """The batches held out and those trained on, in order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[: n // 4], order[n // 4 :]


def learnable(n: int) -> list[dict[str, Tensor]]:
    """Anchors that have something in common: runs of one token after another."""
    rows = [(torch.arange(8) + 3 + i % 4, torch.arange(8) + 3 + i % 4) for i in range(2 * n)]
    return [padded(rows[i : i + 2]) for i in range(0, 2 * n, 2)]


def noisy_runs(n: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Anchors in which every second token is one more than the one before, on average."""
    draw, rows = torch.Generator().manual_seed(seed), []
    for i in range(2 * n):
        noise = torch.randint(3, VOCABULARY, (8,), generator=draw)
        rows.append(torch.where(torch.rand(8, generator=draw) < 0.5, noise, torch.arange(8) + 3 + i % 7))
    return [padded([(row, row) for row in rows[i : i + 2]]) for i in range(0, 2 * n, 2)]


@torch.no_grad()
def own_samples(model, n: int) -> list[dict[str, Tensor]]:
    """Anchors that the model has written itself, which cannot teach it anything."""
    ids = torch.randint(3, VOCABULARY, (2 * n, 1))
    for _ in range(9):
        following = torch.multinomial(model(input_ids=ids).logits[:, -1].softmax(-1), 1)
        ids = torch.cat([ids, following], 1)
    return [{"input_ids": x, "labels": x.clone(), "attention_mask": torch.ones_like(x)} for x in ids.split(2)]
