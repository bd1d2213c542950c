"""GGMI for a plain ``transformers.Trainer`` on a causal language model.

    trainer = Trainer(model, args, train_dataset=synthetic, data_collator=collator)
    trainer.add_callback(GGMICallback(trainer, anchors=human, policy=Filter()))
    trainer.train()

The callback translates and no more. Into the trainer: sample ids ride through the collator, ``compute_loss`` gets the
batch that the engine leaves, and the model's loss the engine's weights. Out of it: log-probabilities from the
training forward, steps, logs, checkpoints.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

try:
    import datasets
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError as error:  # pragma: no cover - exercised in a bare environment
    raise ImportError(
        "`ggmi_callbacks.integrations.transformers` needs Hugging Face transformers and datasets: "
        "pip install 'ggmi-callbacks[transformers]'"
    ) from error

from ggmi_callbacks.data import CarryIds
from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.integrations._datasets import anchor_batches, check_size, number, read_sources
from ggmi_callbacks.policies import Monitor, Policy
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import SAMPLE_KEY, CausalLM, Inputs, Task
from ggmi_callbacks.weighting.loss import fit_columns, scale_gradient, weigh_loss


class GGMICallback(TrainerCallback):
    """Monitors, filters or reweights the training samples of a ``Trainer`` by their gain.

    Args:
        trainer: the trainer, already built: the callback reaches its data, its loss and its log.
        anchors: real examples of the task, in the form of the training set.
        policy: what to do with a sample's gain; :class:`~ggmi_callbacks.Monitor` by default.
        scorer: how gain is estimated; :class:`~ggmi_callbacks.LikelihoodScorer` by default.
        source: column of the training set that says where a sample came from.
        overhead: share of step time that scoring may take, see :class:`~ggmi_callbacks.GainEngine`.
        shadow_learning_rate: of the shadow run on the anchors; the trainer's own by default.
        shadow_epochs: at most so many passes of the shadow over the anchors.

    Raises:
        TypeError: if ``trainer`` is not a built trainer, with the lines that work.
        ValueError: naming the argument, for empty or one-sample anchors, anchors without targets, a missing source
            column, models that are no causal language model, and setups in which weights cannot be exact.

    """

    trainer_class: type[Trainer] = Trainer

    def __init__(
        self,
        trainer: Any = None,
        anchors: Any = None,
        *,
        policy: Policy | None = None,
        scorer: Scorer | None = None,
        source: str | None = None,
        overhead: float | None = None,
        shadow_learning_rate: float | None = None,
        shadow_epochs: int = 3,
    ) -> None:
        self._check_trainer(trainer)
        check_size(anchors)
        self.trainer: Any = trainer
        self.policy = policy or Monitor()
        self._refuse(trainer)
        collate = trainer.data_collator
        self._settings: dict[str, Any] = {
            "anchors": anchor_batches(
                self._prepare_anchors(anchors),
                len(anchors),
                trainer.args.per_device_train_batch_size,
                self._anchor_collator(),
                trainer.model,
            ),
            "policy": self.policy,
            "scorer": scorer,
            "task": self._task(),
            "sources": None if source is None else read_sources(self._raw_dataset(), source),
            "overhead": overhead,
            "learning_rate": shadow_learning_rate or trainer.args.learning_rate,
            "shadow_epochs": shadow_epochs,
            "num_samples": self._num_samples(),
            "capacity": self._capacity(),
            "seed": trainer.args.seed,
            "progress": not trainer.args.disable_tqdm and trainer.is_world_process_zero(),
        }
        self.engine = GainEngine(trainer.model, **self._settings)
        self._prepared = False
        self._restore_loss: Callable[[], None] = _nothing
        trainer.train_dataset = self._with_ids(trainer.train_dataset)
        trainer._set_signature_columns_if_needed()
        trainer._signature_columns = [*trainer._signature_columns, SAMPLE_KEY]
        trainer.data_collator = CarryIds(collate)
        trainer.compute_loss = self._wrap_compute_loss(trainer.compute_loss)
        trainer.log = self._wrap_log(trainer.log)

    @property
    def ledger(self) -> Ledger:
        """Table of step, id, source, gain, weight, kept and nll; see :class:`~ggmi_callbacks.Ledger`."""
        return self.engine.ledger

    def results(self) -> dict[str, Any]:
        """Return the last logged numbers, the estimators behind them and the shadow's cost."""
        return self.engine.results()

    # -- what a subclass for another trainer overrides ---------------------------------------------------------------

    def _task(self) -> Task:
        return CausalLM()

    def _prepare_anchors(self, anchors: Any) -> Any:
        """``anchors`` as the trainer's own preprocessing would have them."""
        if isinstance(anchors, datasets.Dataset):
            if "input_ids" not in anchors.column_names:
                raise ValueError(
                    "`anchors` must be tokenised as `train_dataset` is (`transformers.Trainer` does no preprocessing); "
                    f"column 'input_ids' is missing, it has {anchors.column_names}."
                )
            return self.trainer._remove_unused_columns(anchors, description="anchors")
        return anchors

    def _anchor_collator(self) -> Callable[[list[Any]], Inputs]:
        return self.trainer.data_collator

    def _refuse(self, trainer: Any) -> None:
        """Raise at the start where samples could not be scored or weighted exactly."""
        acts = type(self.policy).__name__
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise ValueError("FSDP and DeepSpeed shard the model, which the probe reads whole: use DDP.")
        if trainer.args.n_gpu > 1:
            raise ValueError("`nn.DataParallel` is not supported: launch with `accelerate launch` or `torchrun`.")
        if self.policy.acts and trainer.compute_loss_func is not None:
            raise ValueError(f"`compute_loss_func` with {acts}: a loss of your own may not be a sum over tokens.")
        self._refuse_liger(trainer)

    def _refuse_liger(self, trainer: Any) -> None:
        config = trainer.args.liger_kernel_config or {}
        if trainer.args.use_liger_kernel and config.get("fused_linear_cross_entropy", True):
            raise ValueError(
                "`use_liger_kernel=True` fuses the loss, so per-sample likelihoods do not exist: set "
                "`liger_kernel_config={'fused_linear_cross_entropy': False}` or use TRL's `SFTTrainer`."
            )

    def _raw_dataset(self) -> Any:
        """The training set as it was before it was packed."""
        return self.trainer.train_dataset

    def _with_ids(self, data: Any) -> Any:
        return number(data)

    def _num_samples(self) -> int | None:
        data = self.trainer.train_dataset
        return len(data) if hasattr(data, "__len__") else None

    def _capacity(self) -> int:
        return self.trainer.args.per_device_train_batch_size

    def _weigh(self, outputs: Any, weights: Tensor) -> None:
        """Put ``weights`` into the outputs of the training forward; with labels the model's loss has had them."""
        if self.trainer.label_smoother is not None:
            outputs["logits"] = scale_gradient(
                outputs["logits"], fit_columns(weights, outputs["logits"].shape[1])[..., None]
            )

    # -- events ------------------------------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Train the shadow, or take back the state of a checkpoint."""
        if self._prepared and state.global_step == 0:
            self.engine = GainEngine(self.trainer.model, **self._settings)
        self.engine.optimizer = self.trainer.optimizer
        if state.global_step > 0:
            self._load(self._folder(state))
        else:
            self.engine.prepare()
        self._prepared = True
        self._restore_loss = self._install_loss()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the engine whether samples are new."""
        self.engine.begin_epoch(int(state.epoch or 0))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the engine's step."""
        self.engine.end_step()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the engine's state beside the trainer's."""
        torch.save(self.engine.state_dict(), os.path.join(self._folder(state), self._state_file))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the model its own loss back."""
        self._restore_loss()

    def _folder(self, state: TrainerState) -> str:
        return os.path.join(self.trainer.args.output_dir, f"checkpoint-{state.global_step}")

    @property
    def _state_file(self) -> str:
        return f"ggmi_state_{self.trainer.args.process_index}.pt"

    def _load(self, folder: str) -> None:
        path = os.path.join(folder, self._state_file)
        if not os.path.exists(path):
            raise ValueError(
                f"cannot resume: {path} is missing. The run that wrote the checkpoint had no GGMICallback, or "
                "`output_dir` is not where its checkpoints are."
            )
        state = torch.load(path, map_location=self.engine.device, weights_only=True)
        self.engine.load_state_dict(state)

    @classmethod
    def _check_trainer(cls, trainer: Any) -> None:
        if not isinstance(trainer, cls.trainer_class):
            name = cls.trainer_class.__name__
            raise TypeError(
                f"`trainer` must be the {name} that will train, got {type(trainer).__name__}. A callback handed over "
                "before the trainer exists can reach neither its data nor its log. Write\n\n"
                f"    trainer = {name}(...)\n"
                "    trainer.add_callback(GGMICallback(trainer, anchors=..., policy=...))\n"
                "    trainer.train()\n"
            )

    # -- the trainer's loss and log ----------------------------------------------------------------------------------

    def _wrap_compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def compute_loss(
            model: nn.Module, inputs: Inputs, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if not (model.training and torch.is_grad_enabled()):
                inputs.pop(SAMPLE_KEY, None)
                return original(model, inputs, return_outputs, num_items_in_batch)
            if not self._prepared:
                raise RuntimeError("GGMICallback was made but not added: call `trainer.add_callback(callback)`.")
            whole = inputs["labels"][..., 1:].ne(-100).sum()
            inputs = self.engine.observe(inputs)
            left = inputs["labels"][..., 1:].ne(-100).sum()
            if num_items_in_batch is None and self.engine.emptied:
                inputs["labels"] = inputs["input_ids"].clone()  # a mean over no targets is NaN, and 0 x NaN too
            with self._listen(model, inputs):
                loss = original(model, dict(inputs), return_outputs, num_items_in_batch)
            if num_items_in_batch is None and self.policy.drops:
                # The trainer took the mean over what is left; the mean over the whole batch is wanted.
                share = left / whole
                return (loss[0] * share, loss[1]) if return_outputs else loss * share
            return loss

        return compute_loss

    @contextmanager
    def _listen(self, model: nn.Module, inputs: Inputs) -> Iterator[None]:
        """Hear the training forward's outputs and weigh them."""

        def hook(module: nn.Module, args: Any, outputs: Any) -> None:
            if not torch.is_grad_enabled():
                return
            if self._has_log_probs(outputs) or self.engine.wants_log_probs:
                with self.engine.budget.spend("watch"):
                    self.engine.watch(self.engine.probe.task.output_log_probs(outputs, inputs))
            if (weights := self.engine.weights) is not None:
                self._weigh(outputs, weights)

        handle = model.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @staticmethod
    def _has_log_probs(outputs: Any) -> bool:
        return getattr(outputs, "log_probs", None) is not None

    def _wrap_log(self, original: Callable[..., None]) -> Callable[..., None]:
        @wraps(original)
        def log(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if self._prepared and ("loss" in logs or "train_runtime" in logs):
                logs.update(self.engine.log())
            if self._prepared and "train_runtime" in logs:
                logs.update(self.engine.finish())
            original(logs, *args, **kwargs)

        return log

    def _install_loss(self) -> Callable[[], None]:
        """Put the weights into the model's loss; returns what takes them out again."""
        if not self.policy.acts or self.policy.drops:
            return _nothing
        return weigh_loss(self.trainer.model, lambda: self.engine.weights)


def _nothing() -> None:
    pass
