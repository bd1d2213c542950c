"""GGMI for a plain ``transformers.Trainer`` on a causal language model.

    trainer = Trainer(model, args, train_dataset=synthetic, data_collator=collator)
    trainer.add_callback(GGMICallback(trainer, anchors=human, policy=Filter()))
    trainer.train()

Without anchors it logs losses by source, of the training set and of each evaluation set:

    trainer.add_callback(GGMICallback(trainer, source="source"))

The callback translates and no more. Into the trainer: sample ids ride through the collator, ``compute_loss`` gets the
batch that the engine leaves, and the loss the engine's weights. Out of it: log-probabilities from the training
forward, steps, logs, checkpoints.

Making a callback checks its arguments. It is installed when training begins, on the model that trains, and taken off
when training ends, however it ends; ``trainer.remove_callback(callback)`` leaves nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import torch

try:
    import datasets
    from transformers import (
        PrinterCallback,
        ProgressCallback,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ImportError as error:  # pragma: no cover - exercised in a bare environment
    raise ImportError(
        "`ggmi_callbacks.integrations.transformers` needs Hugging Face transformers and datasets: "
        "pip install 'ggmi-callbacks[transformers]'"
    ) from error

from ggmi_callbacks.config import GGMIConfig
from ggmi_callbacks.data import CarryIds
from ggmi_callbacks.engine import GainEngine, SampleEngine
from ggmi_callbacks.integrations import _checks, _compat
from ggmi_callbacks.integrations._anchors import anchor_batches, columns_of, read_anchors
from ggmi_callbacks.integrations._checkpoint import load_state, save_config, save_state
from ggmi_callbacks.integrations._console import shorten
from ggmi_callbacks.integrations._datasets import Decoded, Samples, read_named, read_samples
from ggmi_callbacks.integrations._entry import STRANGER, Entrant
from ggmi_callbacks.integrations._evaluation import Evaluations
from ggmi_callbacks.integrations._heldout import HeldOut
from ggmi_callbacks.integrations._install import Installation
from ggmi_callbacks.integrations._loss import ScoredLoss
from ggmi_callbacks.integrations._panels import table_of
from ggmi_callbacks.integrations._refill import refilled
from ggmi_callbacks.integrations._reporters import show_sources, tell_apart
from ggmi_callbacks.integrations._results import Results
from ggmi_callbacks.policies import Monitor, Policy
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import SAMPLE_KEY, CausalLM, Inputs, Task


class GGMICallback(Results, Entrant, TrainerCallback):
    """Monitors, filters or reweights the training samples of a ``Trainer`` by their gain.

    A trainer with a ``compute_loss`` of its own may be filtered: its loss sees the rows that are kept, and divides by
    what it likes. Under a policy that weighs, the loss has to come from the outputs of ``model(...)``: from their
    ``loss``, or as a sum over tokens from their ``logits``, whose gradient is then weighed; a term made of anything
    else keeps its size. Weights that do not reach the loss at all stop the run before the optimiser's step.

    Args:
        trainer: the trainer, already built: the callback reaches its data, its loss and its log.
        anchors: real examples of the task, in the form of the training set: a data set, a list of rows, the path of a
            ``.jsonl``, ``.json`` or ``.parquet`` file, a name on the hub, or a stream of at most 10,000 rows. Without
            any there are losses by ``source``, and a policy may act on what a ``scorer`` reads off the training set.
        policy: what to do with a sample's gain; :class:`~ggmi_callbacks.Monitor` by default.
        scorer: how gain is estimated; by default :class:`~ggmi_callbacks.LikelihoodScorer`, in nats. Where three
            samples in four have two other answers to their prompt, a ``Filter`` without a threshold and ``Reweight``
            also count whether they agree, in spreads: see :class:`~ggmi_callbacks.GainEngine`.
        source: column of the training set that says where a sample came from; losses by source are logged, of each
            evaluation set that has this column too. A missing value counts as source ``"unknown"``.
        overhead: share of step time that scoring may take, see :class:`~ggmi_callbacks.GainEngine`.
        shadow_learning_rate: of the shadow run on the anchors; the trainer's own by default.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        heldout: a share of the training set that is never trained on, as 0.02, at least 16 samples; or other samples
            like those of the training set, in the form of ``anchors``. With them ``ggmi/generalization_gap`` and
            ``ggmi/ggmi`` are there in every epoch and at the end. A share is drawn by the trainer's seed, row by row
            (packed rows whole); ids stay positions in the whole set, and ``engine.reserved`` has those held out.
        ledger: folder into which the ledger is written as the run goes, so that its rows need not fit into memory and
            are there after a kill; checkpoints then hold their number. None to keep it in memory.

    Raises:
        TypeError: if ``trainer`` is not a built trainer, with the lines that work, or ``policy``, ``scorer`` or
            ``anchors`` are of another kind.
        ValueError: naming the argument, for empty or one-sample anchors or none where they are needed, anchors without
            targets, a missing source column, models that are no causal language model, setups in which weights cannot
            be exact, and a trainer that has a GGMICallback already.

    """

    trainer_class: type[Trainer] = Trainer
    _loss_class: type[ScoredLoss] = ScoredLoss
    _consoles: tuple[type, ...] = (PrinterCallback, ProgressCallback)
    _running = False

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
        heldout: Any = None,
        ledger: str | PathLike[str] | None = None,
    ) -> None:
        _checks.check_trainer(trainer, self.trainer_class)
        _compat.check(trainer)
        self.trainer: Any = trainer
        self.policy: Policy = Monitor() if policy is None else policy
        _checks.check_policy(self.policy)
        _checks.check_rate(shadow_learning_rate)
        if scorer is not None:
            _checks.check_scorer(scorer)
        if ledger is not None and trainer.args.auto_find_batch_size:
            raise ValueError(
                f"`ledger={str(ledger)!r}` with `auto_find_batch_size=True`: a run that starts again with smaller "
                "batches would find the rows of the one before. Leave either out."
            )
        self._refuse(trainer)
        if anchors is None:
            self._check_lone(source, scorer, heldout)
        self._read_anchors(anchors, heldout)
        self._source, self._samples = source, self._heldout.reserve(self._read_samples(source), trainer.args.seed)
        self._rate, self._shadow_epochs, self._scorer = shadow_learning_rate, shadow_epochs, scorer
        self._arguments = {
            "anchors": anchors,
            "policy": self.policy,
            "scorer": scorer,
            "source": source,
            "overhead": overhead,
            "shadow_learning_rate": shadow_learning_rate,
            "shadow_epochs": shadow_epochs,
            "heldout": heldout,
            "ledger": ledger,
        }
        self._options = {"scorer": scorer, "overhead": overhead, "ledger": ledger}
        first = self._make_engine()  # raises what would be raised when training begins
        self._options["scorer"] = first.scorer  # which has read the training set
        self._engine: SampleEngine | None = None
        self._entry, self._installed = Installation(), Installation()
        self._enter()
        if source is not None:
            Evaluations(trainer, self._task(), self._read_eval).install(self._entry)

    @property
    def engine(self) -> Any:
        """The engine of the present or the last run; raises RuntimeError before the first.

        A :class:`~ggmi_callbacks.GainEngine`, or without anchors a :class:`~ggmi_callbacks.SampleEngine`.
        """
        if self._engine is None:
            raise RuntimeError("there are no results yet: call `trainer.train()` first.")
        return self._engine

    @property
    def texts(self) -> Decoded | None:
        """What the model read of each sample; None for a stream, or without a tokenizer.

        Without one, the columns of the training set may still hold texts: give ``report(texts=...)``.
        """
        table = self._samples.table
        return Decoded(table) if table is not None and table.has_texts else None

    # -- what a subclass for another trainer overrides ---------------------------------------------------------------

    def _task(self) -> Task:
        return CausalLM()

    def _prepare_anchors(self, anchors: Any) -> Any:
        """``anchors`` as the trainer's own preprocessing would have them."""
        if self.trainer.args.remove_unused_columns and "input_ids" not in (columns := columns_of(anchors)):
            raise ValueError(
                "`anchors` must be tokenised as `train_dataset` is (`transformers.Trainer` does no preprocessing); "
                f"column 'input_ids' is missing, they have {columns}."
            )
        if isinstance(anchors, datasets.Dataset):
            return _compat.used_columns(self.trainer, anchors, "anchors")
        return anchors

    def _read_eval(self, name: str | None, data: Any) -> Samples | None:
        """Samples of an evaluation set, called ``name`` if there are several; None if it names no sources."""
        added = self in self.trainer.callback_handler.callbacks
        return read_named(data, self._source) if added and self._source is not None else None

    def _anchor_collator(self) -> Callable[[list[Any]], Inputs]:
        return self.trainer.data_collator

    def _heldout_collator(self) -> Callable[[list[Any]], Inputs]:
        return self._anchor_collator()

    def _read_samples(self, source: str | None) -> Samples:
        trainer, args = self.trainer, self.trainer.args
        tokenizer = trainer.processing_class
        return read_samples(trainer.train_dataset, source, args.world_size, args.process_index, tokenizer)

    def _check_lone(self, source: str | None, scorer: Scorer | None, heldout: Any) -> None:
        """Raise where without anchors there is nothing to do."""
        _checks.check_without_anchors("source='column'", source is not None, scorer, self.policy, heldout)

    def _refuse(self, trainer: Any) -> None:
        """Raise at the start where samples could not be scored or weighted exactly."""
        self._task().check(trainer.model)
        _checks.check_model(trainer.model)
        _checks.check_setup(trainer, self.policy)
        self._refuse_liger(trainer)

    def _refuse_liger(self, trainer: Any) -> None:
        config = trainer.args.liger_kernel_config or {}
        if trainer.args.use_liger_kernel and config.get("fused_linear_cross_entropy", True):
            raise ValueError(
                "`use_liger_kernel=True` fuses the loss, so per-sample likelihoods do not exist: set "
                "`liger_kernel_config={'fused_linear_cross_entropy': False}` or use TRL's `SFTTrainer`."
            )

    # -- between the trainer and its loop ----------------------------------------------------------------------------

    def _run(
        self, batch_size: int | None = None, args: Any = None, resume_from_checkpoint: str | None = None, **rest: Any
    ) -> Any:
        """One attempt of the trainer to train, with the callback installed for its length."""
        self._check_added()
        trainer, self._folder, self._engine = self.trainer, resume_from_checkpoint, None
        with self._installed as installed:
            installed.replace(self, "_running", True)
            self._get_dataloader = installed.replace(trainer, "get_train_dataloader", self._get_train_dataloader)
            self._trainer_log = installed.replace(trainer, "log", self._log)
            self._trainer_save = installed.replace(trainer, "save_model", self._save_model)
            if self._samples.sources is not None:
                tell_apart(installed, trainer)
            shorten(installed, trainer.callback_handler.callbacks, self._consoles)
            return self._loop(batch_size, args=args, resume_from_checkpoint=resume_from_checkpoint, **rest)

    def _get_train_dataloader(self) -> Any:
        """The trainer's loader, of batches that carry sample ids; data set and collator stay as they were."""
        trainer, columns = self.trainer, _compat.signature_columns(self.trainer)
        if self._samples.data is not trainer.train_dataset:
            self._samples = self._heldout.reserve(self._read_samples(self._source), trainer.args.seed)
            self._options["scorer"] = self._scorer
        with Installation() as meanwhile:
            meanwhile.replace(trainer, "train_dataset", self._samples.numbered)
            meanwhile.replace(trainer, _compat.COLUMNS, [*columns, SAMPLE_KEY])
            meanwhile.replace(trainer, "data_collator", CarryIds(trainer.data_collator))
            loader = self._get_dataloader()
        return refilled(loader, self.policy, self._samples, trainer.args, lambda: self.engine)

    def _log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The trainer's ``log``, with the engine's numbers: before every reporter, and in the history."""
        ended = self._engine is not None and "train_runtime" in logs
        if self._engine is not None and ("loss" in logs or ended):
            logs.update(self._engine.log())
        if ended:
            logs.update(self.engine.finish())
        self._trainer_log(logs, *args, **kwargs)
        if ended:
            show_sources(self.trainer, table_of(self.engine.run_numbers()))

    def _save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The trainer's ``save_model``, with the engine's state: before older checkpoints are removed."""
        self._trainer_save(output_dir, _internal_call=_internal_call)
        if _internal_call and output_dir is not None:
            save_state(self.engine, output_dir, self.trainer.args.process_index)
            if self.trainer.args.process_index == 0:
                config, remarks = GGMIConfig.of(**self._arguments)
                save_config(config.to_yaml(remarks), output_dir)

    # -- events ------------------------------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the engine on the model that trains; train the shadow, or take back the state of a checkpoint."""
        if state is not self.trainer.state:
            raise RuntimeError(STRANGER)
        if not self._running:
            raise RuntimeError("this GGMICallback was taken off its trainer: make another one and add it.")
        self._engine = engine = self._make_engine()
        engine.optimizer = self.trainer.optimizer
        engine.probe.autocast_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        if self._folder is None:
            engine.prepare()
        else:
            load_state(engine, self._folder, args.process_index, state.global_step)
        self._loss = self._loss_class(self.trainer, engine, self.trainer_class)
        self._loss.install(self._installed)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the engine whether samples are new."""
        self.engine.begin_epoch(int(state.epoch or 0))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See that weights have reached the loss."""
        self._loss.check()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the engine's step."""
        self.engine.end_step()

    # -- the engine --------------------------------------------------------------------------------------------------

    def _read_anchors(self, anchors: Any, heldout: Any) -> None:
        """Prepare ``anchors`` and ``heldout`` as the training set was."""
        self._anchors, text = None, getattr(self.trainer.args, "dataset_text_field", "text")
        if anchors is not None:
            rows = read_anchors(anchors, text)
            self._given, self._anchors = len(rows), self._prepare_anchors(rows)
        self._heldout = HeldOut(heldout, lambda: self._prepare_anchors(read_anchors(heldout, text)))

    def _make_engine(self) -> SampleEngine:
        """An engine on the model that trains, by the trainer as it is now."""
        trainer, args, rows = self.trainer, self.trainer.args, _compat.batch_size(self.trainer)
        settings = {
            "policy": self.policy,
            "task": self._task(),
            "sources": self._samples.sources,
            "num_samples": self._samples.size,
            "data": self._samples.table,
            "capacity": rows * self._samples.per_row,
            "seed": args.seed,
            "progress": not args.disable_tqdm and trainer.is_world_process_zero(),
            **self._options,
        }
        if self._anchors is None:
            return SampleEngine(trainer.model, **settings)
        return GainEngine(
            trainer.model,
            anchor_batches(self._anchors, self._given, rows, self._anchor_collator(), trainer.model),
            heldout=self._heldout.batches(trainer, self._samples, rows, self._heldout_collator(), trainer.model),
            learning_rate=args.learning_rate if self._rate is None else self._rate,
            shadow_epochs=self._shadow_epochs,
            **settings,
        )
