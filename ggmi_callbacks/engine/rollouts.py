"""RolloutEngine: what answers that a policy model has just sampled tell, group by group, before it learns from them.

A group is the answers to one prompt; its rewards are compared within it, so a group whose rewards are all equal says
nothing. Answers of a group are siblings, and share what the model knows. With anchors each answer has a gain.

    Monitor     weights are one
    Filter      a group is dropped, whole, if its rewards have no spread, or if the policy drops the group's mean gain
    Reweight    each answer weighs what the policy says of its gain
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ggmi_callbacks.engine.budget import Budget
from ggmi_callbacks.engine.checkpoint import check_stamp, stamp
from ggmi_callbacks.engine.engine import GainEngine
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.engine.rollout_numbers import centred, numbers, spread
from ggmi_callbacks.functional.agreement import agreement
from ggmi_callbacks.functional.shared_information import sibling_information
from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.policies import Policy
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import Inputs, Task


class RolloutEngine:
    """Scores and weighs groups of sampled answers, and keeps the account of a run.

    Args:
        model: the module that is trained, free of data-parallel and compile wrappers.
        policy: what is done with gains, and with groups without signal.
        task: how an answer is scored.
        gains: an engine with anchors, of the same model and policy; None for no gains.
        batch_size: answers that are scored at once.

    Raises:
        ValueError: if ``policy`` tells samples apart by what answers do not have, or weighs gains and there are none.

    Example:
        Two groups of two answers; the first has equal rewards.

        >>> import torch
        >>> from ggmi_callbacks import Filter, SampleLoss
        >>> task = SampleLoss(lambda model, batch: batch.square())
        >>> engine = RolloutEngine(torch.nn.Linear(1, 1), Filter(), task)
        >>> engine.prepare()
        >>> engine.judge({}, torch.tensor([1.0, 1.0, 1.0, 0.0]), 2, [[5, 6], [5, 6], [7], [8]])
        tensor([0., 0., 1., 1.])
        >>> engine.log()["ggmi/groups_without_signal"]
        0.5

    """

    _run: dict[str, float]  # sums since the run began
    _window: dict[str, float]  # sums since the last log
    _answers: list[Sequence[int]]  # since their shared information was last added
    _groups: list[int]

    def __init__(
        self, model: nn.Module, policy: Policy, task: Task, gains: GainEngine | None = None, batch_size: int = 8
    ) -> None:
        check_rollout_policy(policy, gains is not None)
        self.policy, self.gains, self.batch_size = policy, gains, batch_size
        self.probe = Probe(model, task) if gains is None else gains.probe
        self.scorer: Scorer | None = None if gains is None else gains.scorer
        self.optimizer: torch.optim.Optimizer | None = None
        """The run's optimiser, for scorers that are aware of it."""
        self.ledger = Ledger() if gains is None else gains.ledger
        """One row an answer, numbered as sampled; ``nll`` is not measured."""
        self.budget = Budget(None, self.device)
        self.step, self._count, self._prepared = 0, 0, False
        self._forget()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.probe.model.parameters()).device

    @property
    def prepared(self) -> bool:
        """Whether a run has begun."""
        return self._prepared

    def prepare(self) -> None:
        """Begin a run: train the shadow, if there are anchors."""
        self.ledger.begin()
        self._build()

    def judge(self, inputs: Inputs, rewards: Tensor, size: int, answers: Sequence[Sequence[int]]) -> Tensor:
        """Weights [n] of the answers of one generation, in groups of ``size`` neighbours.

        Args:
            inputs: model inputs of all answers, [n, T] each, labels set on the answers alone; not read without anchors.
            rewards: [n], or [n, k] where a spread in any of k rewards is a signal; NaN where there is none.
            size: answers in a group.
            answers: token ids of each answer.

        """
        groups = rewards.shape[0] // size
        number = torch.arange(groups, device=rewards.device).repeat_interleave(size)
        gain, noise = self._score(inputs, rewards)
        signal = spread(rewards.reshape(groups, size, -1))
        weights = torch.ones_like(gain)
        taught = torch.ones_like(signal)
        if self.policy.drops:
            if self.gains is not None:
                mean, error = gain.view(groups, size).nanmean(1), noise.view(groups, size).square().nanmean(1)
                taught = self.policy(mean, noise=(error / size).sqrt()) > 0
            weights = (signal & taught).to(gain)[number]
        elif self.policy.acts:
            weights = self.policy(gain, noise=noise)
        ids = torch.arange(self._count, self._count + len(gain), device=gain.device)
        self.ledger.write(self.step, ids, torch.zeros_like(ids), gain, weights)
        self._note(gain, rewards, weights, signal, taught, size)
        self._remember(answers, number + self._count)
        self._count += len(gain)
        return weights

    def spent(self, seconds: float, trained: int, dropped: int) -> None:
        """Take note of a forward and backward of ``trained`` positions, and of ``dropped`` ones that were left out."""
        self._add({"seconds": seconds, "trained": trained, "left out": dropped})

    def begin_epoch(self, epoch: int) -> None:
        """Nothing: every answer is new."""

    def end_step(self) -> None:
        """Close an optimiser step."""
        self.step += 1

    def log(self) -> dict[str, float]:
        """Numbers since the last call, ``ggmi/...``."""
        self._require_prepared("log")
        self.ledger.flush()
        self._share()
        window = self._window
        self._window = defaultdict(float)
        return numbers(window, self.policy.drops)

    def finish(self) -> dict[str, float]:
        """Numbers that are known at the end alone: there are none."""
        return {}

    def run_numbers(self) -> dict[str, float]:
        """Numbers of the run so far."""
        self._require_prepared("results")
        return numbers(self._run, self.policy.drops)

    def results(self) -> dict[str, Any]:
        """Numbers of the run so far, and what was used."""
        self._share()
        named: dict[str, Any] = {}
        if self.gains is not None and self.gains.shadow is not None:
            named = {
                "scorer": str(self.scorer),
                "gain_unit": self.gains.scorer.unit,
                "shadow": self.gains.shadow.summary(),
            }
        return {**self.run_numbers(), **named, "policy": repr(self.policy), "rollouts": self._count}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        self._require_prepared("state_dict")
        self.ledger.flush()
        self._share()
        parts: dict[str, Any] = {"policy": self.policy.state_dict(), "ledger": self.ledger.state_dict()}
        if self.gains is not None and self.gains.shadow is not None:
            parts |= {"scorer": self.gains.scorer.state_dict(), "shadow": self.gains.shadow.state_dict()}
        sums = {"run": dict(self._run), "window": dict(self._window), "count": self._count}
        return {**stamp(self.step, *self._stamp), **parts, **sums}

    def load_state_dict(self, state: dict[str, Any], step: int | None = None) -> None:
        """Take back :meth:`state_dict` in place of :meth:`prepare`.

        Raises:
            ValueError: if ``state`` is of another step, or of other anchors, policy or scorer.

        """
        check_stamp(state, stamp(self.step, *self._stamp), step)
        state = tree_map_only(Tensor, lambda tensor: tensor.to(self.device), state)
        self.ledger.load_state_dict(state["ledger"])
        if self.gains is not None:
            self.gains.shadow = Shadow(**state["shadow"])
        self._build()
        self.policy.load_state_dict(state["policy"])
        if self.gains is not None:
            self.gains.scorer.load_state_dict(state["scorer"])
        self._run.update(state["run"])
        self._window.update(state["window"])
        self._count, self.step = state["count"], state["step"]

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _stamp(self) -> tuple[str, str, str]:
        digest = "none" if self.gains is None else self.gains._digests[0]
        return digest, "none", "none" if self.scorer is None else type(self.scorer).__name__

    def _build(self) -> None:
        if self.gains is not None:
            self.gains.optimizer = self.optimizer
            self.gains.prepare_scorer()
        self.policy.reset()
        self._forget()
        self._prepared = True

    def _forget(self) -> None:
        self._run, self._window = defaultdict(float), defaultdict(float)
        self._answers, self._groups = [], []

    def _require_prepared(self, name: str) -> None:
        if not self._prepared:
            raise RuntimeError(f"call `prepare` before `{name}`: numbers need a run.")

    def _score(self, inputs: Inputs, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Gain of each answer and its standard error, [n]; NaN without anchors."""
        if self.gains is None:
            unknown = torch.full((rewards.shape[0],), float("nan"), device=rewards.device)
            return unknown, unknown
        scorer, task = self.gains.scorer, self.probe.task
        scorer.refresh(self.step, self.optimizer)
        found = []
        for start in range(0, rewards.shape[0], self.batch_size):
            part = {name: value[start : start + self.batch_size] for name, value in inputs.items()}
            layout = task.layout(part)
            score = scorer.score(part, layout).stacked()[:2].float()
            if self.policy.per_token and scorer.additive and scorer.normalize is None:
                score = score / layout.tokens.clamp_min(1)
            known = (layout.tokens > 0) & score.isfinite().all(0)
            found.append(score.masked_fill(~known, float("nan")))
        gain, noise = torch.cat(found, dim=1)
        return gain, noise

    def _note(self, gain: Tensor, rewards: Tensor, weights: Tensor, signal: Tensor, taught: Tensor, size: int) -> None:
        """Add a generation to the sums."""
        reward = rewards if rewards.dim() == 1 else rewards.sum(1)
        known = gain.isfinite() & reward.isfinite()
        x, y = (centred(value.double().where(known, float("nan")), size) for value in (reward, gain))
        sums = {
            "kept": (weights > 0).sum(),
            "flat": (~signal).sum(),
            "negative": (signal & ~taught).sum(),
            "known": gain.isfinite().sum(),
            "gain": gain.double().nansum(),
            "xy": (x * y).sum(),
            "xx": x.square().sum(),
            "yy": y.square().sum(),
        }
        on_host = torch.stack([value.double() for value in sums.values()]).tolist()  # one wait a generation
        self._add({"answers": len(gain), "groups": len(signal), **dict(zip(sums, on_host, strict=True))})

    def _remember(self, answers: Sequence[Sequence[int]], number: Tensor) -> None:
        self._answers += answers
        self._groups += number.tolist()

    def _share(self) -> None:
        """Add what the answers since the last time share."""
        if len(set(self._groups)) > 1:
            with torch.no_grad():
                told = sibling_information(self._answers, self._groups)
                same = agreement(self._answers, self._groups)
            known = ~told.isnan()
            self._add({"siblings": known.sum(), "shared": told[known].sum(), "agreement": same[known].sum()})
            self._answers, self._groups = [], []

    def _add(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            self._run[name] += float(value)
            self._window[name] += float(value)


def check_rollout_policy(policy: Policy, anchored: bool) -> None:
    """Raise ValueError where ``policy`` wants of rollouts what they do not have; ``anchored`` ones have gains."""
    if policy.needs or policy.needs_all:
        raise ValueError(
            f"{policy!r} tells samples of a training set apart, and rollouts are made as training goes. Groups of one "
            "prompt are told apart anyway: leave the strata out."
        )
    alone = policy.drops and getattr(policy, "keep", None) is None
    if policy.acts and not anchored and not alone:
        raise ValueError(
            f"`anchors` are missing: {policy!r} acts on gains, and without anchors rollouts have none. Give "
            "`anchors`, or use `Filter()`, which without them drops the groups whose rewards are all equal."
        )
