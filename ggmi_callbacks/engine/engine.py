"""GainEngine: anchors, scorer, policy, metrics and ledger around one model. It knows no trainer.

A training step in five calls, for whoever translates a trainer's events:

    inputs = engine.observe(inputs)          score, weigh, filter: the batch to train on
    engine.weights                           per-position weights for the loss, or None if all are one
    engine.record_log_probs(log_probs)                  what the training forward found, free
    engine.end_step()                        after the optimiser's update
    engine.log()                             numbers, at logging steps
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from tqdm.auto import tqdm

from ggmi_callbacks.data import SampleData, anchors_digest, check_anchors, check_vocabulary, to_device
from ggmi_callbacks.distributed import broadcast, is_distributed, rank_and_size
from ggmi_callbacks.engine.account import account
from ggmi_callbacks.engine.alarms import Alarms
from ggmi_callbacks.engine.anchor_panel import AnchorPanel
from ggmi_callbacks.engine.budget import Budget
from ggmi_callbacks.engine.checkpoint import Stateful, check_stamp, stamp
from ggmi_callbacks.engine.default import default_scorer
from ggmi_callbacks.engine.gain_table import GainTable
from ggmi_callbacks.engine.groups import read_groups
from ggmi_callbacks.engine.heldout import check_heldout, held_visits, refuse_share, reserved_ids
from ggmi_callbacks.engine.intake import Candidates, Intake, Origin
from ggmi_callbacks.engine.ledger import Ledger, Rows
from ggmi_callbacks.engine.live import LiveGGMI
from ggmi_callbacks.engine.recorder import Recorder
from ggmi_callbacks.engine.refusals import check_coverage, check_shadow
from ggmi_callbacks.engine.replay import Visit
from ggmi_callbacks.engine.schedule import Schedule
from ggmi_callbacks.engine.twins import Twins
from ggmi_callbacks.engine.visits import Visits
from ggmi_callbacks.model import CrossFit, Probe, Shadow, cross_fit, preserved_rng, train_shadow
from ggmi_callbacks.policies import Monitor, Policy, check_policy
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import CausalLM, Inputs, Layout, Task

_PARTS = ("ledger", "schedule", "visits", "recorder", "alarms", "intake", "policy", "scorer")
"""Attributes of the engine that have a state of their own."""


@dataclass
class _Step:
    """The micro-batch between :meth:`GainEngine.observe` and the next."""

    inputs: Inputs  # as trained on
    layout: Layout  # of ``inputs``
    kept: Tensor | None  # indices of the samples in ``inputs`` among those observed; None for all
    weights: Tensor  # [n] of the samples in ``inputs``
    first: Tensor  # [n] whether they are trained on for the first time
    rows: Rows  # of all samples observed
    targets: Tensor  # their number before anything was dropped
    met_before: int  # samples that this rank had met before them
    origin: Origin


class GainEngine:
    """Measures what samples teach about the anchors, and lets a policy act on it.

    Args:
        model: the module that is trained, free of data-parallel and compile wrappers.
        anchors: batches of model inputs made from the real examples, at least two.
        policy: what gain does to a sample's weight; :class:`Monitor` by default.
        scorer: how gain is estimated; by default :class:`LikelihoodScorer`, in nats. Where ``data`` hold three
            answers or more to most prompts, and ``policy`` is ``Reweight()`` or a ``Filter`` without a threshold, it is
            ``JointScorer([LikelihoodScorer(), AgreementScorer()], zero="own")``, in spreads; the ledger then has nats
            under ``gain/likelihood``. :meth:`results` names scorer and unit.
        task: how samples are found and scored; a causal language model by default.
        sources: name of each sample's source, by sample id, or None.
        learning_rate: of the shadow, best the run's own.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        overhead: share of step time that the engine may take; None for the policy's default (5 % for Monitor, no
            limit for a policy that acts). Samples beyond it are not scored: gain null, weight 1, kept.
        num_samples: size of the training set, if ids are positions in it: gains that never change
            (:attr:`Scorer.static`) are then found in the first epoch and remembered.
        data: the training set itself, by id, for scorers that read it (:class:`ColumnScorer`, ...) and policies that
            tell its samples apart (``Filter(within=...)``).
        capacity: most samples in a batch of any rank, needed if several ranks run a policy that acts.
        heldout: batches of samples of the same law as the training set that are never trained on, with which those that
            are trained on are compared in every epoch, and with the last weights. Without any, the samples still to
            come in the first epoch serve, if it is shuffled. Ids under ``"ggmi_sample"`` tell their sources; those
            below ``num_samples`` are a part of the training set that no batch may hold (:attr:`reserved`). Beside what
            a filter keeps, those stand that it would keep.
        seed: of the engine's own draws; global random streams are never used.
        progress: show a progress bar while the shadow trains.

    Raises:
        TypeError: if ``policy`` or ``scorer`` is no policy or scorer.
        ValueError: if the model cannot be scored, the anchors are empty, too few or without targets, what the policy
            tells samples apart by is not known, or a policy that drops could not judge the samples held out.

    """

    def __init__(
        self,
        model: nn.Module,
        anchors: Sequence[Inputs],
        *,
        policy: Policy | None = None,
        scorer: Scorer | None = None,
        task: Task | None = None,
        sources: Sequence[str | None] | None = None,
        learning_rate: float = 1e-4,
        shadow_epochs: int = 3,
        overhead: float | None = None,
        num_samples: int | None = None,
        data: SampleData | Sequence[Any] | None = None,
        capacity: int | None = None,
        heldout: Sequence[Inputs] = (),
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.policy = Monitor() if policy is None else check_policy(policy)
        if data is not None and not isinstance(data, SampleData):
            data = SampleData(data)
        self.scorer = default_scorer(self.policy, data) if scorer is None else scorer
        if not isinstance(self.scorer, Scorer):
            raise TypeError(f"`scorer` must be a scorer such as LikelihoodScorer(), got {scorer!r}.")
        self.probe = Probe(model, CausalLM() if task is None else task)
        self.anchors = check_anchors(anchors, self.probe.task)
        check_vocabulary(self.anchors, model)
        refuse_share(heldout)
        self.heldout = list(heldout)
        check_vocabulary(self.heldout, model)
        self.capacity, self.seed, self.progress = capacity, seed, progress
        self.learning_rate, self.shadow_epochs = learning_rate, shadow_epochs
        self.overhead = self.policy.overhead if overhead is None else overhead
        self.budget = Budget(self.overhead, self.device)
        self.optimizer: torch.optim.Optimizer | None = None
        """The run's optimiser, for scorers that are aware of it."""
        self.loader: Stateful | None = None
        """The loader that refills what is dropped, if there is one; it sets itself."""
        self.loader_state: dict[str, Any] | None = None
        """Its state, from :meth:`load_state_dict` until it is made."""
        self.step = 0
        self.shadow: Shadow | None = None
        self.cross_fit: CrossFit | None = None
        names = sorted({s for s in sources or () if s is not None})
        self.ledger = Ledger(names, self.scorer.parts)
        code: dict[str | None, int] = {name: i for i, name in enumerate(names)}
        self.codes = torch.tensor([code.get(s, len(names)) for s in sources]) if sources is not None else None
        """Code of each sample's source by id, that of none at the end; None without sources."""
        if data is not None:
            num_samples = len(data) if num_samples is None else num_samples
            self.scorer.read_once(data)
        self.num_samples = len(sources) if num_samples is None and sources is not None else num_samples
        if sources is not None and len(sources) < (num_samples or 0):
            raise ValueError(
                f"`sources` must name one of each sample, got {len(sources)} of `num_samples={num_samples}`."
            )
        self.policy.read(read_groups(self.policy, data, sources, self.num_samples))
        self.reserved = reserved_ids(self.heldout, self.num_samples)
        """Ids of the samples of the training set that are held out, in ascending order, [m]."""
        check_heldout(self.heldout, self.policy, self.scorer, self.reserved)
        self._digests = anchors_digest(self.anchors), anchors_digest(self.heldout)
        self._remembers = bool(num_samples) and self.scorer.static
        self._current: _Step | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.probe.model.parameters()).device

    def prepare(self) -> None:
        """Train the shadow, once; call it when the model is on its device and before the first step.

        Raises:
            ValueError: if several ranks run a policy that acts and ``capacity`` is not given, or the anchors teach
                the shadow nothing that an acting policy could act on.

        """
        if self.policy.acts and self.capacity is None and is_distributed():
            raise ValueError(
                f"`capacity` is missing: with several ranks {type(self.policy).__name__} compares the gains of all, so "
                "each must know the most samples that a batch of any rank holds. Give GainEngine(capacity=...)."
            )
        self._build()
        self.intake.learn_heldout(self._held)

    def _build(self) -> None:
        """All of :meth:`prepare` that a resumed run does too."""
        shadow = self.prepare_scorer()
        if self.cross_fit is None:
            with preserved_rng():
                self.cross_fit = cross_fit(self.probe, self.anchors, shadow, self.seed)
            broadcast([self.cross_fit.held_in, self.cross_fit.held_out])
        self.budget = Budget(self.overhead, self.device)  # the device may be another now
        self.schedule = Schedule(self.budget)
        self.visits = Visits(self.num_samples, self.device)
        self.recorder = self._make_recorder(shadow, self.cross_fit)
        self.intake = Intake(
            self.probe,
            self.scorer,
            self.policy,
            self.schedule,
            self.recorder,
            table=GainTable(self.num_samples or 0, self.device, len(self.scorer.parts)) if self._remembers else None,
            sources=None if self.codes is None else self.codes.to(self.device),
            num_samples=self.num_samples,
            capacity=self.capacity,
            reserved=self.reserved,
        )
        self.alarms = Alarms(self.recorder, self.anchors, shadow)
        self.policy.reset()

    def prepare_scorer(self) -> Shadow:
        """The part of :meth:`prepare` that scoring alone needs: the shadow, trained if there is none, and the scorer.

        Raises:
            ValueError: if the anchors teach the shadow nothing that an acting policy could act on.

        """
        self.anchors = [to_device(batch, self.device) for batch in self.anchors]
        if self.shadow is None:
            self.scorer.check_start(self.probe, self.anchors)
            self.shadow = self._train_shadow()
            check_shadow(self.shadow, self.scorer, self.policy)
        self.scorer.margin = self.policy.margin
        self.scorer.prepare(self.probe, self.anchors, self.shadow)
        return self.shadow

    def _train_shadow(self) -> Shadow:
        """Train the shadow; every rank must call it, and all get what rank 0 found."""
        with preserved_rng():
            shadow = train_shadow(
                self.probe,
                self.anchors,
                learning_rate=self.learning_rate,
                names=self.scorer.shadow_parameters(self.probe),
                epochs=self.shadow_epochs,
                seed=self.seed,
                progress=self.progress,
            )
        broadcast(shadow.parameters.values())
        improved = torch.tensor(int(shadow.improved), device=self.device)
        broadcast([improved, shadow.heldout_lengths])  # in a borderline case ranks might decide otherwise
        shadow.improved = bool(improved)
        return shadow

    def _make_recorder(self, shadow: Shadow, anchors: CrossFit) -> Recorder:
        known = self.codes, len(self.ledger.sources), self.reserved
        self._held = held_visits(self.heldout, self.probe.task, *known, self.device)
        keeps = (lambda visit: self.intake.would_keep(visit)) if self.policy.drops else None
        twins = Twins(self.probe, shadow.weights(self.probe), self._held, self.seed, self.device, keeps)
        panel = AnchorPanel(self.probe, self.anchors, shadow, anchors)
        return Recorder(self.probe, panel, LiveGGMI(twins, anchors), self.ledger.sources, self.seed, self.device)

    def begin_epoch(self, epoch: int) -> None:
        """Say that pass number ``epoch`` over the data begins, from 0; every rank must call it.

        Gains that never change are then remembered from the start of the second pass, and not from the next log on.
        """
        if epoch > 0:
            self.visits.pool()
            self.intake.remember_if_complete()

    def observe(self, inputs: Inputs) -> Inputs:
        """Score a batch, weigh it, and return the batch to train on.

        Args:
            inputs: model inputs; sample ids [n] may ride under ``"ggmi_sample"`` and are taken out.

        Raises:
            RuntimeError: before :meth:`prepare`.
            ValueError: if ids are missing where sources or remembered gains need them, or are not whole numbers [n].

        """
        batch = self._take(inputs)
        rows = batch.write(self.ledger, self.step)
        inputs, layout, weights = batch.inputs, batch.layout, batch.weights
        kept, targets = None, layout.target.sum()
        if self.policy.drops and batch.origin != "screened":
            left, found = self.probe.task.select(inputs, layout, weights)
            if len(found) >= self.probe.task.fewest(self.probe.model):  # else all of them run, weights and all
                inputs, kept = left, found
                layout = self.probe.task.layout(inputs, max(1, len(kept)))
                weights = torch.ones_like(weights[:1]).expand(layout.n)
        first = self._first_visits(batch.identity, layout, kept)
        if kept is None or len(kept):
            source, identity = (x if kept is None else x[kept] for x in (batch.source, batch.identity))
            visit = Visit(inputs, layout, first_nll=torch.empty(0), source=source, identity=identity)
            with self.budget.spend("twins") if self.recorder.live.twins.waits else nullcontext():
                self.recorder.live.twins.meet(self.step, visit, first)
        self._current = _Step(inputs, layout, kept, weights, first, rows, targets, batch.met_before, batch.origin)
        return inputs

    def screen(self, inputs: Inputs, decided: bool = False) -> tuple[list[bool], Tensor]:
        """Score candidates and say which of them are to be trained on, later and in whatever batch.

        Those that are dropped get their rows in the ledger now. Those that are kept come back to :meth:`observe` with
        their gain and its noise under ``"ggmi_gain"``, and are then not scored again.

        Args:
            inputs: as of :meth:`observe`.
            decided: whether all of them are kept, since :meth:`keeps` said so.

        Returns:
            Whether each sample is kept, [n], after the one host synchronisation of a filtered step; and their scores,
            [n, 2 + parts], in the order of :class:`~ggmi_callbacks.scorers.Score`.

        """
        batch = self._take(inputs, decided)
        kept = (batch.weights > 0).tolist()
        dropped = [i for i, keep in enumerate(kept) if not keep]
        batch.write(self.ledger, self.step, torch.tensor(dropped, dtype=torch.long, device=batch.ids.device))
        return kept, batch.score.stacked().T

    def score_first(self, batches: Iterable[Inputs]) -> None:
        """Score the training set, this rank's share of it, where the policy needs every gain; every rank must call it.

        Args:
            batches: as of :meth:`observe`, with ids; not drawn from where nothing has to be scored.

        """
        self._require_prepared("score_first")
        if not self.intake.scores_first:
            return
        for inputs in tqdm(batches, desc="Scores of the training set", disable=not self.progress, leave=False):
            self.intake.learn(inputs, self.step, self.optimizer)
        self.budget.settle()
        self.intake.remember_if_complete()
        self.intake.check_known()

    def leave_out(self, ids: Tensor) -> None:
        """Account for samples that are dropped without having been drawn, by what is known of them."""
        self._require_prepared("leave_out")
        self.intake.known(ids, weight=0.0).write(self.ledger, self.step)

    def keeps(self) -> Tensor | None:
        """Which samples of the training set are kept, bool [num_samples], once every gain is known; None before."""
        self._require_prepared("keeps")
        return self.intake.keeps()

    def may_keep(self) -> Tensor | None:
        """Which samples of the training set may be kept, bool [num_samples], by what the data tell before training.

        :meth:`keeps`, once that is known; None if nothing is.
        """
        self._require_prepared("may_keep")
        return self.intake.may_keep()

    @property
    def weights(self) -> Tensor | None:
        """Weights at each target of the current batch, [B, T'] or [B, 1]; None if every weight is one."""
        if self._current is None or not self.policy.acts or self.policy.drops:
            return None
        return self._current.layout.spread(self._current.weights)

    @property
    def is_empty(self) -> bool:
        """Whether every sample of the current batch was dropped."""
        return self._current is not None and self._current.kept is not None and len(self._current.kept) == 0

    @property
    def targets(self) -> Tensor | None:
        """Targets in the current batch before anything was dropped: N of the weighted loss."""
        return None if self._current is None else self._current.targets

    def mean(self, losses: Tensor) -> Tensor:
        """Weighted mean of per-sample ``losses`` of the current batch, sum_i w_i loss_i / N, for a loop's own loss.

        Args:
            losses: of the samples that :meth:`observe` left, with gradient, nats, [n].

        """
        step = self._current
        if step is None:
            raise RuntimeError("call `observe` with the batch before `mean`.")
        if losses.shape != step.weights.shape:
            raise ValueError(
                f"`losses` must be [n], one for each of {len(step.weights)} samples, got {list(losses.shape)}: use "
                "reduction='none'."
            )
        self.record_log_probs(-losses[:, None])
        taken = 0.0 if self.is_empty else 1.0  # an emptied batch runs one sample for form's sake
        return taken * (losses * step.weights).sum() / step.targets

    @property
    def wants_log_probs(self) -> bool:
        """Whether :meth:`record_log_probs` is worth computing log-probabilities for."""
        return self._current is not None and self._current.origin != "skipped"

    def record_log_probs(self, log_probs: Tensor) -> None:
        """Take note of the training forward's per-target log-probabilities [B, T'], before the update."""
        step = self._current
        if step is None or self.is_empty:
            return
        nll = -step.layout.total(log_probs.detach())
        step.rows.complete(nll, step.kept)
        finite = nll.isfinite()
        self.recorder.add_lengths(nll.where(finite, 0.0), step.layout.tokens * finite)
        if self._news_is_possible():
            first = nll.masked_fill(~(step.first & finite), float("nan"))
            self.recorder.reservoir.add(Visit(step.inputs, step.layout, first))

    def end_step(self) -> None:
        """Close an optimiser step."""
        self.step += 1
        self._current = None
        self.budget.end_step()

    def log(self) -> dict[str, float]:
        """Numbers since the last call, ``ggmi/...``, nats; every rank must call it.

        A sample whose code length is not finite is left out of every statistic, counted (``ggmi/nonfinite``) and
        named in a warning.

        Raises:
            RuntimeError: before :meth:`prepare`.
            ValueError: if ids were out of range, or an acting policy got no gain of any sample.

        """
        self._require_prepared("log")
        self.budget.settle()
        self._flush()
        self.visits.pool()
        self.intake.remember_if_complete()
        if self.schedule.looks_back(self.step):
            with self.budget.spend("probe"):
                self.recorder.look_back(self.step)
        with self.budget.spend("window"):
            self.alarms.check(self.policy.acts)
            numbers = self.recorder.window(self.policy.acts, self.step)
        check_coverage(self.schedule, self.recorder, self.scorer, self.policy)
        return {**numbers, "ggmi/overhead": self.budget.share}

    def finish(self) -> dict[str, float]:
        """Numbers of the whole run, with GGMI and its two terms; call it once, after the last step."""
        self._require_prepared("finish")
        assert self.shadow is not None
        self.recorder.look_back(self.step, whole=True)
        return self.recorder.ggmi(self.shadow, self.step)

    def results(self) -> dict[str, Any]:
        """Everything known of the run so far: its numbers, the names of their estimators, the shadow's cost.

        Gains and shares are those of the whole run; those of one window are in the log.
        """
        self._require_prepared("results")
        assert self.shadow is not None
        assert self.cross_fit is not None
        anchors = self.shadow, self.cross_fit
        return {
            **account(self.recorder, self.scorer, self.policy, anchors, self.codes),
            "ggmi/overhead": self.budget.share,
            "heldout": sum(visit.layout.n for visit in self._held),
            "alarms": dict(self.alarms.raised),
        }

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit for bit; every rank must call it and keep its own."""
        self._require_prepared("state_dict")
        assert self.shadow is not None
        assert self.cross_fit is not None
        self._flush()
        return {
            **stamp(self.step, *self._digests, type(self.scorer).__name__),
            **{name: getattr(self, name).state_dict() for name in _PARTS},
            "shadow": self.shadow.state_dict(),
            "cross_fit": self.cross_fit.state_dict(),
            "loader": None if self.loader is None else self.loader.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], step: int | None = None) -> None:
        """Take back :meth:`state_dict` in place of :meth:`prepare`.

        Args:
            state: of the same rank in a run of as many ranks.
            step: optimiser steps that the run is at; the state's own must be the same.

        Raises:
            ValueError: if ``state`` is of another format, step, number of ranks, rank, anchors, policy or scorer.

        """
        check_stamp(state, stamp(self.step, *self._digests, type(self.scorer).__name__), step)
        state = tree_map_only(Tensor, lambda tensor: tensor.to(self.device), state)
        self.step = state["step"]
        self.shadow, self.cross_fit = Shadow(**state["shadow"]), CrossFit(**state["cross_fit"])
        self._build()
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.loader_state = state["loader"]

    def _take(self, inputs: Inputs, decided: bool = False) -> Candidates:
        self._require_prepared("observe")
        self.budget.begin_step()
        return self.intake.take(inputs, self.step, self.optimizer, decided)

    def _first_visits(self, identity: Tensor, layout: Layout, kept: Tensor | None) -> Tensor:
        """Which samples of the batch that is trained on are so for the first time, bool [n]; they are counted."""
        if kept is not None and len(kept) == 0:
            return torch.zeros(layout.n, dtype=torch.bool, device=layout.target.device)
        first = self.visits.mark(identity if kept is None else identity[kept])
        self.recorder.add_visits(layout.tokens, first)
        return first

    def _news_is_possible(self) -> bool:
        """Whether a batch can hold first visits, as far as the host knows without asking the device."""
        if self.num_samples is None:
            return self.recorder.finds_news
        assert self._current is not None
        return self._current.met_before * rank_and_size()[1] < self.num_samples - len(self.reserved)

    def _require_prepared(self, name: str) -> None:
        if self.shadow is None or not hasattr(self, "recorder"):
            raise RuntimeError(f"call `prepare` before `{name}`: gains need the shadow, and numbers need a run.")

    def _flush(self) -> None:
        bad = self.ledger.flush()
        self.recorder.add_nonfinite(bad, self.step)
        self.intake.check()
