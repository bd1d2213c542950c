"""GainEngine: anchors, scorer, policy, metrics and ledger around one model. It knows no trainer.

A training step in three calls, for whoever translates a trainer's events:

    inputs = engine.observe(inputs)          score, weigh, filter: the batch to train on
    engine.weights                           per-position weights for the loss, or None if all are one
    engine.watch(log_probs)                  what the training forward found, free
    engine.end_step()                        after the optimiser's update
    engine.log()                             numbers, at logging steps
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ggmi_callbacks.data import check_anchors, to_device
from ggmi_callbacks.distributed import broadcast, gather_padded
from ggmi_callbacks.engine.budget import Budget
from ggmi_callbacks.engine.gain_table import GainTable
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.engine.recorder import Recorder
from ggmi_callbacks.engine.replay import Visit
from ggmi_callbacks.model import Probe, Shadow, preserved_rng, train_shadow
from ggmi_callbacks.policies import Monitor, Policy
from ggmi_callbacks.scorers import LikelihoodScorer, Scorer
from ggmi_callbacks.tasks import SAMPLE_KEY, CausalLM, Inputs, Layout, Task

_LOOK_EVERY = 100  # steps between looks back in a run without a budget; a look takes the time of about two steps
_ALWAYS_SCORED = 64  # the first samples of a run, whatever the budget, so that short runs have numbers too


@dataclass
class _Step:
    """The micro-batch between :meth:`GainEngine.observe` and the next."""

    inputs: Inputs  # as trained on
    layout: Layout  # of ``inputs``
    kept: Tensor | None  # indices of the samples in ``inputs`` among those observed; None for all
    weights: Tensor  # [n] of the samples in ``inputs``
    nll: Tensor  # the ledger's column, [n observed]
    count: Tensor  # targets before anything was dropped
    scored: bool


class GainEngine:
    """Measures what samples teach about the anchors, and lets a policy act on it.

    Args:
        model: the module that is trained, free of data-parallel and compile wrappers.
        anchors: batches of model inputs made from the real examples, at least two.
        policy: what gain does to a sample's weight; :class:`Monitor` by default.
        scorer: how gain is estimated; :class:`LikelihoodScorer` by default.
        task: how samples are found and scored; a causal language model by default.
        sources: name of each sample's source, by sample id, or None.
        learning_rate: of the shadow, best the run's own.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        overhead: share of step time that the engine may take; None for the policy's default (5 % for Monitor, no
            limit for a policy that acts). Samples beyond it are not scored: gain null, weight 1, kept.
        num_samples: size of the training set, if ids are positions in it: gains that never change
            (:attr:`Scorer.static`) are then found in the first epoch and remembered.
        capacity: most samples in a batch of any rank, needed if several ranks run a policy that acts.
        seed: of the engine's own draws; global random streams are never used.
        progress: show a progress bar while the shadow trains.

    Raises:
        ValueError: if the model cannot be scored, or the anchors are empty, too few or without targets.

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
        capacity: int | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.probe = Probe(model, task or CausalLM())
        self.policy = policy or Monitor()
        self.scorer = scorer or LikelihoodScorer()
        self.anchors = check_anchors(anchors, self.probe.task)
        self.capacity, self.seed, self.progress = capacity, seed, progress
        self.learning_rate, self.shadow_epochs = learning_rate, shadow_epochs
        self.overhead = self.policy.overhead if overhead is None else overhead
        self.budget = Budget(self.overhead, self.device)
        self.optimizer: torch.optim.Optimizer | None = None
        """The run's optimiser, for scorers that are aware of it."""
        self.step = 0
        self.first_epoch = True
        """Whether samples are met for the first time, so that their NLL is a prequential code length."""
        self.shadow: Shadow | None = None
        names = sorted({s for s in sources or () if s is not None})
        self.ledger = Ledger(names)
        code: dict[str | None, int] = {name: i for i, name in enumerate(names)}
        self._codes = torch.tensor([code.get(s, len(names)) for s in sources]) if sources is not None else None
        self._seen = self._scored = 0
        self._cache = GainTable(num_samples, self.device) if num_samples and self.scorer.static else None
        self._known = len(sources) if sources is not None else num_samples
        self._recall = False
        self._look_waits = False  # a look back that did not fit comes before more scores
        self._looked_at: int | None = None
        self._current: _Step | None = None
        self._refreshed_at = -1

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.probe.model.parameters()).device

    def prepare(self) -> None:
        """Train the shadow, once; call it when the model is on its device and before the first step."""
        self.budget = Budget(self.overhead, self.device)  # the device may be another now
        self.anchors = [to_device(batch, self.device) for batch in self.anchors]
        self._codes = self._codes.to(self.device) if self._codes is not None else None
        if self._cache is not None:
            self._cache.to(self.device)
        self.recorder = Recorder(self.probe, self.anchors, self.ledger.sources, self.seed, self.device)
        if self.shadow is None:
            with preserved_rng():
                self.shadow = train_shadow(
                    self.probe,
                    self.anchors,
                    learning_rate=self.learning_rate,
                    names=self.scorer.shadow_parameters(self.probe),
                    epochs=self.shadow_epochs,
                    seed=self.seed,
                    progress=self.progress,
                )
            broadcast(self.shadow.parameters.values())
            self._check_shadow(self.shadow)
        self.scorer.prepare(self.probe, self.anchors, self.shadow)
        self.policy.reset()

    def begin_epoch(self, epoch: int) -> None:
        """Say that pass number ``epoch`` over the data begins, from 0; every rank must call it."""
        self.first_epoch = epoch == 0
        self._recall = epoch > 0 and self._cache is not None and self._cache.complete()

    def observe(self, inputs: Inputs) -> Inputs:
        """Score a batch, weigh it, and return the batch to train on.

        Args:
            inputs: model inputs; sample ids [n] may ride under ``"ggmi_sample"`` and are taken out.

        """
        if self.shadow is None:
            raise RuntimeError("call `prepare` before the first batch: gains need the shadow.")
        self.budget.begin_step()
        inputs = dict(inputs)
        ids = inputs.pop(SAMPLE_KEY, None)
        layout = self.probe.task.layout(inputs, None if ids is None else ids.numel())
        if ids is None:
            if self._known is not None and self._seen + layout.n > self._known:
                raise ValueError(
                    f"batches carry no sample ids, and after {self._seen} samples of {self._known} their order says no "
                    f"longer which they are: put ids under {SAMPLE_KEY!r} (`Numbered`, `CarryIds`)."
                )
            ids = torch.arange(self._seen, self._seen + layout.n, device=layout.target.device)
        self._seen += layout.n
        may_score = not self._look_waits and self.budget.allows("score")
        scored = not self._recall and (self._scored < _ALWAYS_SCORED or may_score)
        gain, noise = self._gain(inputs, layout, ids.flatten(), scored)
        weights = torch.ones_like(gain)
        if self.policy.acts:
            weights = self.policy(gain, gather_padded(gain, self.capacity), noise)
        source = self._source_of(ids)
        self.recorder.see(gain, source, weights)
        nll = self.ledger.write(self.step, ids.flatten(), source, gain, weights)
        kept, count = None, layout.target.sum()
        if self.policy.drops:
            left, found = self.probe.task.select(inputs, layout, weights)
            if len(found) >= self.probe.task.fewest(self.probe.model):  # else all of them run, weights and all
                inputs, kept = left, found
                layout = self.probe.task.layout(inputs, max(1, len(kept)))
                weights = torch.ones_like(weights[:1]).expand(layout.n)
        if self.first_epoch:
            self.recorder.count(layout)
        self._current = _Step(inputs, layout, kept, weights, nll, count, scored)
        return inputs

    @property
    def weights(self) -> Tensor | None:
        """Weights at each target of the current batch, [B, T'] or [B, 1]; None if every weight is one."""
        if self._current is None or not self.policy.acts or self.policy.drops:
            return None
        return self._current.layout.spread(self._current.weights)

    @property
    def emptied(self) -> bool:
        """Whether every sample of the current batch was dropped."""
        return self._current is not None and self._current.kept is not None and len(self._current.kept) == 0

    @property
    def count(self) -> Tensor | None:
        """Targets in the current batch before anything was dropped: N of the weighted loss."""
        return None if self._current is None else self._current.count

    def mean(self, losses: Tensor) -> Tensor:
        """Weighted mean of per-sample ``losses`` of the current batch, sum_i w_i loss_i / N, for a loop's own loss.

        Args:
            losses: of the samples that :meth:`observe` left, with gradient, nats, [n].

        """
        step = self._current
        if step is None:
            raise RuntimeError("call `observe` with the batch before `mean`.")
        if len(losses) != len(step.weights):
            raise ValueError(
                f"`losses` must have one entry for each of {len(step.weights)} samples, got {len(losses)}."
            )
        self.watch(-losses[:, None])
        taken = 0.0 if self.emptied else 1.0  # an emptied batch runs one sample for form's sake
        return taken * (losses * step.weights).sum() / step.count

    @property
    def wants_log_probs(self) -> bool:
        """Whether :meth:`watch` should be called even if the log-probabilities have to be computed for it."""
        return self._current is not None and (self._current.scored or self._recall)

    def watch(self, log_probs: Tensor) -> None:
        """Take note of the training forward's per-target log-probabilities [B, T'], before the update."""
        step = self._current
        if step is None or self.emptied:
            return
        nll = -step.layout.total(log_probs.detach())
        column = nll.double().nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=float("inf"))
        if step.kept is None:
            step.nll.copy_(column)
        else:
            step.nll.index_copy_(0, step.kept, column)
        visit = Visit(step.inputs, step.layout, nll)
        self.recorder.trained(visit, self.first_epoch)

    def end_step(self) -> None:
        """Close an optimiser step."""
        self.step += 1
        self._current = None
        self.budget.end_step()

    def log(self) -> dict[str, float]:
        """Numbers since the last call, ``ggmi/...``, nats; every rank must call it.

        Raises:
            ValueError: if a trained sample's code length was not finite, with its id.

        """
        self.budget.settle()
        self._flush()
        self._look_waits = not self.budget.allows("probe")
        recent = self._looked_at is not None and self.step - self._looked_at < _LOOK_EVERY
        if not (self._look_waits or (self.overhead is None and recent)):
            self._looked_at = self.step
            with self.budget.spend("probe"):
                self.recorder.look_back()
        with self.budget.spend("window"):
            numbers = self.recorder.window()
        return {**numbers, "ggmi/overhead": self.budget.share}

    def finish(self) -> dict[str, float]:
        """Numbers of the whole run, with GGMI and its two terms; call it once, after the last step."""
        assert self.shadow is not None
        self.recorder.look_back(whole=True)
        return self.recorder.ggmi(self.shadow)

    def results(self) -> dict[str, Any]:
        """Everything known: the last logged numbers, names of estimators, the shadow's cost."""
        shadow = self.shadow
        out: dict[str, Any] = {
            **self.recorder.latest,
            "ggmi/overhead": self.budget.share,
            "scorer": type(self.scorer).__name__,
            "policy": repr(self.policy),
        }
        if shadow is not None:
            out["shadow"] = {
                "seconds": shadow.seconds,
                "epochs": shadow.epochs,
                "learning_rate": shadow.learning_rate,
                "heldout_nll": shadow.heldout_nll,
                "trained": f"{len(shadow.parameters)} of {len(self.probe.trainable)} tensors",
            }
        return {**out, "estimators": self.recorder.estimators}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a bit-equal resumption needs; every rank must call it."""
        self._flush()
        return {
            "anchors": self._anchors_digest(),
            "step": self.step,
            "looked_at": self._looked_at,
            "seen": (self._seen, self._scored),
            "shadow": None if self.shadow is None else self.shadow.state_dict(),
            "scorer": self.scorer.state_dict(),
            "policy": self.policy.state_dict(),
            "ledger": self.ledger.state_dict(),
            "recorder": self.recorder.state_dict(),
            "cache": None if self._cache is None else (self._cache.values.clone(), self._cache.known.clone()),
        }

    def load_state_dict(self, state: dict[str, Any], step: int | None = None) -> None:
        """Take back :meth:`state_dict`; call it before :meth:`prepare`. ``step``: at which the run goes on."""
        if step is not None and state["step"] != step:
            raise ValueError(f"the state was written at another step ({state['step']}), the run goes on at {step}.")
        if state["anchors"] != self._anchors_digest():
            raise ValueError("the state was written by a run with other anchors.")
        state = tree_map_only(Tensor, lambda tensor: tensor.to(self.device), state)
        self.step, (self._seen, self._scored) = state["step"], state["seen"]
        self._looked_at = state["looked_at"]
        self.shadow = Shadow(**state["shadow"]) if state["shadow"] else None
        self.ledger.load_state_dict(state["ledger"])
        self.prepare()
        self.scorer.load_state_dict(state["scorer"])
        self.policy.load_state_dict(state["policy"])
        self.recorder.load_state_dict(state["recorder"])
        if self._cache is not None and state["cache"] is not None:
            self._cache.values, self._cache.known = (values.clone() for values in state["cache"])

    def _anchors_digest(self) -> float:
        leaves = [leaf for batch in self.anchors for leaf in tree_leaves(dict(batch)) if isinstance(leaf, Tensor)]
        return float(sum(leaf.double().square().sum() for leaf in leaves))

    def _check_shadow(self, shadow: Shadow) -> None:
        if shadow.improved:
            return
        problem = (
            f"the shadow run on the anchors did not shorten the held-out ones ({shadow.heldout_nll[0]:.2f} nats "
            f"before, at best {min(shadow.heldout_nll[1:]):.2f} after, learning rates {self.learning_rate:.1e} to "
            f"{shadow.learning_rate:.1e}): they hold nothing that the model does not know, or are too few"
        )
        if self.policy.acts and isinstance(self.scorer, LikelihoodScorer):
            raise ValueError(
                f"{problem}, so {type(self.policy).__name__} has no gain to act on. Give more anchors, another "
                "`shadow_learning_rate` or more `shadow_epochs`, or score with `GradientScorer`."
            )
        warnings.warn(f"{problem}; gains against the shadow are zero.", stacklevel=2)

    def _flush(self) -> None:
        if bad := self.ledger.flush():
            raise ValueError(
                f"the loss of samples {bad[:20]} is not finite (ids in the training set, {len(bad)} in all, by step "
                f"{self.step}). Look at these samples, or lower the learning rate."
            )

    def _gain(self, inputs: Inputs, layout: Layout, ids: Tensor, scored: bool) -> tuple[Tensor, Tensor]:
        """Gains and their noise [n]: remembered, found now, or NaN if the budget does not allow."""
        if self._recall and self._cache is not None:
            return self._cache.get(ids)
        if not scored:
            unknown = torch.full((layout.n,), float("nan"), device=layout.target.device)
            return unknown, unknown
        self._scored += layout.n
        with self.budget.spend("score"):
            gain, noise = self._score(inputs, layout)
            self.recorder.remember_prompts(inputs, layout)
            if self._cache is not None:
                self._cache.put(ids, gain, noise)
        return gain, noise

    def _score(self, inputs: Inputs, layout: Layout) -> tuple[Tensor, Tensor]:
        if self._refreshed_at != self.step:
            self.scorer.refresh(self.step, self.optimizer)
            self._refreshed_at = self.step
        gain, noise = (values.float() for values in self.scorer.score(inputs, layout))
        # A sample without targets has no gain, and infinite ones would poison every running statistic.
        known = (layout.tokens > 0) & gain.isfinite() & noise.isfinite()
        return gain.masked_fill(~known, float("nan")), noise.masked_fill(~known, float("nan"))

    def _source_of(self, ids: Tensor) -> Tensor:
        if self._codes is None:
            return torch.full_like(ids.flatten(), len(self.ledger.sources))
        return self._codes[ids.flatten()]
