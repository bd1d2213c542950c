"""From a batch as it comes to its samples: who they are, what they gain, and what they weigh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.distributed import gather_padded
from ggmi_callbacks.engine.gain_table import GainTable
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.engine.ledger_rows import Rows
from ggmi_callbacks.engine.refusals import check_ids, check_known, refuse_stream
from ggmi_callbacks.engine.replay import Visit
from ggmi_callbacks.engine.schedule import Schedule
from ggmi_callbacks.engine.tally import Tally
from ggmi_callbacks.model import Probe
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Score, Scorer
from ggmi_callbacks.tasks import GAIN_KEY, SAMPLE_KEY, Inputs, Layout

Origin = Literal["scored", "remembered", "skipped", "screened"]
"""Where a batch's gains come from: found now, from the table, not at all, or from :meth:`GainEngine.screen`."""


@dataclass
class Candidates:
    """A batch as it came: its samples and what is known of them."""

    inputs: Inputs
    layout: Layout
    ids: Tensor  # [n], the caller's, or by order
    identity: Tensor  # [n], by which a second visit is told: ids, or a fingerprint of the content
    source: Tensor  # [n], codes
    score: Score  # NaN where not known
    weights: Tensor  # [n], the policy's
    origin: Origin
    met_before: int  # samples that this rank had met before them

    def write(self, ledger: Ledger, step: int, which: Tensor | slice = slice(None)) -> Rows:
        """Write the samples ``which`` into ``ledger``."""
        parts = None if self.score.parts is None else self.score.parts[:, which]
        gain, weights = self.score.gain[which], self.weights[which]
        return ledger.write(step, self.ids[which], self.source[which], gain, weights, parts)


