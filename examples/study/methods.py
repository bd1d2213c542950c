"""The methods that the study compares: what is trained on, or a policy with the score that it acts on.

Those of others are restated on our engine, each after the source that its docstring names: the rule by which samples
are chosen is theirs, the batches, the share that is kept and the steps are the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from worlds import World

from ggmi_callbacks import (
    AgreementScorer,
    Filter,
    GradientScorer,
    JointScorer,
    LikelihoodScorer,
    Policy,
    Reweight,
    Scorer,
    SimilarityScorer,
)
from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.tasks import Inputs, Layout

SHARE = 0.5
"""What methods that take a share keep."""


class Loss(Scorer):
    """Code length per token under the present weights; ``sign=-1`` prefers what is easy, ``1`` what is hard.

    Source: selection by low or high loss, as in Loshchilov and Hutter (arXiv 1511.06343).
    """

    def __init__(self, sign: int) -> None:
        super().__init__(normalize="token")
        self.sign = sign

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        self._probe = probe

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        return self.sign * self._probe.nll(inputs, layout)


class LossDrop(Loss):
    """Loss now minus loss before training, per token: those whose loss has dropped the furthest go.

    Source: TailSFT, as in TRL's example (huggingface/trl#7212).
    """

    def __init__(self) -> None:
        super().__init__(1)

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        super().prepare(probe, anchors, shadow)
        self._start = probe.snapshot()

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        return self._probe.nll(inputs, layout) - self._probe.nll(inputs, layout, self._start)


class UtilityDiversity(Scorer):
    """Nuclear norm of a sample's logits, and its distance to those chosen lately, each in standard deviations.

    Source: UDS (arXiv 2510.16882); distance by the mean hidden state in place of projected logits.
    """

    def __init__(self, memory: int = 256) -> None:
        super().__init__()
        self.memory = memory

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        self._probe, self._past = probe, torch.empty(0, 1)

    @torch.no_grad()
    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        taken = {k: v for k, v in inputs.items() if k != "labels"}
        with self._probe.quiet():
            out = self._probe.model(**taken, output_hidden_states=True, use_cache=False)
        target = layout.target[..., None]
        norm = torch.linalg.matrix_norm(out.logits[:, :-1].float() * target, "nuc")
        state = (out.hidden_states[-1][:, :-1].float() * target).sum(1) / layout.tokens.clamp_min(1)[:, None]
        state = torch.nn.functional.normalize(state, dim=1)
        far = torch.zeros_like(norm) if self._past.shape[0] == 0 else 1 - (state @ self._past.T).amax(1)
        self._past = torch.cat([self._past.reshape(-1, state.shape[1]), state])[-self.memory :]
        return _standard(norm) + _standard(far)


def _standard(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std().clamp_min(1e-6) if len(x) > 1 else torch.zeros_like(x)


@dataclass(frozen=True)
class Method:
    """Rows to train on, or a policy and its scorer."""

    rows: Callable[[World, int], np.ndarray] | None = None
    policy: Callable[[], Policy] | None = None
    scorer: Callable[[], Scorer] | None = None
    """None for the engine's default."""
    labels: bool = False
    """Whether it is told what is right."""


def _everything(world: World, seed: int) -> np.ndarray:
    return np.arange(len(world.synthetic))


def _random(world: World, seed: int) -> np.ndarray:
    count = len(world.synthetic)
    return np.sort(np.random.default_rng(seed).choice(count, round(SHARE * count), replace=False))


def _right(world: World, seed: int) -> np.ndarray:
    return np.flatnonzero(world.synthetic["right"])


def _wrong(world: World, seed: int) -> np.ndarray:
    return np.flatnonzero(~np.array(world.synthetic["right"], dtype=bool))


def _best(scorer: Callable[[], Scorer]) -> Method:
    return Method(policy=lambda: Filter(keep=SHARE), scorer=scorer)


METHODS: dict[str, Method] = {
    "everything": Method(rows=_everything),
    "random half": Method(rows=_random),
    "the right ones": Method(rows=_right, labels=True),
    "the wrong ones": Method(rows=_wrong, labels=True),
    "default": Method(policy=Filter),
    "default, reweighted": Method(policy=Reweight),
    "final answers": Method(policy=Filter, scorer=AgreementScorer),
    "overlap, best half": _best(lambda: AgreementScorer(estimator="overlap")),
    "static gain, best half": _best(lambda: LikelihoodScorer(normalize="token")),
    "joint, best half": _best(JointScorer),
    "low loss": _best(lambda: Loss(-1)),
    "high loss": _best(lambda: Loss(1)),
    "RHO": _best(lambda: LikelihoodScorer(reference="current", normalize="token")),  # arXiv 2206.07137
    "TailSFT": _best(LossDrop),
    "GREATS": _best(lambda: GradientScorer(layers=2, normalize="token")),  # NeurIPS 2024, without its interactions
    "RDS+, whitened": _best(SimilarityScorer),  # arXiv 2503.01807
    "UDS": _best(UtilityDiversity),
}
