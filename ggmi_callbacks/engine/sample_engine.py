"""SampleEngine: who the samples of a training step are, what they cost, and what a policy does with them.

It needs no anchors: scores are those that the data bring, if there are any at all. :class:`GainEngine` adds what
anchors tell. The calls of a step are those in :mod:`ggmi_callbacks.engine.engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.distributed import is_distributed
from ggmi_callbacks.engine.alarms import Alarms
from ggmi_callbacks.engine.budget import Budget
from ggmi_callbacks.engine.by_source import by_source
from ggmi_callbacks.engine.checkpoint import Stateful, check_stamp, stamp
from ggmi_callbacks.engine.gain_table import GainTable
from ggmi_callbacks.engine.groups import read_groups
from ggmi_callbacks.engine.intake import Intake
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.engine.refusals import check_coverage, refuse_without_anchors
from ggmi_callbacks.engine.schedule import Never, Schedule
from ggmi_callbacks.engine.stepping import Stepping
from ggmi_callbacks.engine.tally import Tally
from ggmi_callbacks.engine.visits import Visits
from ggmi_callbacks.model import Probe
from ggmi_callbacks.policies import Monitor, Policy, check_policy
from ggmi_callbacks.scorers import Scorer, Unscored
from ggmi_callbacks.tasks import CausalLM, Task

PARTS = ("ledger", "schedule", "visits", "recorder", "alarms", "intake", "policy", "scorer")
"""Attributes of an engine that have a state of their own."""


class SampleEngine(Stepping):
    """Follows the samples of a run: losses by source, and a policy that acts on scores which need no anchors.

    Without a scorer it only listens: it logs ``ggmi/nll/<source>``, nats per token, from forwards that run anyway, and
    samples have no gain. With one (:class:`~ggmi_callbacks.ColumnScorer`, :class:`~ggmi_callbacks.AgreementScorer`,
    ...) a policy acts as it does in :class:`GainEngine`.

    Args:
        model: the module that is trained, free of data-parallel and compile wrappers.
        policy: what gain does to a sample's weight; :class:`Monitor` by default.
        scorer: how gain is found, without anchors; None for not at all.
        task: how samples are found and scored; a causal language model by default.
        sources: name of each sample's source, by sample id, or None.
        overhead: share of step time that scoring may take; None for the policy's default.
        num_samples: size of the training set, if ids are positions in it.
        data: the training set itself, by id, for scorers and policies that read it.
        capacity: most samples in a batch of any rank, needed if several ranks run a policy that acts.
        ledger: folder into which the ledger is written as the run goes, for runs whose rows would not fit into
            memory, and to read after a kill; None to keep it in memory.
        seed: of the engine's own draws.
        progress: show progress bars.

    Raises:
        TypeError: if ``policy`` or ``scorer`` is no policy or scorer.
        ValueError: if the model cannot be scored, the scorer needs anchors, the policy needs a scorer, or what it tells
            samples apart by is not known.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> from ggmi_callbacks import SampleLoss
        >>> net = torch.nn.Linear(2, 2)
        >>> task = SampleLoss(lambda model, x: F.cross_entropy(model(x), torch.zeros(len(x)).long(), reduction="none"))
        >>> engine = SampleEngine(net, task=task, sources=["human", "model"])
        >>> engine.prepare()
        >>> batch = engine.observe({"ggmi_batch": torch.zeros(2, 2), "ggmi_sample": torch.tensor([0, 1])})
        >>> engine.mean(task.loss(net, batch["ggmi_batch"])).backward()
        >>> engine.end_step()
        >>> sorted(engine.log())
        ['ggmi/nll/human', 'ggmi/nll/model']

    """

    def __init__(
        self,
        model: nn.Module,
        *,
        policy: Policy | None = None,
        scorer: Scorer | None = None,
        task: Task | None = None,
        sources: Sequence[str | None] | None = None,
        overhead: float | None = None,
        num_samples: int | None = None,
        data: SampleData | Sequence[Any] | None = None,
        capacity: int | None = None,
        ledger: str | PathLike[str] | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.policy = Monitor() if policy is None else check_policy(policy)
        if data is not None and not isinstance(data, SampleData):
            data = SampleData(data)
        self.scorer = self._default_scorer(data) if scorer is None else scorer
        if not isinstance(self.scorer, Scorer):
            raise TypeError(f"`scorer` must be a scorer such as LikelihoodScorer(), got {scorer!r}.")
        self.probe = Probe(model, CausalLM() if task is None else task)
        self._check()
        self.capacity, self.seed, self.progress = capacity, seed, progress
        self.overhead = self.policy.overhead if overhead is None else overhead
        self.budget = Budget(self.overhead, self.device)
        self.optimizer: torch.optim.Optimizer | None = None
        """The run's optimiser, for scorers that are aware of it."""
        self.loader: Stateful | None = None
        """The loader that refills what is dropped, if there is one; it sets itself."""
        self.loader_state: dict[str, Any] | None = None
        """Its state, from :meth:`load_state_dict` until it is made."""
        self.step = 0
        names = sorted({s for s in sources or () if s is not None})
        code: dict[str | None, int] = {name: i for i, name in enumerate(names)}
        self.codes = torch.tensor([code.get(s, len(names)) for s in sources]) if sources is not None else None
        """Code of each sample's source by id, that of none at the end; None without sources."""
        if data is not None:
            num_samples = len(data) if num_samples is None else num_samples
            self.scorer.read_once(data)
        self.ledger = Ledger(names, self.scorer.parts, ledger, self.scorer.unit if self.scores else None)
        self.num_samples = len(sources) if num_samples is None and sources is not None else num_samples
        if sources is not None and len(sources) < (num_samples or 0):
            raise ValueError(
                f"`sources` must name one of each sample, got {len(sources)} of `num_samples={num_samples}`."
            )
        self.policy.read(read_groups(self.policy, data, sources, self.num_samples))
        self._remembers = bool(num_samples) and self.scorer.static
        self.reserved = torch.empty(0, dtype=torch.long)
        """Ids of the samples of the training set that are held out, in ascending order, [m]."""
        self._digests = "none", "none"  # of the anchors, and of what is held out

    def _default_scorer(self, data: SampleData | None) -> Scorer:
        return Unscored()

    def _check(self) -> None:
        """Raise where what was given does not go together."""
        refuse_without_anchors(self.scorer, self.policy)

    @property
    def scores(self) -> bool:
        """Whether samples have gains at all."""
        return not isinstance(self.scorer, Unscored)

    def prepare(self) -> None:
        """Begin a run; call it when the model is on its device and before the first step.

        Raises:
            ValueError: if several ranks run a policy that acts and ``capacity`` is not given, or the ledger's folder is
                taken.

        """
        self._check_capacity()
        self.ledger.begin()  # before anything is paid for
        self._build()

    def _build(self) -> None:
        """All of :meth:`prepare` that a resumed run does too."""
        # Scorers that need no anchors make no use of them.
        self.scorer.margin = self.policy.margin
        self.scorer.prepare(self.probe, (), None)  # type: ignore[arg-type]
        tally = Tally(self.ledger.sources, self.device, self.num_samples, self.scores)
        self._begin(tally, Alarms(tally, self.policy))

    def _check_capacity(self) -> None:
        if self.policy.acts and self.capacity is None and is_distributed():
            raise ValueError(
                f"`capacity` is missing: with several ranks {type(self.policy).__name__} compares the gains of all, so "
                f"each must know the most samples that a batch of any rank holds. Give {type(self).__name__}(capacity="
                "...)."
            )

    def _begin(self, recorder: Tally, alarms: Alarms) -> None:
        """Make what a run needs anew."""
        self.budget = Budget(self.overhead, self.device)  # the device may be another now
        self.schedule = Schedule(self.budget) if self.scores else Never(self.budget)
        self.visits = Visits(self.num_samples, self.device)
        self.recorder, self.alarms = recorder, alarms
        self.intake = Intake(
            self.probe,
            self.scorer,
            self.policy,
            self.schedule,
            recorder,
            table=GainTable(self.num_samples or 0, self.device, len(self.scorer.parts)) if self._remembers else None,
            sources=None if self.codes is None else self.codes.to(self.device),
            num_samples=self.num_samples,
            capacity=self.capacity,
            reserved=self.reserved,
        )
        self.policy.reset()

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
        self._look_back()
        with self.budget.spend("window"):
            self.alarms.check(self.policy.acts)
            numbers = self.recorder.window(self.policy.acts, self.step)
        check_coverage(self.schedule, self.recorder, self.scorer, self.policy)
        return {**numbers, **self._overhead()}

    def _look_back(self) -> None:
        """Measure the past again, where the numbers of a log need it."""

    def finish(self) -> dict[str, float]:
        """Numbers that are known at the end alone: without anchors there are none."""
        self._require_prepared("finish")
        return {}

    def run_numbers(self) -> dict[str, float]:
        """Numbers of the run so far, but for those that :meth:`results` has to find; every rank must call it."""
        self._require_prepared("run_numbers")
        return self.recorder.results(acts=self.policy.acts)

    def results(self) -> dict[str, Any]:
        """Everything known of the run so far: its numbers, and what was used."""
        self._require_prepared("results")
        numbers, summary = self.run_numbers(), self.scorer.summary()
        named = {"scorer": str(self.scorer), "gain_unit": self.scorer.unit} if self.scores else {}
        return {
            **numbers,
            **summary,
            **self._overhead(),
            **named,
            "policy": repr(self.policy),
            "sources": by_source(self.recorder.run, None, self.ledger.sources),
            "alarms": dict(self.alarms.raised),
        }

    def _overhead(self) -> dict[str, float]:
        return {"ggmi/overhead": self.budget.share} if self.scores else {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit for bit; every rank must call it and keep its own."""
        self._require_prepared("state_dict")
        self._flush()
        return {
            **stamp(self.step, *self._digests, type(self.scorer).__name__),
            **{name: getattr(self, name).state_dict() for name in PARTS},
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
        self._restore(state)
        self.ledger.load_state_dict(state["ledger"])  # before a run begins that would find rows of another one there
        self._build()
        for name in PARTS[1:]:
            getattr(self, name).load_state_dict(state[name])
        self.loader_state = state["loader"]

    def _restore(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`prepare` would find anew."""

    def _flush(self) -> None:
        bad = self.ledger.flush()
        self.recorder.add_nonfinite(bad, self.step)
        self.intake.check()
