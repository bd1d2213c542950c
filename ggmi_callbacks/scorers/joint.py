"""A sample has to pass on every count.

    gain(z) = tolerance + min_k ( s_k(z) - median s_k(A) ) / spread s_k(A)        in spreads of the anchors

Scores s_k of unlike kinds (faithful to the anchors, relevant to its prompt, not repeating itself) are put on one scale
by those anchors that the shadow has not seen: how far below a typical real sample is z, where it is worst? A sum would
let one virtue pay for another vice; the minimum does not. Positive is within ``tolerance`` of typical on every count.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.model import Probe, Shadow, SharedBatch
from ggmi_callbacks.scorers._base import Score, Scorer
from ggmi_callbacks.scorers.distinct import DistinctScorer
from ggmi_callbacks.scorers.likelihood import LikelihoodScorer
from ggmi_callbacks.scorers.prompt import PromptInformationScorer
from ggmi_callbacks.tasks import Inputs, Layout

_ENOUGH = 8  # held-out anchors for a median deviation
_LEAST_SPREAD = 0.05  # in the score's own unit: where all anchors agree, smaller differences do not count


class JointScorer(Scorer):
    """The least of several scores, each in spreads (1.48 x median absolute deviation) of the held-out anchors.

    Its unit, in the ledger and in logs too, is spreads and not nats. A sample that one of the scorers cannot score, for
    example for want of a prompt, is not scored.

    Args:
        scorers: scores that do not change in a run (:attr:`Scorer.static`). By default likelihood gain, prompt
            information per token and the share of distinct 4-grams, together three forwards a batch.
        tolerance: how many spreads below the median anchor still count as a gain.

    Raises:
        ValueError: if there are no scorers, or one that changes with the weights: its scale would be stale at once;
            in :meth:`prepare`, if one of the scorers cannot be prepared or scores none of the held-out anchors.

    """

    static = True

    def __init__(self, scorers: Sequence[Scorer] | None = None, tolerance: float = 2.0) -> None:
        super().__init__()
        if scorers is None:
            scorers = (
                LikelihoodScorer(),
                PromptInformationScorer(normalize="token"),
                DistinctScorer(),
            )
        if not scorers:
            raise ValueError("`scorers` must name at least one.")
        if live := [type(s).__name__ for s in scorers if not s.static]:
            raise ValueError(f"`scorers` must be static, and {', '.join(live)} change with the weights.")
        self.scorers, self.tolerance = tuple(scorers), tolerance
        self.needs_shadow = any(s.needs_shadow for s in scorers)
        self._center = self._spread = torch.empty(0)

    def shadow_parameters(self, probe: Probe) -> list[str] | None:
        """Names that one of the scorers asks for; None if no scorer restricts them."""
        asked = {tuple(names) for s in self.scorers if (names := s.shadow_parameters(probe)) is not None}
        if len(asked) > 1:
            raise ValueError("`scorers` ask for shadows of different layers: give them the same `layers`.")
        return list(asked.pop()) if asked else None

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Prepare every scorer, and find the scale on the anchors that the shadow held out."""
        self._probe = probe
        for scorer in self.scorers:
            scorer.prepare(probe, anchors, shadow)
        held = [anchors[i] for i in shadow.heldout]
        scores = [self._scores(batch, probe.task.layout(batch)).gain for batch in held]
        found = torch.cat(scores, 1).float()  # [scorers, held-out anchors]
        self._center = found.nanquantile(0.5, 1, keepdim=True)
        deviation = (found - self._center).abs().nanquantile(0.5, 1, keepdim=True)
        self._spread = (1.4826 * deviation).clamp_min(_LEAST_SPREAD)
        if not self._center.isfinite().all():
            raise ValueError(
                "`anchors` that the shadow held out cannot be scored: they are too short, or lack targets or prompts."
            )
        if (count := found.shape[1]) < _ENOUGH:
            warnings.warn(
                f"the scale of JointScorer rests on {count} held-out anchors; give at least {4 * _ENOUGH} anchors, of "
                "which a quarter is held out.",
                stacklevel=2,
            )

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """See :meth:`Scorer.gain`."""
        return self.noisy_gain(inputs, layout).gain

    def noisy_gain(self, inputs: Inputs, layout: Layout) -> Score:
        """See :meth:`Scorer.noisy_gain`; the noise is that of the score where the sample is worst."""
        gain, noise, _ = self._scores(inputs, layout)
        worst = ((gain - self._center) / self._spread).min(0)
        spread = self._spread.expand_as(noise).gather(0, worst.indices[None])[0]
        return Score(self.tolerance + worst.values, noise.gather(0, worst.indices[None])[0] / spread)

    def _scores(self, inputs: Inputs, layout: Layout) -> Score:
        """Every scorer's gain and noise, [scorers, n] each; what several of them need is run once."""
        batch = SharedBatch(inputs)
        scores = [scorer.score(batch, layout)[:2] for scorer in self.scorers]
        return Score(*(torch.stack(values) for values in zip(*scores, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """The scale, and what the scorers keep."""
        return {"scale": (self._center, self._spread), "scorers": [s.state_dict() for s in self.scorers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the scale, and what the scorers keep."""
        self._center, self._spread = state["scale"]
        for scorer, saved in zip(self.scorers, state["scorers"], strict=True):
            scorer.load_state_dict(saved)
