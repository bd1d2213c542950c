"""GGMI for ``lightning.Trainer`` (and ``pytorch_lightning``).

    trainer = Trainer(callbacks=[GGMICallback(anchors=human, policy=Filter(keep=0.5))])
    trainer.fit(module, train_loader)

A LightningModule around a Hugging Face causal LM needs no change: its model is found, however deep, and each training
forward passes through the engine. Any other module says what its samples cost, in one function that the engine may
call whenever it needs to and that logs nothing; a policy that acts wants the same losses from ``training_step``:

    class Module(LightningModule):
        def losses(self, batch):                                       # [n], nats
            return cross_entropy(self.net(batch[0]), batch[1], reduction="none")

        def training_step(self, batch, index):
            losses = self.losses(batch)
            return {"loss": losses.mean(), "sample_loss": losses}

    GGMICallback(anchors=human, policy=Filter(keep=0.5), sample_loss=Module.losses)

Numbers go through ``pl_module.log``; the engine's state rides in Lightning's checkpoints. Under accumulation
Lightning averages the losses of micro-batches, so there N is each micro-batch's own. Under ``Filter`` a batch shrinks
to what is kept of it, and N stays that of the whole: a step is shorter by what was dropped. Load batches of B / keep
samples to train on B.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any

from torch import Tensor, nn

try:
    import pytorch_lightning  # which lightning brings along
except ImportError as error:  # pragma: no cover - exercised in a bare environment
    raise ImportError(
        "`ggmi_callbacks.integrations.lightning` needs Lightning: pip install 'ggmi-callbacks[lightning]'"
    ) from error
try:
    from lightning.pytorch import Callback
except ImportError:  # pragma: no cover - pytorch_lightning alone
    from pytorch_lightning import Callback  # type: ignore[assignment]

from ggmi_callbacks.engine import GainEngine, SampleEngine
from ggmi_callbacks.engine.heldout import refuse_share
from ggmi_callbacks.integrations._checks import check_without_anchors
from ggmi_callbacks.integrations._install import Installation
from ggmi_callbacks.integrations._language_model import find_language_model
from ggmi_callbacks.integrations._lightning_anchors import anchor_batches, take
from ggmi_callbacks.integrations._lightning_evaluation import Validation
from ggmi_callbacks.integrations._lightning_loggers import show_sources, tell_apart
from ggmi_callbacks.integrations._lightning_trainer import autocast_dtype, batch_capacity, check_strategy, peak_rate
from ggmi_callbacks.integrations._own_loss import own_loss
from ggmi_callbacks.integrations._panels import table_of
from ggmi_callbacks.integrations._ranks import gather_states, own_state
from ggmi_callbacks.integrations._results import Results
from ggmi_callbacks.policies import Monitor, Policy, check_policy
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import CausalLM, SampleLoss
from ggmi_callbacks.weighting.attach import attach

_BASES = tuple(dict.fromkeys((Callback, pytorch_lightning.Callback)))  # one class may not serve the other's trainer


class GGMICallback(Results, *_BASES):  # type: ignore[misc]
    """Monitors, filters or reweights the training samples of a LightningModule by their gain.

    A callback serves one ``fit`` at a time, and a second one anew. After it, however it ends, module and trainer are
    as they were before.

    Args:
        anchors: real examples of the task: a loader or other iterable of batches; or rows as those of the training
            set, which its loader's ``collate_fn`` makes batches of: a data set, a list, a stream that ends, or the
            path of a ``.jsonl``, ``.json`` or ``.parquet`` file. Without any there are losses by source.
        policy: what to do with a sample's gain; :class:`~ggmi_callbacks.Monitor` by default.
        scorer: how gain is estimated; by default :class:`~ggmi_callbacks.LikelihoodScorer`, whatever the policy: a
            Lightning loader does not tell which answers share a prompt.
        model_attribute: where the causal LM is in the module, if there are several (``"net.lm"``).
        sample_loss: ``(module, batch) -> losses [n]`` for modules that are no language models.
        sources: name of each sample's source by id; ids ride in the batch under ``"ggmi_sample"``
            (:class:`~ggmi_callbacks.Numbered`, :class:`~ggmi_callbacks.CarryIds`). Losses by source are logged.
        val_sources: the same of the validation set, or a list of one such sequence for each validation loader.
        overhead: share of step time that scoring may take, see :class:`~ggmi_callbacks.GainEngine`.
        shadow_learning_rate: of the shadow; the highest of the optimiser's schedule by default.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        heldout: samples like those of the training set that are never trained on, in a form that ``anchors`` may have.
        ledger: folder into which the ledger is written as the run goes; None to keep it in memory.
        seed: of the engine's own draws.

    Raises:
        TypeError: if ``policy`` is no policy.
        ValueError: here or at the start of fitting, naming what cannot be scored or weighted exactly.
        RuntimeError: at the start of fitting, if the trainer has another GGMICallback.

    """

    def __init__(
        self,
        anchors: Any = None,
        *,
        policy: Policy | None = None,
        scorer: Scorer | None = None,
        model_attribute: str | None = None,
        sample_loss: Callable[[Any, Any], Tensor] | None = None,
        sources: Sequence[str | None] | None = None,
        val_sources: Sequence[Any] | None = None,
        overhead: float | None = None,
        shadow_learning_rate: float | None = None,
        shadow_epochs: int = 3,
        heldout: Any = None,
        ledger: str | PathLike[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if model_attribute is not None and sample_loss is not None:
            raise ValueError(
                f"give `model_attribute` (got {model_attribute!r}) for a language model, or `sample_loss` for any "
                "other, not both."
            )
        if shadow_learning_rate is not None and not shadow_learning_rate > 0:
            raise ValueError(f"`shadow_learning_rate` must be positive, got {shadow_learning_rate}.")
        self.policy = Monitor() if policy is None else check_policy(policy)
        if anchors is None:
            listens = sources is not None or val_sources is not None
            check_without_anchors("sources=names", listens, scorer, self.policy, heldout)
        self.anchors = take(anchors) if isinstance(anchors, Iterator) else anchors  # a second fit needs them again
        refuse_share(heldout)
        self.heldout = take(heldout) if isinstance(heldout, Iterator) else heldout
        self.model_attribute, self.sample_loss = model_attribute, sample_loss
        self.shadow_learning_rate, self.shadow_epochs = shadow_learning_rate, shadow_epochs
        self._validation = Validation(() if val_sources is None else val_sources)
        self._settings: dict[str, Any] = {
            "policy": self.policy,
            "scorer": scorer,
            "sources": sources,
            "num_samples": None if sources is None else len(sources),
            "overhead": overhead,
            "ledger": ledger,
            "seed": seed,
        }
        self._engine: SampleEngine | None = None
        self._saved: dict[str, Any] | None = None
        self._installed = Installation()

    @property
    def engine(self) -> Any:
        """The engine of the present fit, or else of the last one; RuntimeError before the first."""
        if self._engine is None:
            raise RuntimeError("nothing has been measured yet: call `trainer.fit` first.")
        return self._engine

    # -- events ------------------------------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse, before anything is trained, what cannot be had; forget the state of another run."""
        if stage != "fit":
            return
        self._saved = None
        check_strategy(trainer)
        if (count := sum(isinstance(callback, GGMICallback) for callback in trainer.callbacks)) > 1:
            raise RuntimeError(
                f"the trainer has {count} GGMICallbacks, and each would score what the others leave: take out all but "
                "one. To compare policies, fit once with each."
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Build the engine on the model where it is now, train the shadow, and put the engine in the way."""
        if self.policy.acts and not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(self.policy).__name__} cannot see which forward of a manual optimisation is the loss to weigh: "
                "use Monitor, or automatic optimisation with one optimiser."
            )
        called = self._called(pl_module)
        self._engine = engine = self._make_engine(trainer, pl_module, called)
        self._start(engine, trainer, pl_module)
        if engine.ledger.sources:
            tell_apart(self._installed, trainer)
        self._installed.enter_context(own_loss(engine, pl_module) if called is None else attach(engine, called))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Tell the engine that a pass over the data begins."""
        self.engine.begin_epoch(trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Close the engine's step when the optimiser has stepped, and log when Lightning does."""
        if trainer.fit_loop._should_accumulate():
            return
        self.engine.end_step()
        if trainer.log_every_n_steps and trainer.global_step % trainer.log_every_n_steps == 0:
            for name, value in self.engine.log().items():
                pl_module.log(name, value, prog_bar=name in ("ggmi/gain", "ggmi/kept"))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the whole run's GGMI and take the engine out of the way."""
        with self._installed:
            numbers = {**self.engine.log(), **self.engine.finish()}
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)
            show_sources(trainer, table_of(self.engine.run_numbers()))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the engine out of the way."""
        self._installed.close()
        self._validation.close()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to hear a validation."""
        self._validation.begin(pl_module.device, self._called(pl_module))

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Hear a batch."""
        self._validation.begin_batch(batch, dataloader_idx)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take what it told."""
        self._validation.end_batch(batch, outputs, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the validation's losses by source."""
        for name, value in self._validation.compute().items():
            pl_module.log(name, value, add_dataloader_idx=False)  # the names tell it already

    def state_dict(self) -> dict[str, Any]:
        """The engine's state on every rank, for Lightning's checkpoint."""
        engine = self._engine
        return {} if engine is None or not engine.prepared else gather_states(engine.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the checkpoint's state until training starts."""
        self._saved = state_dict or None

    # -- the engine --------------------------------------------------------------------------------------------------

    def _called(self, pl_module: Any) -> nn.Module | None:
        """The language model whose forwards are heard; None for a module with a loss of its own."""
        return None if self.sample_loss else find_language_model(pl_module, self.model_attribute)

    def _make_engine(self, trainer: Any, pl_module: Any, called: nn.Module | None) -> SampleEngine:
        """Build an engine on the language model that is ``called``, or on a module with a loss of its own."""
        name = type(pl_module).__name__
        if called is None and self.sample_loss is None:
            raise ValueError(
                f"{name} holds no Hugging Face causal LM, so what each sample costs has to be said. Write the losses "
                f"[n] as a method, `def losses(self, batch): ...`, and give `sample_loss={name}.losses`; for Filter "
                "and Reweight let `training_step` return them too, `return {'loss': losses.mean(), 'sample_loss': "
                "losses}`."
            )
        model = pl_module if called is None else getattr(called, "_orig_mod", called)  # of a compiled model, its own
        settings = {
            "task": CausalLM() if self.sample_loss is None else SampleLoss(self.sample_loss),
            "capacity": batch_capacity(trainer.train_dataloader),
            "progress": trainer.is_global_zero and trainer.progress_bar_callback is not None,
            **self._settings,
        }
        rate = self.shadow_learning_rate
        engine = (
            SampleEngine(model, **settings)
            if self.anchors is None
            else GainEngine(
                model,
                anchor_batches(self.anchors, trainer),
                heldout=() if self.heldout is None else anchor_batches(self.heldout, trainer),
                learning_rate=peak_rate(trainer) if rate is None else rate,
                shadow_epochs=self.shadow_epochs,
                **settings,
            )
        )
        engine.probe.autocast_dtype = autocast_dtype(trainer)
        engine.optimizer = next(iter(trainer.optimizers), None)
        return engine

    def _start(self, engine: SampleEngine, trainer: Any, pl_module: Any) -> None:
        """Train the shadow, or go on where the checkpoint's run was."""
        saved, self._saved = self._saved, None
        if saved is not None:
            # With manual optimisation Lightning counts the steps of every optimiser, and the engine batches.
            step = trainer.global_step if pl_module.automatic_optimization else None
            engine.load_state_dict(own_state(saved), step=step)
        elif trainer.ckpt_path is not None:
            raise ValueError(
                f"cannot resume: {trainer.ckpt_path} holds no state of a GGMICallback, so the run that wrote it had "
                "none. Fit anew from its weights (`load_from_checkpoint`), or go on without the callback."
            )
        else:
            engine.prepare()
            engine.step = trainer.global_step  # of a trainer that fits again, not zero
