"""GainEngine: anchors, scorer, policy, metrics and ledger around one model. It knows no trainer.

A training step in five calls, for whoever translates a trainer's events:

    inputs = engine.observe(inputs)          score, weigh, filter: the batch to train on
    engine.weights                           per-position weights for the loss, or None if all are one
    engine.record_log_probs(log_probs)                  what the training forward found, free
    engine.end_step()                        after the optimiser's update
    engine.log()                             numbers, at logging steps
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from ggmi_callbacks.data import SampleData, anchors_digest, check_anchors, check_vocabulary, to_device
from ggmi_callbacks.distributed import broadcast, rank_and_size
from ggmi_callbacks.engine.account import account
from ggmi_callbacks.engine.alarms import AnchorAlarms
from ggmi_callbacks.engine.anchor_panel import AnchorPanel
from ggmi_callbacks.engine.default import default_scorer
from ggmi_callbacks.engine.heldout import check_heldout, held_visits, refuse_share, reserved_ids
from ggmi_callbacks.engine.live import LiveGGMI
from ggmi_callbacks.engine.recorder import Recorder
from ggmi_callbacks.engine.refusals import check_shadow
from ggmi_callbacks.engine.replay import Visit
from ggmi_callbacks.engine.sample_engine import SampleEngine
from ggmi_callbacks.engine.stepping import Step
from ggmi_callbacks.engine.twins import Twins
from ggmi_callbacks.model import CrossFit, Shadow, cross_fit, preserved_rng, train_shadow
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import Inputs, Task


class GainEngine(SampleEngine):
    """Measures what samples teach about the anchors, and lets a policy act on it.

    :class:`SampleEngine` needs no anchors, and has no gains against any.

    Args:
        model: the module that is trained, free of data-parallel and compile wrappers.
        anchors: batches of model inputs made from the real examples, at least two.
        policy: what gain does to a sample's weight; :class:`Monitor` by default.
        scorer: how gain is estimated; by default :class:`LikelihoodScorer`, in nats. Where three samples of ``data`` in
            four have two other answers to their prompt, and ``policy`` is ``Reweight()`` or a ``Filter`` without a
            threshold, it is ``JointScorer([LikelihoodScorer(), AgreementScorer()], zero="own")``, in spreads; the
            ledger then has nats under ``gain/likelihood``. :meth:`results` names scorer and unit.
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
        ledger: folder into which the ledger is written as the run goes; None to keep it in memory.
        seed: of the engine's own draws; global random streams are never used.
        progress: show a progress bar while the shadow trains.

    Raises:
        TypeError: if ``policy`` or ``scorer`` is no policy or scorer.
        ValueError: if the model cannot be scored, the anchors are empty, too few or without targets, what the policy
            tells samples apart by is not known, or a policy that drops could not judge the samples held out.

    """

    recorder: Recorder

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
        ledger: str | PathLike[str] | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__(
            model,
            policy=policy,
            scorer=scorer,
            task=task,
            sources=sources,
            overhead=overhead,
            num_samples=num_samples,
            data=data,
            capacity=capacity,
            ledger=ledger,
            seed=seed,
            progress=progress,
        )
        self.anchors = check_anchors(anchors, self.probe.task)
        check_vocabulary(self.anchors, model)
        refuse_share(heldout)
        self.heldout = list(heldout)
        check_vocabulary(self.heldout, model)
        self.reserved = reserved_ids(self.heldout, self.num_samples)
        check_heldout(self.heldout, self.policy, self.scorer, self.reserved)
        self.learning_rate, self.shadow_epochs = learning_rate, shadow_epochs
        self.shadow: Shadow | None = None
        self.cross_fit: CrossFit | None = None
        self._digests = anchors_digest(self.anchors), anchors_digest(self.heldout)

    def _default_scorer(self, data: SampleData | None) -> Scorer:
        return default_scorer(self.policy, data)

    def _check(self) -> None:
        """Anchors give every scorer and policy what it needs."""

    def prepare(self) -> None:
        """Train the shadow, once; call it when the model is on its device and before the first step.

        Raises:
            ValueError: if several ranks run a policy that acts and ``capacity`` is not given, or the anchors teach
                the shadow nothing that an acting policy could act on.

        """
        super().prepare()
        self.intake.learn_heldout(self._held)

    def _build(self) -> None:
        shadow = self.prepare_scorer()
        if self.cross_fit is None:
            with preserved_rng():
                self.cross_fit = cross_fit(self.probe, self.anchors, shadow, self.seed)
            broadcast([self.cross_fit.held_in, self.cross_fit.held_out])
        recorder = self._make_recorder(shadow, self.cross_fit)
        self._begin(recorder, AnchorAlarms(recorder, self.policy, self.anchors, shadow))

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
        return Recorder(self.probe, panel, LiveGGMI(twins, anchors), self.ledger.sources, self.num_samples, self.seed)

    def _look_back(self) -> None:
        if self.schedule.looks_back(self.step):
            with self.budget.spend("probe"):
                self.recorder.look_back(self.step)

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
        state = super().state_dict()
        assert self.shadow is not None
        assert self.cross_fit is not None
        return {**state, "shadow": self.shadow.state_dict(), "cross_fit": self.cross_fit.state_dict()}

    def _restore(self, state: dict[str, Any]) -> None:
        self.shadow, self.cross_fit = Shadow(**state["shadow"]), CrossFit(**state["cross_fit"])

    def _meet(self, step: Step) -> None:
        twins = self.recorder.live.twins
        visit = Visit(step.inputs, step.layout, torch.empty(0), step.source, step.identity)
        with self.budget.spend("twins") if twins.waits else nullcontext():
            twins.meet(self.step, visit, step.first)

    def _keep(self, step: Step, first_nll: Tensor) -> None:
        if self._news_is_possible(step):
            self.recorder.reservoir.add(Visit(step.inputs, step.layout, first_nll))

    def _news_is_possible(self, step: Step) -> bool:
        """Whether a batch can hold first visits, as far as the host knows without asking the device."""
        if self.num_samples is None:
            return self.recorder.finds_news
        return step.met_before * rank_and_size()[1] < self.num_samples - len(self.reserved)
