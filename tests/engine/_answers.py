"""Four answers to each of eight prompts, with rewards and domains, and a scorer that finds the rewards."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ggmi_callbacks import CarryIds, Numbered, Refill, Scorer
from ggmi_callbacks.tasks import SAMPLE_KEY
from tests._batches import padded
from tests._loop import SIZE

N = 32
PROMPTS, PER = N // 4, 4
DOMAIN = ["books", "wiki", "code", "code"] * (N // 4)
DRAW = torch.Generator().manual_seed(3)
REWARD = torch.rand(N, generator=DRAW) + torch.tensor([5.0, 0.0, 1.0, 1.0]).repeat(N // 4)


def rows() -> list[dict]:
    """Four answers to each prompt, of two to eight tokens."""
    out = []
    for i in range(N):
        prompt, answer = [3 + i // PER, 5], [7 + (i + t) % 20 for t in range(2 + i % 7)]
        labels = [-100] * len(prompt) + answer
        columns = {"domain": DOMAIN[i], "reward": float(REWARD[i]), "id": i}
        out.append({"input_ids": prompt + answer, "labels": labels, **columns})
    return out


ROWS = rows()


def collate(features: list[dict]) -> dict:
    return padded([(torch.tensor(f["input_ids"]), torch.tensor(f["labels"])) for f in features])


def batches() -> list[dict]:
    return [{**collate(ROWS[i : i + SIZE]), SAMPLE_KEY: torch.arange(i, i + SIZE)} for i in range(0, N, SIZE)]


class Rewards(Scorer):
    """Each sample's reward, times its tokens if it is a sum over them; found in the stream."""

    def __init__(self, additive: bool = False, static: bool = False) -> None:
        super().__init__()
        self.additive, self.static, self.scored = additive, static, 0

    def gain(self, inputs, layout) -> Tensor:
        self.scored += layout.n
        return REWARD[layout.ids] * (layout.tokens if self.additive else 1)


def best(values: Tensor, groups: list, keep: float) -> set[int]:
    out: set[int] = set()
    for group in set(groups):
        members = [i for i in range(N) if groups[i] == group]
        order = sorted(members, key=lambda i: -float(values[i]))
        out |= set(order[: max(1, int(keep * len(members) + 0.5))])
    return out


def refill(loop) -> Refill:
    return Refill(loop.engine, DataLoader(Numbered(ROWS), SIZE, shuffle=True, collate_fn=CarryIds(collate)), seed=1)
