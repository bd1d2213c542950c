"""The callbacks for ``GRPOTrainer`` and ``RLOOTrainer``: groups of answers, judged before the model learns from them.

generate        the trainer samples and rewards answers; the engine scores them and says what each one weighs
  _prepare_inputs   shuffles and splits them into micro-batches; weights ride along
_compute_loss   answers that are out leave the batch before the forward, others have their advantage scaled
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

import datasets
import torch
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, Trainer
from trl import GRPOTrainer, RLOOTrainer

from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.engine.rollouts import RolloutEngine, check_rollout_policy
from ggmi_callbacks.integrations import _compat
from ggmi_callbacks.integrations._anchors import anchor_batches, columns_of
from ggmi_callbacks.integrations._datasets import Samples
from ggmi_callbacks.integrations._install import Installation
from ggmi_callbacks.integrations._sft import FusedCausalLM
from ggmi_callbacks.integrations._trl import GGMICallback
from ggmi_callbacks.tasks import IGNORE, Inputs, Task

WEIGHT = "ggmi_weight"
"""Key under which an answer's weight rides along with its tokens."""

Share = Callable[[Tensor, Tensor], Tensor]
"""What a loss over the answers that are left is multiplied by; of their completion masks before and after, [n, T]."""


def _rows(before: Tensor, after: Tensor) -> Tensor:
    return torch.tensor(len(after) / len(before), device=before.device)


def _tokens(before: Tensor, after: Tensor) -> Tensor:
    return after.sum().clamp(min=1) / before.sum().clamp(min=1)


def _whole(before: Tensor, after: Tensor) -> Tensor:
    return torch.ones((), device=before.device)


SHARES: dict[str, Share] = {
    "grpo": _rows,
    "sapo": _rows,
    "luspo": _rows,
    "dr_grpo": _rows,
    "bnpo": _tokens,
    "dapo": _whole,
    "cispo": _whole,
    "vespo": _whole,
}
"""Kinds of GRPO's loss, by what they divide by: answers or tokens of the micro-batch, or tokens of the generation.

In all of them the policy's part is a sum of terms of single answers, each homogeneous in a positive factor of the
advantage, so that scaling the advantage weighs the term.
"""


class RolloutLoss:
    """Stands between a trainer and its rollouts for the length of a run.

    Args:
        trainer: whose generation and loss are replaced.
        engine: prepared.
        stock: the trainer's class.

    """

    def __init__(self, trainer: Any, engine: RolloutEngine, stock: type) -> None:
        self.trainer, self.engine = trainer, engine
        self._share = SHARES[trainer.loss_type] if stock is GRPOTrainer else _rows
        self._rewards: Tensor | None = None
        self._begun: tuple[float, int, int] | None = None

    def install(self, installation: Installation) -> None:
        """Replace the trainer's methods until ``installation`` closes."""
        generate, reward, loss = _compat.ROLLOUTS
        self._trainer_generate = installation.replace(self.trainer, generate, self._generate)
        self._trainer_reward = installation.replace(self.trainer, reward, self._reward)
        self._trainer_loss = installation.replace(self.trainer, loss, self._loss)

    def check(self) -> None:
        """Take note of the time that a micro-batch has taken, forward and backward."""
        if self._begun is not None:
            start, trained, dropped = self._begun
            self.engine.spent(time.perf_counter() - start, trained, dropped)
            self._begun = None

    def _reward(self, *args: Any, **kwargs: Any) -> Tensor:
        self._rewards = self._trainer_reward(*args, **kwargs)
        return self._rewards

    def _generate(self, inputs: Any) -> dict[str, Any]:
        output = self._trainer_generate(inputs)
        if not self.trainer.model.training:
            return output
        rewards = _compat.signals(self.trainer, self._rewards)
        mask = output["completion_mask"].bool()
        answers = [ids[keep].tolist() for ids, keep in zip(output["completion_ids"].cpu(), mask.cpu(), strict=True)]
        weight = self.engine.judge(_model_inputs(output), rewards, self.trainer.num_generations, answers)
        return {**output, WEIGHT: weight}

    def _loss(self, model: Any, inputs: Mapping[str, Any]) -> Tensor:
        weight = inputs.get(WEIGHT)
        if weight is None:
            return self._trainer_loss(model, inputs)
        inputs = {name: value for name, value in inputs.items() if name != WEIGHT}
        policy, length = self.engine.policy, inputs["prompt_ids"].shape[1] + inputs["completion_ids"].shape[1]
        left = weight.nonzero()[:, 0] if policy.drops else None
        kept = len(weight) if left is None else max(1, len(left))
        self._begun = time.perf_counter(), kept * length, (len(weight) - kept) * length
        if left is not None and len(left) < len(weight):
            return self._loss_of(model, inputs, left)
        if policy.acts and not policy.drops:
            advantages = inputs["advantages"]
            inputs["advantages"] = advantages * weight.view(-1, *[1] * (advantages.dim() - 1)).to(advantages)
        return self._trainer_loss(model, inputs)

    def _loss_of(self, model: Any, inputs: dict[str, Any], left: Tensor) -> Tensor:
        """The loss of the answers ``left`` as they would have entered the loss of all."""
        size, empty = len(inputs["advantages"]), len(left) == 0
        rows = left.new_zeros(1) if empty else left  # an emptied batch runs one answer for form's sake
        part = {
            name: value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == size else value
            for name, value in inputs.items()
        }
        share = self._share(inputs["completion_mask"], part["completion_mask"])
        return self._trainer_loss(model, part) * (0.0 if empty else share)


