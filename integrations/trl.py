"""GGMI for TRL's ``SFTTrainer``.

    trainer = SFTTrainer(model, args=SFTConfig(...), train_dataset=synthetic)
    trainer.add_callback(GGMICallback(trainer, anchors=human, policy=Filter(), source="source"))
    trainer.train()

``SFTTrainer`` never makes logits: it calls ``model(..., fused_lm_head=True)`` and sums ``outputs.log_probs``. They are
read and weighed there.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

try:
    from trl import SFTTrainer
except ImportError as error:  # pragma: no cover - exercised in a bare environment
    raise ImportError("`ggmi_callbacks.integrations.trl` needs TRL: pip install 'ggmi-callbacks[trl]'") from error

from transformers import Trainer

from ggmi_callbacks.integrations import transformers as base
from ggmi_callbacks.tasks import CausalLM, Inputs, Task
from ggmi_callbacks.weighting.loss import scale_gradient


class FusedCausalLM(CausalLM):
    """A causal language model that carries TRL's fused head."""

    def log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.log_probs`; no logits are made, unless only some positions are wanted."""
        if "logits_to_keep" in inputs:
            return super().log_probs(model, inputs)
        return model(**inputs, use_cache=False, fused_lm_head=True).log_probs

    def output_log_probs(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.output_log_probs`."""
        fused = getattr(outputs, "log_probs", None)
        return super().output_log_probs(outputs, inputs) if fused is None else fused.detach()


class GGMICallback(base.GGMICallback):
    """Monitors, filters or reweights the training samples of an ``SFTTrainer`` by their gain.

    Anchors come in any form that ``SFTTrainer`` takes and get the very preprocessing of its training set. Packed and
    padding-free batches are scored, weighed and filtered per sample, that is per segment.

    Args:
        trainer: the trainer, already built.
        anchors: real examples of the task.
        train_dataset: the data set that was given to a trainer with ``packing=True``. Packing keeps tokens alone;
            ids (positions in this data set) and sources are found again by content. Without it samples are
            numbered as packed, and have no sources.
        **kwargs: see :class:`ggmi_callbacks.integrations.transformers.GGMICallback`.

    """

    trainer_class: type[Trainer] = SFTTrainer

    def __init__(self, trainer: Any = None, anchors: Any = None, *, train_dataset: Any = None, **kwargs: Any) -> None:
        self._unpacked = train_dataset
        super().__init__(trainer, anchors, **kwargs)

    def _task(self) -> Task:
        return FusedCausalLM()

    def _prepare_anchors(self, anchors: Any) -> Any:
        return self._prepare(anchors, self.trainer.args, "anchors").select_columns(["input_ids", "labels"])

    def _prepare(self, data: Any, args: Any, name: str) -> Any:
        """The trainer's own preprocessing, without packing."""
        trainer = self.trainer
        return trainer._prepare_dataset(data, trainer.processing_class, args, False, trainer._formatting_func, name)

    def _anchor_collator(self) -> Callable[[list[Any]], Inputs]:
        return dataclasses.replace(self.trainer.data_collator, padding_free=False)

    def _refuse(self, trainer: Any) -> None:
        super()._refuse(trainer)
        if trainer._is_vision_dataset or trainer._skip_prepare_dataset:
            raise ValueError("vision data sets and `skip_prepare_dataset=True` are not supported by GGMICallback.")
        strategy = trainer.args.packing_strategy
        if trainer.args.packing and strategy != "bfd":
            problem = f"`packing_strategy={strategy!r}` cuts samples, so what is scored are pieces of them"
            if self.policy.acts:
                raise ValueError(
                    f"{problem}, and {type(self.policy).__name__} would weigh pieces: use `packing_strategy='bfd'`."
                )
            warnings.warn(f"{problem}; ids and gains in the ledger are those of pieces.", stacklevel=4)

    def _refuse_liger(self, trainer: Any) -> None:
        """TRL keeps its own head under Liger, so per-token log-probabilities are there; its kernels need a GPU."""
        if trainer.args.use_liger_kernel and trainer.args.device.type == "cpu":
            raise ValueError("`use_liger_kernel=True`: Liger's kernels do not run on a CPU. Leave it out there.")

    # -- packed data: ids and sources, matched by content ------------------------------------------------------------

    def _raw_dataset(self) -> Any:
        if not self.trainer.args.packing:
            return self.trainer.train_dataset
        if self._unpacked is None or self.trainer.args.packing_strategy != "bfd":
            raise ValueError(
                "`source` cannot be read from a packed data set, which holds tokens alone: give the callback the data "
                "set that you gave the trainer, `train_dataset=`, and pack with `packing_strategy='bfd'`."
            )
        return self._unpacked

    def _num_samples(self) -> int | None:
        if not self.trainer.args.packing:
            return super()._num_samples()
        if self._unpacked is not None:
            return len(self._unpacked)
        lengths = self.trainer.train_dataset
        return sum(map(len, lengths["seq_lengths"])) if "seq_lengths" in lengths.column_names else len(lengths)

    def _capacity(self) -> int:
        rows = super()._capacity()
        packed = self.trainer.args.packing and "seq_lengths" in self.trainer.train_dataset.column_names
        return rows * max(map(len, self.trainer.train_dataset["seq_lengths"])) if packed else rows

    def _with_ids(self, data: Any) -> Any:
        if not self.trainer.args.packing or "seq_lengths" not in data.column_names:
            return super()._with_ids(data)
        segments = [list(_segments(row)) for row in data]
        if self._unpacked is None:
            flat = iter(range(sum(map(len, segments))))
            ids = [[next(flat) for _ in row] for row in segments]
        else:
            ids = self._match(segments)
        return data.add_column(base.SAMPLE_KEY, ids)

    def _match(self, segments: list[list[bytes]]) -> list[list[int]]:
        """Positions in the unpacked data set of the samples with these contents."""
        args = copy.copy(self.trainer.args)
        args.max_length, args.shuffle_dataset = None, False  # packing cuts by itself; positions must stay
        places: dict[bytes, deque[int]] = defaultdict(deque)
        for i, row in enumerate(self._prepare(self._unpacked, args, "unpacked")):
            cut = slice(self.trainer.args.max_length)
            places[_content(row["input_ids"][cut], row["labels"][cut])].append(i)
        try:
            return [[places[content].popleft() for content in row] for row in segments]
        except IndexError:
            raise ValueError(
                "`train_dataset` does not hold every sample that the trainer has packed: give the callback the very "
                "data set that you gave the trainer."
            ) from None

    def _weigh(self, outputs: Any, weights: Tensor) -> None:
        if not self._has_log_probs(outputs):
            super()._weigh(outputs, weights)
        elif self.trainer.args.loss_type == "nll":
            outputs.log_probs = outputs.log_probs * weights
        else:
            outputs.log_probs = scale_gradient(outputs.log_probs, weights)

    def _install_loss(self) -> Callable[[], None]:
        """Nothing to do: the loss is made of ``outputs.log_probs``."""
        return base._nothing


def _segments(row: Mapping[str, Any]) -> Iterable[bytes]:
    """Contents of the samples in a packed row."""
    start = 0
    for length in row["seq_lengths"]:
        yield _content(row["input_ids"][start : start + length], row["labels"][start : start + length])
        start += length


def _content(input_ids: list[int], labels: list[int]) -> bytes:
    return np.asarray([input_ids, labels]).tobytes()
