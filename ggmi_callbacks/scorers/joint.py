"""Several scores on one scale.

    u_k(z) = tolerance + ( s_k(z) - median s_k(A) ) / spread s_k(A)      a score of the model, against real samples A
    u_k(z) = s_k(z) / spread s_k                                         a score of the data, against its own zero

    gain(z) = min_k u_k(z)      or      sum_k u_k(z)                     over the scores that z has

Scores of unlike kinds (faithful to the anchors, relevant to its prompt, not repeating itself, agreed upon) are put on
one scale by those anchors that the shadow has not seen: how far below a typical real sample is z? The least lets a
sample pass only if it does on every count, since an average lets one virtue pay for another vice. The sum ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.model import Probe, Shadow, SharedBatch
from ggmi_callbacks.scorers._base import Score, Scorer
from ggmi_callbacks.scorers._data import DataScorer
from ggmi_callbacks.scorers.distinct import DistinctScorer
from ggmi_callbacks.scorers.likelihood import LikelihoodScorer
from ggmi_callbacks.scorers.prompt import PromptInformationScorer
from ggmi_callbacks.tasks import Inputs, Layout

_ENOUGH = 8  # held-out anchors for a median deviation
_LEAST_SPREAD = 0.05  # in the score's own unit: where all anchors agree, smaller differences do not count


class JointScorer(Scorer):
    """Several scores, each in spreads (1.48 x median absolute deviation) of the held-out anchors, as one gain.

    Its unit, in the ledger and in logs too, is spreads and not nats. The ledger holds each score in its own unit
    beside it, under ``gain/<name>``, so that one sees why a sample was dropped. A score that a sample does not have
    (no prompt, no sibling, no value) does not count; a sample without any is not scored.

    Args:
        scorers: scores that do not change in a run (:attr:`Scorer.static`). By default likelihood gain, prompt
            information per token and the share of distinct 4-grams, together three forwards a batch.
        tolerance: how many spreads below the median anchor still count as a gain.
        combine: ``"least"`` takes the smallest score, for a filter with a threshold; ``"sum"`` adds them up, for a
            ranking (``Filter(keep=...)``).

    Raises:
        ValueError: if there are no scorers, or one that changes with the weights: its scale would be stale at once;
            in :meth:`prepare`, if one of the scorers cannot be prepared or scores none of the held-out anchors.

    """

    static = True

    def __init__(
        self,
        scorers: Sequence[Scorer] | None = None,
        tolerance: float = 2.0,
        combine: Literal["least", "sum"] = "least",
    ) -> None:
        super().__init__()
        if scorers is None:
            scorers = (LikelihoodScorer(), PromptInformationScorer(normalize="token"), DistinctScorer())
        if not scorers:
            raise ValueError("`scorers` must name at least one.")
        if live := [type(s).__name__ for s in scorers if not s.static]:
            raise ValueError(f"`scorers` must be static, and {', '.join(live)} change with the weights.")
        if combine not in ("least", "sum"):
            raise ValueError(f"`combine` must be 'least' or 'sum', got {combine!r}.")
        self.scorers, self.tolerance, self.combine = tuple(scorers), tolerance, combine
        self.parts = tuple(_told_apart([s.name for s in scorers]))
        self.needs_shadow = any(s.needs_shadow for s in scorers)
        self._of_model = torch.tensor([not isinstance(s, DataScorer) for s in scorers])
        self._center, self._spread = torch.zeros(len(scorers), 1), torch.ones(len(scorers), 1)

    def read(self, data: SampleData) -> None:
        """See :meth:`Scorer.read`."""
        for i, scorer in enumerate(self.scorers):
            scorer.read(data)
            if isinstance(scorer, DataScorer):
                values = scorer.known().gain
                self._spread[i] = values[~values.isnan()].std(correction=0).clamp_min(_LEAST_SPREAD)

    def known(self) -> Score | None:
        """See :meth:`Scorer.known`."""
        if bool(self._of_model.any()):
            return None
        return self._join([scorer.known() for scorer in self.scorers if isinstance(scorer, DataScorer)])

    def shadow_parameters(self, probe: Probe) -> list[str] | None:
        """Names that one of the scorers asks for; None if no scorer restricts them."""
        asked = {tuple(names) for s in self.scorers if (names := s.shadow_parameters(probe)) is not None}
        if len(asked) > 1:
            raise ValueError("`scorers` ask for shadows of different layers: give them the same `layers`.")
        return list(asked.pop()) if asked else None

    def check_start(self, probe: Probe, anchors: Sequence[Inputs]) -> None:
        """See :meth:`Scorer.check_start`."""
        for scorer in self.scorers:
            scorer.check_start(probe, anchors)

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Prepare every scorer, and find the scale of the model's scores on the anchors that the shadow held out."""
        device = next(probe.model.parameters()).device
        self._of_model, self._center, self._spread = (
            values.to(device) for values in (self._of_model, self._center, self._spread)
        )
        for scorer in self.scorers:
            scorer.prepare(probe, anchors, shadow)
        if not self._of_model.any():
            return
        layouts = [(SharedBatch(anchors[i]), probe.task.layout(anchors[i])) for i in shadow.heldout]
        models = [s for s in self.scorers if not isinstance(s, DataScorer)]
        found = torch.stack([torch.cat([s.score(*held).gain for held in layouts]) for s in models]).float()
        center = found.nanquantile(0.5, 1, keepdim=True)  # [scorers of the model, 1]
        if not center.isfinite().all():
            raise ValueError(
                "`anchors` that the shadow held out cannot be scored: they are too short, or lack targets or prompts."
            )
        deviation = (found - center).abs().nanquantile(0.5, 1, keepdim=True)
        self._center[self._of_model] = center
        self._spread[self._of_model] = (1.4826 * deviation).clamp_min(_LEAST_SPREAD)
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
        """See :meth:`Scorer.noisy_gain`; the noise of the least is that of the score where the sample is worst."""
        batch = SharedBatch(inputs)  # what several of them need is run once
        return self._join([scorer.score(batch, layout) for scorer in self.scorers])

    def _join(self, scores: Sequence[Score]) -> Score:
        """One score of several, with each of them as a part."""
        parts = torch.stack([score.gain for score in scores]).float()  # [scorers, n]
        noise = torch.stack([score.noise for score in scores]).float()
        center, spread, of_model = (v.to(parts.device) for v in (self._center, self._spread, self._of_model))
        scaled = self.tolerance * of_model[:, None] + (parts - center) / spread
        noise, unknown = noise / spread, parts.isnan()
        nothing = unknown.all(0)
        if self.combine == "sum":
            gain = scaled.nansum(0)
            total = noise.masked_fill(unknown, 0.0).square().sum(0).sqrt()
        else:
            worst = scaled.masked_fill(unknown, float("inf")).min(0)
            gain, total = worst.values, noise.gather(0, worst.indices[None])[0]
        return Score(gain.masked_fill(nothing, float("nan")), total.masked_fill(nothing, float("nan")), parts)

    def state_dict(self) -> dict[str, Any]:
        """The scale, and what the scorers keep."""
        return {"scale": (self._center, self._spread), "scorers": [s.state_dict() for s in self.scorers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the scale, and what the scorers keep."""
        self._center, self._spread = state["scale"]
        for scorer, saved in zip(self.scorers, state["scorers"], strict=True):
            scorer.load_state_dict(saved)


def _told_apart(names: Sequence[str]) -> list[str]:
    """``names``, with a number behind those that stand there already.

    Example:
        >>> _told_apart(["likelihood", "agreement", "likelihood"])
        ['likelihood', 'agreement', 'likelihood_2']

    """
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]