class Intake:
    """Takes batches in.

    Args:
        probe: the model and its task.
        scorer: finds gains.
        policy: makes weights of them.
        schedule: says which batches are scored.
        recorder: is told of gains and weights.
        table: gains by id, where they never change and ids are positions in the training set.
        sources: code of each sample's source by id, the code of none at its end; None if there are no sources.
        num_samples: size of the training set, if ids are positions in it.
        capacity: most samples in a batch of any rank.
        reserved: ids of samples of the training set that are held out.

    """

    def __init__(
        self,
        probe: Probe,
        scorer: Scorer,
        policy: Policy,
        schedule: Schedule,
        recorder: Tally,
        *,
        table: GainTable | None,
        sources: Tensor | None,
        num_samples: int | None,
        capacity: int | None,
        reserved: Tensor,
    ) -> None:
        self.probe, self.scorer, self.policy = probe, scorer, policy
        self.schedule, self.recorder, self.table = schedule, recorder, table
        self.sources, self.num_samples, self.capacity = sources, num_samples, capacity
        self._met = 0
        self._remembers = False  # gains come from the table, which has them all
        self._whole: Tensor | None = None  # weights of the whole training set, once that is so
        if table is not None and (known := scorer.known()) is not None:
            table.put(torch.arange(len(known.gain), device=table.known.device), known, scorer.targets())
            self._remembers = True
            self.check_known()
        elif table is None:
            refuse_stream(scorer, policy)
        self._hopeless = self._find_hopeless()
        device = next(probe.model.parameters()).device
        self._outside = torch.zeros((), dtype=torch.bool, device=device)
        self._reserved = torch.zeros(num_samples or 0, dtype=torch.bool, device=device)
        self._reserved[reserved] = True
        self._trained_reserved = self._outside
        if table is not None and not self._remembers and len(reserved):  # they never come
            unknown = torch.full((2 + len(scorer.parts), len(reserved)), float("nan"), device=device)
            table.put(reserved.to(device), Score.unstacked(unknown))
        self._refreshed_at = -1

    def take(
        self, inputs: Inputs, step: int, optimizer: torch.optim.Optimizer | None, decided: bool = False
    ) -> Candidates:
        """Find the samples of a batch, their gains and their weights.

        Args:
            inputs: the batch.
            step: optimiser steps before it.
            optimizer: for scorers that are aware of it.
            decided: whether all of them are kept, by what was known before (:meth:`keeps`).

        Raises:
            ValueError: if ids are missing where they are needed, or are not whole numbers [n].

        """
        inputs = dict(inputs)
        given_ids, screened = inputs.pop(SAMPLE_KEY, None), inputs.pop(GAIN_KEY, None)
        layout = self.probe.task.layout(inputs, None if given_ids is None else given_ids.numel())
        ids = self._by_order(layout) if given_ids is None else self._checked(given_ids, layout)
        identity = ids if given_ids is not None else self.probe.task.fingerprint(inputs, layout)
        source = self._source(ids)
        met = self._met
        origin: Origin = "screened"
        if screened is not None:
            score = Score.unstacked(screened.T)
            weights = torch.ones_like(score.gain)
        else:
            self._met += layout.n
            score, origin = self._score(inputs, replace(layout, ids=ids), step, optimizer)
            acts = self.policy.acts and not decided
            weights = self._weigh(score, layout.tokens, ids) if acts else torch.ones_like(score.gain)
            self.recorder.add_gains(identity, score.gain, source, weights)
        return Candidates(inputs, layout, ids, identity, source, score, weights, origin, met)

    @property
    def scores_first(self) -> bool:
        """Whether the training set has to be scored before its first sample is weighed, and can be."""
        return self.policy.needs_all is not None and self.table is not None and not self._remembers

    def learn(self, inputs: Inputs, step: int, optimizer: torch.optim.Optimizer | None) -> None:
        """Find the gains of a batch and remember them, without counting its samples as met."""
        inputs = dict(inputs)
        ids = inputs.pop(SAMPLE_KEY)
        layout = self.probe.task.layout(inputs, ids.numel())
        self._find(inputs, replace(layout, ids=self._checked(ids, layout)), step, optimizer)

    def learn_heldout(self, visits: Sequence[Visit]) -> None:
        """Remember the gains of held-out samples of the training set, if the policy has to judge them."""
        if self.table is None or self._remembers or not self.policy.drops:
            return
        for visit in visits:
            if visit.layout.ids is not None:
                self.table.put(visit.layout.ids, self._read(visit.inputs, visit.layout), visit.layout.tokens)

    def would_keep(self, visit: Visit) -> Tensor:
        """Which samples of a held-out batch the policy would train on, bool [n], by what is known now."""
        ids, whole = visit.layout.ids, self._weights_of_all()
        if ids is not None and whole is not None:
            return whole[ids] > 0
        known = ids is not None and self.table is not None
        score = self.table.get(ids) if known else self._read(visit.inputs, visit.layout)  # type: ignore[union-attr,arg-type]
        return self.policy.weights(self._compared(score.gain, visit.layout.tokens), score.noise, ids) > 0

    def known(self, ids: Tensor, weight: float) -> Candidates:
        """Samples that never came, by what the table knows of them, at one weight."""
        assert self.table is not None
        score = self.table.get(ids)
        source, weights = self._source(ids), torch.full_like(score.gain, weight)
        self.recorder.add_gains(ids, score.gain, source, weights)
        nothing = Layout(torch.empty(0), 0, None, torch.empty(0))
        return Candidates({}, nothing, ids, ids, source, score, weights, "remembered", self._met)

    def remember_if_complete(self) -> None:
        """From now on take gains from the table, if it has every sample's; every rank must call it."""
        self._remembers = self._remembers or (self.table is not None and self.table.complete())

    def keeps(self) -> Tensor | None:
        """Which samples of the training set the policy keeps, bool [num_samples]; None as long as gains are found."""
        whole = self._weights_of_all()
        return None if whole is None else whole > 0

    def may_keep(self) -> Tensor | None:
        """Which samples the policy may keep, bool [num_samples], by what the data tell; None if they tell nothing."""
        keeps = self.keeps()
        return keeps if keeps is not None or self._hopeless is None else ~self._hopeless

    def check(self) -> None:
        """Raise if ids were out of range, or held out; waits for the device, so it is done when logging."""
        check_ids(bool(self._outside), bool(self._trained_reserved), self.num_samples)

    def state_dict(self) -> dict[str, Any]:
        """Samples met, and the gains that are remembered."""
        table = None if self.table is None else self.table.state_dict()
        return {"met": self._met, "remembers": self._remembers, "table": table}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back :meth:`state_dict`."""
        self._met, self._remembers, self._whole = state["met"], state["remembers"], None
        if self.table is not None and state["table"] is not None:
            self.table.load_state_dict(state["table"])

    def _find_hopeless(self) -> Tensor | None:
        """Samples that cannot pass, whatever the model's scores are, bool [num_samples]; their bound is remembered."""
        if self.table is None or self._remembers or not (self.policy.drops and self.policy.judges_alone):
            return None
        if (bound := self.scorer.bound()) is None:
            return None
        hopeless = self.policy.weights(bound.gain, bound.noise) == 0
        ids = hopeless.nonzero()[:, 0]
        self.table.put(ids, Score.unstacked(bound.stacked()[:, ids]))
        return hopeless

    def _weigh(self, score: Score, tokens: Tensor, ids: Tensor) -> Tensor:
        """The policy's weights [n]: by the whole training set once its gains are known, by the stream before."""
        whole = self._weights_of_all()
        if whole is not None:
            return whole[ids]
        refuse_stream(self.scorer, self.policy)
        gain, pooled_ids = self._compared(score.gain, tokens), None
        if self.policy.needs:
            pooled_ids = gather_padded(ids.double(), self.capacity).nan_to_num(0.0).long()  # which no gain goes with
        return self.policy(gain, gather_padded(gain, self.capacity), score.noise, ids, pooled_ids)

    def _weights_of_all(self) -> Tensor | None:
        """Weights of the training set, [num_samples], by gains that are all known; None before."""
        if self._whole is None and self._remembers and self.table is not None:
            known = self.table.get(slice(None))
            self._whole = self.policy.weights_of_all(self._compared(known.gain, self.table.tokens), known.noise)
        return self._whole

    def _compared(self, gain: Tensor, tokens: Tensor) -> Tensor:
        """``gain`` [n] as the policy compares it."""
        sums = self.scorer.additive and self.scorer.normalize is None
        return gain / tokens.clamp_min(1) if sums and self.policy.per_token else gain

    def check_known(self) -> None:
        """Say where an acting policy would have little to act on in a table that is complete."""
        assert self.table is not None
        check_known(self.table.get(slice(None)).gain, self.scorer, self.policy)

    def _source(self, ids: Tensor) -> Tensor:
        """Codes of the sources of the samples ``ids`` [n]."""
        return torch.full_like(ids, len(self.recorder.sources)) if self.sources is None else self.sources[ids]

    def _by_order(self, layout: Layout) -> Tensor:
        """Ids of samples that carry none."""
        if self.num_samples is not None:
            raise ValueError(
                f"the batch carries no sample ids, and without them nobody knows which of the {self.num_samples} "
                f"samples it holds. Put ids under {SAMPLE_KEY!r} (`Numbered` and `CarryIds` do), or leave out "
                "`sources` and `num_samples`."
            )
        return torch.arange(self._met, self._met + layout.n, device=layout.target.device)

    def _checked(self, ids: Tensor, layout: Layout) -> Tensor:
        """The ids that a batch carries, [n]."""
        whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
        if ids.numel() != layout.n or not whole:
            raise ValueError(
                f"{SAMPLE_KEY!r} must hold a whole number for each of {layout.n} samples, got {ids.numel()} of "
                f"{ids.dtype}."
            )
        ids = ids.flatten().long().to(layout.target.device)
        if self.num_samples is None:
            return ids
        self._outside = self._outside | ((ids < 0) | (ids >= self.num_samples)).any()
        ids = ids.clamp(0, self.num_samples - 1)
        self._trained_reserved = self._trained_reserved | self._reserved[ids].any()
        return ids

    def _score(
        self, inputs: Inputs, layout: Layout, step: int, optimizer: torch.optim.Optimizer | None
    ) -> tuple[Score, Origin]:
        """Scores [n], NaN if the schedule leaves the batch out."""
        assert layout.ids is not None
        if self._remembers and self.table is not None:
            return self.table.get(layout.ids), "remembered"
        if not self.schedule.scores(layout.n):
            unknown = torch.full((2 + len(self.scorer.parts), layout.n), float("nan"), device=layout.target.device)
            return Score.unstacked(unknown), "skipped"
        return self._find(inputs, layout, step, optimizer), "scored"

    def _find(self, inputs: Inputs, layout: Layout, step: int, optimizer: torch.optim.Optimizer | None) -> Score:
        """Scores [n], found now."""
        assert layout.ids is not None
        with self.schedule.budget.spend("score"):
            if self._refreshed_at != step:
                self.scorer.refresh(step, optimizer)
                self._refreshed_at = step
            score = self._read(inputs, layout)
            self.recorder.remember_prompts(inputs, layout)
            if self.table is not None:
                self.table.put(layout.ids, score, layout.tokens)
        return score

    def _read(self, inputs: Inputs, layout: Layout) -> Score:
        """Scores [n] as the scorer finds them."""
        values = self.scorer.score(inputs, layout).stacked().float()
        # A sample without targets has no gain, and infinite ones would poison every running statistic.
        known = (layout.tokens > 0) & values[:2].isfinite().all(0)
        values[:2] = values[:2].masked_fill(~known, float("nan"))
        return Score.unstacked(values)