def _model_inputs(output: Mapping[str, Tensor]) -> Inputs:
    """Prompts and answers as a causal language model takes them, targets the answers' tokens."""
    prompt, completion = output["prompt_mask"], output["completion_mask"]
    targets = output["completion_ids"].masked_fill(completion == 0, IGNORE)
    return {
        "input_ids": torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
        "attention_mask": torch.cat([prompt, completion], dim=1),
        "labels": torch.cat([torch.full_like(prompt, IGNORE), targets], dim=1),
    }


class _RolloutCallback(GGMICallback):
    """What both trainers share."""

    _loss_class: Any = RolloutLoss

    def report(self, path: str | PathLike[str], *, texts: Any = None, title: str | None = None) -> Any:
        """Refused: the page is of a training set, and rollouts are none."""
        raise NotImplementedError(
            "there is no report page of rollouts: read `results()`, `ledger`, and `ggmi/...` in the trainer's log."
        )

    def _repr_html_(self) -> str:
        return f"<p>{type(self).__name__}: see <code>results()</code> and <code>ledger</code>.</p>"

    # -- what is read and refused ------------------------------------------------------------------------------------

    def _task(self) -> Task:
        return FusedCausalLM()

    def _refuse(self, trainer: Any) -> None:
        super()._refuse(trainer)
        name = type(trainer).__name__
        if trainer.args.world_size > 1:
            raise ValueError(
                f"GGMICallback on {name} runs in one process: on {trainer.args.world_size} a group may be spread over "
                "several."
            )
        if (what := _compat.beyond_text(trainer)) is not None:
            raise ValueError(f"{what} of {name} are not supported by GGMICallback: it takes rollouts of text alone.")
        if isinstance(trainer, GRPOTrainer) and self.policy.acts and trainer.loss_type not in SHARES:
            raise ValueError(
                f"`loss_type={trainer.loss_type!r}` with {self.policy!r}: how it divides is not known. Use one of "
                f"{', '.join(SHARES)}."
            )
        if self.policy.drops and (what := _compat.shared_term(trainer)) is not None:
            raise ValueError(
                f"{what} with {self.policy!r}: that term is taken over all answers of a batch, also over those that "
                "are dropped. Leave it out, or use `Reweight()` or `Monitor()`."
            )

    def _refuse_liger(self, trainer: Any) -> None:
        if trainer.args.use_liger_kernel:
            raise ValueError(
                f"`use_liger_kernel=True` of {type(trainer).__name__} is not supported by GGMICallback: leave it out."
            )

    def _check_lone(self, source: str | None, scorer: Any, heldout: Any) -> None:
        """Without anchors there are shared information and groups without signal; the engine checks the policy."""

    def _read_anchors(self, anchors: Any, heldout: Any) -> None:
        if heldout is not None:
            raise ValueError(
                "`heldout` is a share of a training set, and rollouts are made as training goes: leave it out."
            )
        super()._read_anchors(anchors, None)

    def _read_samples(self, source: str | None) -> Samples:
        if source is not None:
            raise ValueError(
                f"`source={source!r}`: all rollouts come from one source, the model that trains. Leave it out."
            )
        data = self.trainer.train_dataset
        return Samples(data, data, None)

    def _prepare_anchors(self, anchors: Any) -> Any:
        """Prompts as the trainer tokenises its own, each followed by its answer."""
        if not {"prompt", "completion"} <= set(columns_of(anchors)):
            raise ValueError(
                f"`anchors` must have the columns 'prompt' and 'completion', they have {columns_of(anchors)}: real "
                "answers to prompts like those of `train_dataset`."
            )
        prepared = []
        for i in range(len(anchors)):
            prompt, answer = _compat.prompt_and_completion(self.trainer, anchors[i])
            answer = answer[: self.trainer.max_completion_length]
            labels = [IGNORE] * len(prompt) + answer
            prepared.append({"input_ids": prompt + answer, "attention_mask": [1] * len(labels), "labels": labels})
        return datasets.Dataset.from_list(prepared)

    # -- between the trainer and the engine --------------------------------------------------------------------------

    def _get_train_dataloader(self) -> Any:
        return self._get_dataloader()

    def _make_engine(self) -> Any:
        trainer, args = self.trainer, self.trainer.args
        if self._unpacked is not None or self._unpacked_eval is not None:
            raise ValueError("`train_dataset` and `eval_dataset` are for packed sets, and rollouts are not packed.")
        if self._options["overhead"] is not None:
            raise ValueError("`overhead` is not supported on rollouts: every one is scored, or without anchors none.")
        check_rollout_policy(self.policy, self._anchors is not None)
        scorer, rows = self._options["scorer"], args.per_device_train_batch_size
        if scorer is not None and (self._anchors is None or not scorer.needs_anchors or scorer.needs_ids):
            raise ValueError(
                f"`scorer={scorer}` on rollouts: they are scored against `anchors`, and have no rows of a training set "
                "that a scorer could read. Give anchors and LikelihoodScorer() or GradientScorer(), or neither."
            )
        gains = None
        if self._anchors is not None:
            collator = DataCollatorForSeq2Seq(trainer.processing_class, padding=True)
            gains = GainEngine(
                trainer.model,
                anchor_batches(self._anchors, self._given, rows, collator, trainer.model),
                policy=self.policy,
                scorer=scorer,
                task=self._task(),
                learning_rate=args.learning_rate if self._rate is None else self._rate,
                shadow_epochs=self._shadow_epochs,
                seed=args.seed,
                progress=not args.disable_tqdm,
                ledger=self._options["ledger"],
            )
        elif self._options["ledger"] is not None:
            raise ValueError(
                "`ledger` without `anchors`: rollouts have no gains to write. Give anchors, or leave it out."
            )
        return RolloutEngine(trainer.model, self.policy, self._task(), gains, rows)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take note of the time that a micro-batch has taken."""
        self._loss.check()


class GRPOCallback(_RolloutCallback):
    """Monitors, filters or reweights the rollouts of a ``GRPOTrainer``, group by group."""

    trainer_class: type[Trainer] = GRPOTrainer


class RLOOCallback(_RolloutCallback):
    """Monitors, filters or reweights the rollouts of an ``RLOOTrainer``, group by group."""

    trainer_class: type[Trainer] = RLOOTrainer
