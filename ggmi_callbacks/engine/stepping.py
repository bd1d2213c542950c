"""A training step as an engine takes part in it: from the batch as it comes to the log-probabilities of its forward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ggmi_callbacks.engine.budget import Budget
from ggmi_callbacks.engine.intake import Candidates, Intake, Origin
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.engine.ledger_rows import Rows
from ggmi_callbacks.engine.tally import Tally
from ggmi_callbacks.engine.visits import Visits
from ggmi_callbacks.model import Probe
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.tasks import Inputs, Layout


@dataclass
class Step:
    """The micro-batch between :meth:`SampleEngine.observe` and the next."""

    inputs: Inputs  # as trained on
    layout: Layout  # of ``inputs``
    kept: Tensor | None  # indices of the samples in ``inputs`` among those observed; None for all
    source: Tensor  # [n] of the samples in ``inputs``, codes
    identity: Tensor  # [n], by what a sample is known when it comes again
    weights: Tensor  # [n]
    first: Tensor  # [n], whether they are trained on for the first time
    rows: Rows  # of all samples observed
    targets: Tensor  # their number before anything was dropped
    met_before: int  # samples that this rank had met before them
    origin: Origin


class Stepping:
    """What an engine does in a step; :class:`~ggmi_callbacks.SampleEngine` begins and ends runs."""

    probe: Probe
    policy: Policy
    budget: Budget
    intake: Intake
    ledger: Ledger
    recorder: Tally
    visits: Visits
    optimizer: torch.optim.Optimizer | None
    progress: bool
    step = 0
    _current: Step | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.probe.model.parameters()).device

    @property
    def prepared(self) -> bool:
        """Whether :meth:`prepare` has been called, so that a run can begin."""
        return hasattr(self, "recorder")

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
        source, identity = (x if kept is None else x[kept] for x in (batch.source, batch.identity))
        self._current = Step(
            inputs, layout, kept, source, identity, weights, first, rows, targets, batch.met_before, batch.origin
        )
        if kept is None or len(kept):
            self._meet(self._current)
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
        """Whether log-probabilities of this step are worth reading off its forward; losses by source need all."""
        return self._current is not None and (self._current.origin != "skipped" or bool(self.recorder.sources))

    @property
    def wants_forward(self) -> bool:
        """Whether they are worth a forward of their own, where the trainer's tells nothing of samples."""
        return self._current is not None and self._current.origin != "skipped"

    def record_log_probs(self, log_probs: Tensor) -> None:
        """Take note of the training forward's per-target log-probabilities [B, T'], before the update."""
        step = self._current
        if step is None or self.is_empty:
            return
        nll = -step.layout.total(log_probs.detach())
        step.rows.complete(nll, step.kept)
        finite = nll.isfinite()
        self.recorder.add_lengths(step.source, nll.where(finite, 0.0), step.layout.tokens * finite)
        self._keep(step, nll.masked_fill(~(step.first & finite), float("nan")))

    def end_step(self) -> None:
        """Close an optimiser step."""
        self.step += 1
        self._current = None
        self.budget.end_step()

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

    def _meet(self, step: Step) -> None:
        """Take note of the samples that are trained on now, before they are."""

    def _keep(self, step: Step, first_nll: Tensor) -> None:
        """Take note of code lengths [n] of samples that are trained on for the first time, NaN of all others."""

    def _require_prepared(self, name: str) -> None:
        if not self.prepared:
            raise RuntimeError(f"call `prepare` before `{name}`: numbers need a run.")
