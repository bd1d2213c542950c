"""Anchors as each other's twins: two short runs, each on one half of them, judged by the other half.

    gap = E[loss of an anchor under the run that did not see it] - E[loss under the run that did]    nats per token

The shadow that scores holds out a quarter of the anchors and chooses its length by them. The two runs here choose
nothing: they take its learning rate and its number of passes. Together they cost as much as one run on all anchors.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.functional._twins import calibrated
from ggmi_callbacks.model.probe import Parameters, Probe
from ggmi_callbacks.model.shadow import Shadow
from ggmi_callbacks.model.shadow_run import code_lengths, passes
from ggmi_callbacks.tasks import Inputs


@dataclass
class CrossFit:
    """Result of :func:`cross_fit`; code lengths in nats.

    Args:
        held_in: of each anchor under the run that was trained on it, [n].
        held_out: of the same anchor under the other run, [n].
        start: of the same anchor before any training, [n].
        tokens: targets of the same anchor, [n].
        first_half: anchors in the first half, which come first.
        seconds: that both runs took.

    """

    held_in: Tensor
    held_out: Tensor
    start: Tensor
    tokens: Tensor
    first_half: int
    seconds: float

    @property
    def gaps(self) -> Tensor:
        """How much longer each anchor's code is under the run that did not see it, nats per token, [n]."""
        return (self.held_out - self.held_in).double() / self.tokens

    def twins(self) -> tuple[Tensor, Tensor]:
        """Losses of pairs of anchors, [k] each, nats per token: one that a run was trained on, one that it was not.

        They are calibrated by the losses before training.
        """
        size = min(self.first_half, len(self.tokens) - self.first_half)
        halves = slice(0, size), slice(self.first_half, self.first_half + size)
        inside, outside, start = (x.double() / self.tokens for x in (self.held_in, self.held_out, self.start))

        def both(x: Tensor, first: slice, second: slice) -> Tensor:
            return torch.cat((x[first], x[second]))

        turned = halves[::-1]
        return calibrated(both(inside, *halves), both(outside, *turned), both(start, *halves), both(start, *turned))

    def state_dict(self) -> dict[str, Any]:
        """Everything of it."""
        return dict(vars(self))


def cross_fit(probe: Probe, anchors: Sequence[Inputs], shadow: Shadow, seed: int) -> CrossFit:
    """Train on either half of ``anchors`` as ``shadow`` was trained, and judge each run by both halves.

    The model is not touched, and no random stream is used. A shadow whose best weights are those before training is
    repeated for one pass.

    Args:
        probe: the model to start from, as it was when ``shadow`` was trained.
        anchors: batches of model inputs, at least two.
        shadow: whose parameters, learning rate and number of passes are taken.
        seed: of the halves.

    Example:
        >>> import torch
        >>> from ggmi_callbacks.model import train_shadow
        >>> from ggmi_callbacks.tasks import SampleLoss
        >>> _ = torch.manual_seed(0)
        >>> probe = Probe(torch.nn.Linear(1, 1), SampleLoss(lambda model, batch: (model(batch["x"]) - 3)[:, 0] ** 2))
        >>> anchors = [{"x": torch.randn(4, 1)} for _ in range(4)]
        >>> shadow = train_shadow(probe, anchors, learning_rate=0.1, progress=False)
        >>> found = cross_fit(probe, anchors, shadow, seed=0)
        >>> found.gaps.shape, found.first_half
        (torch.Size([16]), 8)

    """
    start = time.perf_counter()
    order = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(seed)).tolist()
    halves = [[anchors[i] for i in order[side::2]] for side in (0, 1)]
    runs = [_trained(probe, half, shadow) for half in halves]
    lengths = [[code_lengths(probe, half, run) for run in runs] for half in halves]  # [half][run]
    batches = halves[0] + halves[1]
    return CrossFit(
        held_in=torch.cat((lengths[0][0], lengths[1][1])),
        held_out=torch.cat((lengths[0][1], lengths[1][0])),
        start=code_lengths(probe, batches),
        tokens=torch.cat([probe.task.layout(batch).tokens for batch in batches]),
        first_half=len(lengths[0][0]),
        seconds=time.perf_counter() - start,
    )


def _trained(probe: Probe, half: Sequence[Inputs], shadow: Shadow) -> Parameters:
    """Parameters after as many passes over ``half`` as ``shadow`` found best."""
    *_, last = passes(probe, list(shadow.parameters), half, shadow.learning_rate, max(1, shadow.best), [])
    return last
