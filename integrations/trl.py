"""GGMI for TRL's ``SFTTrainer``.

    trainer = SFTTrainer(model, args=SFTConfig(...), train_dataset=synthetic)
    trainer.add_callback(GGMICallback(trainer, anchors=human, policy=Filter(), source="source"))
    trainer.train()

``SFTTrainer`` never makes logits: it calls ``model(..., fused_lm_head=True)`` and sums ``outputs.log_probs``. They are
read and weighed there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

try:
    from trl import SFTTrainer
except ImportError as error:  # pragma: no cover - exercised in a bare environment
    raise ImportError("`ggmi_callbacks.integrations.trl` needs TRL: pip install 'ggmi-callbacks[trl]'") from error

from ggmi_callbacks.integrations import transformers as base
from transformers import Trainer

from ggmi_callbacks.loss import scale_gradient
from ggmi_callbacks.tasks import CausalLM, Inputs, Task


class FusedCausalLM(CausalLM):
    """A causal language model that carries TRL's fused head."""

    def log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.log_probs`; no logits are made."""
        return model(**inputs, use_cache=False, fused_lm_head=True).log_probs

    def output_log_probs(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.output_log_probs`."""
        fused = getattr(outputs, "log_probs", None)
        return super().output_log_probs(outputs, inputs) if fused is None else fused.detach()


class GGMICallback(base.GGMICallback):
    """Monitors, filters or reweights the training samples of an ``SFTTrainer`` by their gain.

    Anchors come in any form that ``SFTTrainer`` takes and get the very preprocessing of its training set. Arguments
    as :class:`ggmi_callbacks.integrations.transformers.GGMICallback`.
    """

    trainer_class: type[Trainer] = SFTTrainer

    def _task(self) -> Task:
        return FusedCausalLM()

    def _prepare_anchors(self, anchors: Any) -> Any:
        trainer = self.trainer
        prepared = trainer._prepare_dataset(
            anchors, trainer.processing_class, trainer.args, False, trainer._formatting_func, "anchors"
        )
        return prepared.select_columns(["input_ids", "labels"])

    def _anchor_collator(self) -> Callable[[list[Any]], Inputs]:
        return dataclasses.replace(self.trainer.data_collator, padding_free=False)

    def _refuse(self, trainer: Any) -> None:
        super()._refuse(trainer)
        if trainer._is_vision_dataset or trainer._skip_prepare_dataset:
            raise ValueError("vision data sets and `skip_prepare_dataset=True` are not supported by GGMICallback.")
        if trainer.args.packing:
            raise ValueError("`packing=True` is not supported yet: set `packing=False`.")

    def _refuse_liger(self, trainer: Any) -> None:
        """TRL keeps its own head under Liger, so per-token log-probabilities are there."""

    def _weigh(self, outputs: Any, weights: Tensor) -> None:
        if not self._has_log_probs(outputs):
            super()._weigh(outputs, weights)
        elif self.trainer.args.loss_type == "nll":
            outputs.log_probs = outputs.log_probs * weights
        else:
            outputs.log_probs = scale_gradient(outputs.log_probs, weights)

    def _install_loss(self) -> None:
        """Nothing to do: the loss is made of ``outputs.log_probs``."""

    def _restore_loss(self) -> None:
        """Nothing to do."""
