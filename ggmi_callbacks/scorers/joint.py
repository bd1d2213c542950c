"""Several scores on one scale.

    u_k(z) = tolerance + ( s_k(z) - median s_k(A) ) / spread s_k(A)      a score of the model, against real samples A
    u_k(z) = s_k(z) / spread s_k                                         a score of the data, or zero="own"

    gain(z) = the least u_k(z)  or      sum_k u_k(z)                     over the scores that z has

Scores of unlike kinds (faithful to the anchors, relevant to its prompt, not repeating itself, agreed upon) are put on
one scale by those anchors that the shadow has not seen: how far below a typical real sample is z? The least lets a
sample pass only if it does on every count, since an average lets one virtue pay for another vice. The sum ranks.

The least is that of u_k + margin x noise_k, with the policy's margin: so z is below a threshold beyond its noise if and
only if one of its scores is, however noisy the others are.

Where some samples carry a label, right or wrong, gain is the log-odds of being right (:mod:`._calibration`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.model import Probe, Shadow, SharedBatch
from ggmi_callbacks.scorers._base import Score, Scorer, Shared
from ggmi_callbacks.scorers._calibration import Calibration, Labelled
from ggmi_callbacks.scorers._data import DataScorer
from ggmi_callbacks.scorers._refusals import check_label, check_rule, check_scorers
from ggmi_callbacks.scorers.distinct import DistinctScorer
from ggmi_callbacks.scorers.likelihood import LikelihoodScorer
from ggmi_callbacks.scorers.prompt import PromptInformationScorer
from ggmi_callbacks.tasks import Inputs, Layout

_ENOUGH = 8  # held-out anchors for a median deviation
_LEAST_SPREAD = 0.05  # in the score's own unit: where all anchors agree, smaller differences do not count


class JointScorer(Scorer):
    """Several scores as one gain, each in spreads: 1.48 x median absolute deviation of the held-out anchors.

    A score of the data is in standard deviations of the training set. So the unit, in the ledger and in logs too, is
    spreads and not nats. The ledger holds each score in its own unit beside it, under ``gain/<name>``, so that one sees
    why a sample was dropped. A score that a sample does not have (no prompt, no sibling, no value, no standard error)
    does not count; a sample without any is not scored.

    Args:
        scorers: scores that do not change in a run (:attr:`Scorer.static`). By default likelihood gain, prompt
            information per token and the share of distinct 4-grams, together three forwards a batch.
        tolerance: how many spreads below the median anchor still count as a gain, 2 if not given.
        combine: ``"least"`` takes the smallest score, for a filter with a threshold; ``"sum"`` adds them up, for a
            ranking (``Filter(keep=...)``).
        zero: of the model's scores. ``"anchors"``: ``tolerance`` below the median of the held-out anchors. ``"own"``:
            the score's own, so that ``Filter()`` drops only what surely speaks against itself on some count: a
            likelihood gain below zero beyond its noise, no agreement at all, a failed verifier. Scores of the data
            always keep theirs.
        label: column of the training set with True, False or None, at least 50 of them known: the scores are then
            joined by a logistic regression on these, in place of the three arguments before. Gain is the log-odds of
            being right, nats, zero at even odds; a score that is not known counts as the labelled samples without it.
            ``results()["calibration"]`` has the held-out AUROC with its 95 % interval over prompts, the number of
            labels (a random 2,000 if there are more) and the weight of each score. Needs scikit-learn; scores of the
            model are found for the labelled samples in :meth:`prepare`.

    Raises:
        ImportError: if ``label`` is given and scikit-learn is missing.
        ValueError: if there are no scorers, or one that changes with the weights: its scale would be stale at once;
            if ``zero="own"`` comes with ``tolerance`` or with a scorer whose zero nothing exceeds; in :meth:`prepare`,
            if one of the scorers cannot be prepared or scores none of the held-out anchors. If ``label`` comes with
            ``tolerance``, ``combine`` or ``zero``, or names what a scorer reads; in :meth:`read`, if it labels too few
            samples, or the model has to score them and there are no tokens.

    Example:
        Whoever fails on one count is dropped, whatever the other says.

        >>> from ggmi_callbacks import ColumnScorer, Filter
        >>> from ggmi_callbacks.data import SampleData
        >>> joint = JointScorer([ColumnScorer("passed"), ColumnScorer("reward", threshold=3)], zero="own")
        >>> rows = [{"passed": True, "reward": 5}, {"passed": False, "reward": 9}, {"passed": None, "reward": 4}]
        >>> joint.read(SampleData(rows))
        >>> Filter()(joint.known().gain)
        tensor([1., 0., 1.])

    """

    static = True

    def __init__(
        self,
        scorers: Sequence[Scorer] | None = None,
        tolerance: float | None = None,
        combine: Literal["least", "sum"] = "least",
        zero: Literal["anchors", "own"] = "anchors",
        label: str | None = None,
    ) -> None:
        super().__init__()
        if scorers is None:
            scorers = (LikelihoodScorer(), PromptInformationScorer(normalize="token"), DistinctScorer())
        check_scorers(scorers)
        if label is None:
            check_rule(scorers, tolerance, combine, zero)
        else:
            check_label(label, scorers, has_rule=(tolerance, combine, zero) != (None, "least", "anchors"))
        self.scorers, self.combine, self.zero, self.label = tuple(scorers), combine, zero, label
        self.tolerance = tolerance
        self._slack = (2.0 if tolerance is None else tolerance) if zero == "anchors" else 0.0  # in spreads
        self.parts = tuple(_told_apart([s.name for s in scorers]))
        self.needs_shadow = any(s.needs_shadow for s in scorers)
        self.needs_ids = any(s.needs_ids for s in scorers)
        # Scores of the model are put on one scale by the anchors; those of the data need none.
        self.needs_anchors = any(s.needs_anchors or not isinstance(s, DataScorer) for s in scorers)
        self._of_model = torch.tensor([not isinstance(s, DataScorer) for s in scorers])
        self._center, self._spread = torch.zeros(len(scorers), 1), torch.ones(len(scorers), 1)
        self._calibration: Calibration | None = None
        self._labelled: Labelled | None = None

    @property
    def unit(self) -> str:
        """See :attr:`Scorer.unit`."""
        return "spreads" if self.label is None else "nats, log-odds"

    def __str__(self) -> str:
        if self.label is not None:
            return f"JointScorer: log-odds of {self.label!r} from {', '.join(self.parts)}"
        zero = "their own zero" if self.zero == "own" else f"{self._slack:g} spreads below the median anchor"
        return f"JointScorer: {self.combine} of {', '.join(self.parts)}, from {zero}"

    def read(self, data: SampleData) -> None:
        """See :meth:`Scorer.read`."""
        for i, scorer in enumerate(self.scorers):
            scorer.read_once(data)
            if isinstance(scorer, DataScorer):
                values = scorer.known().gain
                self._spread[i] = values[~values.isnan()].std(correction=0).clamp_min(_LEAST_SPREAD)
        if self.label is not None:
            self._read_labels(data, self.label)

    def known(self) -> Score | None:
        """See :meth:`Scorer.known`."""
        known = self._known()
        return None if known is None else self._join(*known)

    def bound(self) -> Score | None:
        """See :meth:`Scorer.bound`: the least of several is at most the least of those that the data bring."""
        of_data = [scorer.known() if isinstance(scorer, DataScorer) else None for scorer in self.scorers]
        known = next((score for score in of_data if score is not None), None)
        if known is None or self.combine != "least" or self.label is not None:
            return None
        unknown = torch.full_like(known.gain, float("nan"))
        return self._join(*_stacked([score or Score(unknown, unknown) for score in of_data]))

    def summary(self) -> dict[str, Any]:
        """See :meth:`Scorer.summary`; where two scorers tell of the same thing, the first one's."""
        found = [scorer.summary() for scorer in reversed(self.scorers)]
        estimators = {name: how for one in found for name, how in one.get("estimators", {}).items()}
        out = {**{name: value for one in found for name, value in one.items()}, "estimators": estimators}
        return out if self._calibration is None else {**out, "calibration": self._calibration.summary(self.parts)}

    def shared(self) -> Shared | None:
        """See :meth:`Scorer.shared`: of the first scorer that has it."""
        return next((found for scorer in self.scorers if (found := scorer.shared()) is not None), None)

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
        """Prepare every scorer, and find the scale or the weights of the model's scores."""
        device = next(probe.model.parameters()).device
        self._of_model, self._center, self._spread = (
            values.to(device) for values in (self._of_model, self._center, self._spread)
        )
        for scorer in self.scorers:
            scorer.prepare(probe, anchors, shadow)
        if not self._of_model.any():
            return
        if self.label is not None:
            self._calibrate(probe, rows=probe.task.layout(anchors[0]).n)
        else:
            self._find_scale(probe, anchors, shadow)

    def _find_scale(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Centre and spread of the model's scores, on the anchors that the shadow held out."""
        layouts = [(SharedBatch(anchors[i]), probe.task.layout(anchors[i])) for i in shadow.heldout]
        models = [s for s in self.scorers if not isinstance(s, DataScorer)]
        found = torch.stack([torch.cat([s.score(*held).gain for held in layouts]) for s in models]).float()
        center = found.nanquantile(0.5, 1, keepdim=True)  # [scorers of the model, 1]
        if not center.isfinite().all():
            raise ValueError(
                "`anchors` that the shadow held out cannot be scored: they are too short, or lack targets or prompts."
            )
        deviation = (found - center).abs().nanquantile(0.5, 1, keepdim=True)
        if self.zero == "anchors":
            self._center[self._of_model] = center
        self._spread[self._of_model] = (1.4826 * deviation).clamp_min(_LEAST_SPREAD)
        if (count := found.shape[1]) < _ENOUGH and self.zero == "anchors":
            warnings.warn(
                f"the scale of JointScorer rests on {count} held-out anchors; give at least {4 * _ENOUGH} anchors, of "
                "which a quarter is held out.",
                stacklevel=2,
            )

    def _read_labels(self, data: SampleData, label: str) -> None:
        """Take note of the labelled samples; calibrate on them if no score has to be found by the model."""
        self._labelled = labelled = Labelled.read(data, label)
        if (known := self._known()) is not None:
            self._calibration = labelled.calibrate(known[0][:, labelled.ids])
        elif not data.has_tokens:
            models = [name for name, of_model in zip(self.parts, self._of_model, strict=True) if of_model]
            raise ValueError(
                f"`label`: {', '.join(models)} must be found by the model for the labelled samples, and the training "
                "set has no `input_ids` and `labels` to run it on: leave these scorers out, or give tokens."
            )

    def _calibrate(self, probe: Probe, rows: int) -> None:
        """Score the labelled samples, ``rows`` at a time, and fit the weights to them."""
        if self._labelled is None:
            raise ValueError("`label` is read off the training set, and the engine was given none: give it as `data`.")
        found = [
            self._found(inputs, layout)[0].masked_fill(layout.tokens == 0, float("nan"))
            for inputs, layout in self._labelled.batches(probe, rows)
        ]
        self._calibration = self._labelled.calibrate(torch.cat(found, 1))

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """See :meth:`Scorer.gain`."""
        return self.noisy_gain(inputs, layout).gain

    def noisy_gain(self, inputs: Inputs, layout: Layout) -> Score:
        """See :meth:`Scorer.noisy_gain`; the noise of the least is that of the score which is taken for it."""
        return self._join(*self._found(inputs, layout))

    def _known(self) -> tuple[Tensor, Tensor] | None:
        """Every score and its noise, [scorers, N], if no model is needed to find them."""
        if bool(self._of_model.any()):
            return None
        return _stacked([scorer.known() for scorer in self.scorers if isinstance(scorer, DataScorer)])

    def _found(self, inputs: Inputs, layout: Layout) -> tuple[Tensor, Tensor]:
        """Every score and its noise, [scorers, n]; what several of them need is run once."""
        batch = SharedBatch(inputs)
        return _stacked([scorer.score(batch, layout) for scorer in self.scorers])

    def _join(self, parts: Tensor, noise: Tensor) -> Score:
        """One score of several, [scorers, n], with each of them as a part."""
        if self._calibration is not None:
            return self._calibration.log_odds(parts, noise)
        center, spread, of_model = (v.to(parts.device) for v in (self._center, self._spread, self._of_model))
        scaled = self._slack * of_model[:, None] + (parts - center) / spread
        noise = noise / spread
        unknown = parts.isnan() | noise.isnan()
        nothing = unknown.all(0)
        if self.combine == "sum":
            gain = scaled.masked_fill(unknown, 0.0).sum(0)
            total = noise.masked_fill(unknown, 0.0).square().sum(0).sqrt()
        else:
            highest = scaled + self.margin * noise
            worst = highest.masked_fill(unknown, float("inf")).argmin(0, keepdim=True)
            gain, total = scaled.gather(0, worst)[0], noise.gather(0, worst)[0]
        return Score(gain.masked_fill(nothing, float("nan")), total.masked_fill(nothing, float("nan")), parts)

    def state_dict(self) -> dict[str, Any]:
        """The scale or the weights, and what the scorers keep."""
        return {
            "scale": (self._center, self._spread),
            "calibration": None if self._calibration is None else self._calibration._asdict(),
            "scorers": [s.state_dict() for s in self.scorers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the scale or the weights, and what the scorers keep."""
        self._center, self._spread = state["scale"]
        if state["calibration"] is not None:
            self._calibration = Calibration(**state["calibration"])
        for scorer, saved in zip(self.scorers, state["scorers"], strict=True):
            scorer.load_state_dict(saved)


def _stacked(scores: Sequence[Score]) -> tuple[Tensor, Tensor]:
    """Gains and noises of several scores, [scorers, n] each."""
    gains, noises = zip(*((score.gain.float(), score.noise.float()) for score in scores), strict=True)
    return torch.stack(gains), torch.stack(noises)


def _told_apart(names: Sequence[str]) -> list[str]:
    """``names``, with a number behind those that stand there already.

    Example:
        >>> _told_apart(["likelihood", "agreement", "likelihood"])
        ['likelihood', 'agreement', 'likelihood_2']

    """
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]
