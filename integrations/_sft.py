"""The callback for ``SFTTrainer``: packed rows, padding-free batches, and a head that makes no logits.

``SFTTrainer`` never makes logits: it calls ``model(..., fused_lm_head=True)`` and sums ``outputs.log_probs``. They are
read and weighed there.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import datasets
from torch import Tensor, nn
from transformers import Trainer
from trl import SFTTrainer

from ggmi_callbacks.data import SampleData, decoder
from ggmi_callbacks.integrations import _compat, _packing
from ggmi_callbacks.integrations._anchors import naming_columns
from ggmi_callbacks.integrations._datasets import Samples, read_sources
from ggmi_callbacks.integrations._install import Installation
from ggmi_callbacks.integrations._loss import Reached, ScoredLoss
from ggmi_callbacks.integrations._trl import GGMICallback
from ggmi_callbacks.tasks import SAMPLE_KEY, CausalLM, Inputs, Task
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


class FusedLoss(ScoredLoss):
    """The same for a loss that is made of ``outputs.log_probs``."""

    def _weigh(self, outputs: Any, weights: Tensor, reached: Reached) -> None:
        log_probs = getattr(outputs, "log_probs", None)
        if log_probs is None:
            super()._weigh(outputs, weights, reached)
            return
        opened = self.trainer.args.loss_type == "nll"
        outputs.log_probs = log_probs * weights if opened else scale_gradient(log_probs, weights)
        outputs.log_probs.register_hook(reached)

    def _weigh_model_loss(self, installation: Installation) -> None:
        with suppress(ValueError):  # SFTTrainer makes no use of it; a subclass whose loss it is is told by `check`
            super()._weigh_model_loss(installation)


class SFTCallback(GGMICallback):
    """Monitors, filters or reweights the training samples of an ``SFTTrainer`` by their gain.

    Anchors come in any form that ``SFTTrainer`` takes and get the very preprocessing of its training set; a list may
    hold rows, lists of messages or texts, and packed rows are split into their samples. Packed and padding-free
    batches are scored, weighed and filtered per sample, that is per segment.
    """

    trainer_class: type[Trainer] = SFTTrainer
    _loss_class = FusedLoss

    def _task(self) -> Task:
        return FusedCausalLM()

    def _prepare_anchors(self, anchors: Any) -> Any:
        if not isinstance(anchors, datasets.Dataset):
            anchors = datasets.Dataset.from_list([anchors[i] for i in range(len(anchors))])
        if _packing.is_packed(anchors):
            anchors = _packing.unpack(anchors)
        with naming_columns(anchors):
            prepared = _compat.sft_prepare(self.trainer, anchors, self.trainer.args, "anchors")
        return _compat.used_columns(self.trainer, prepared, "anchors")

    def _anchor_collator(self) -> Callable[[list[Any]], Inputs]:
        collator = self.trainer.data_collator
        return dataclasses.replace(collator, padding_free=False) if self.trainer.padding_free else collator

    def _refuse(self, trainer: Any) -> None:
        super()._refuse(trainer)
        if _compat.sft_skips_preparation(trainer):
            raise ValueError("vision data sets and `skip_prepare_dataset=True` are not supported by GGMICallback.")
        if not trainer.args.packing:
            return
        if isinstance(trainer.train_dataset, datasets.IterableDataset):
            raise ValueError(
                "`packing=True` on a stream (`train_dataset` is an IterableDataset): the samples in its rows cannot be "
                "numbered. Set `packing=False`, or give a data set with a length."
            )
        strategy = trainer.args.packing_strategy
        if strategy != "bfd":
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

    def _read_samples(self, source: str | None) -> Samples:
        data, args = self.trainer.train_dataset, self.trainer.args
        if not args.packing:
            return super()._read_samples(source)
        if source is not None and (self._unpacked is None or args.packing_strategy != "bfd"):
            raise ValueError(
                f"`source` {source!r} cannot be read from a packed data set, which holds tokens alone: give the "
                "callback the data set that you gave the trainer, `train_dataset=`, and pack with "
                "`packing_strategy='bfd'`."
            )
        sources = None if source is None else read_sources(self._unpacked, source)
        if not _packing.is_packed(data):
            return dataclasses.replace(super()._read_samples(None), sources=sources)
        per_row = _packing.sizes(data)
        table = None
        if self._unpacked is None:
            ids, size = _packing.number_packed(data), sum(per_row)
        else:
            prepared = self._prepare_unpacked(self._unpacked)
            ids, size = _packing.match(data, prepared, args.max_length), len(self._unpacked)
            table = SampleData(self._unpacked, prepared, decoder(self.trainer.processing_class))
        return Samples(data, data.add_column(SAMPLE_KEY, ids), size, sources, max(per_row), table)

    def _read_eval(self, name: str | None, data: Any) -> Samples | None:
        if not _packing.is_packed(data):
            return super()._read_eval(name, data)
        given = self._unpacked_eval
        raw = given.get(name) if isinstance(given, Mapping) else given if name is None else None
        found = None if raw is None or self.trainer.args.packing_strategy != "bfd" else super()._read_eval(name, raw)
        if found is None or data is not (self.trainer.eval_dataset[name] if name else self.trainer.eval_dataset):
            return None
        ids = _packing.match(data, self._prepare_unpacked(raw), self.trainer.args.max_length)
        return dataclasses.replace(found, numbered=data.add_column(SAMPLE_KEY, ids))

    def _prepare_unpacked(self, data: Any) -> datasets.Dataset:
        args = copy.copy(self.trainer.args)
        args.max_length, args.shuffle_dataset = None, False  # packing cuts by itself; positions must stay
        return _compat.sft_prepare(self.trainer, data, args, "unpacked")
