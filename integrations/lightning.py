"""GGMI for ``lightning.Trainer`` (and ``pytorch_lightning``).

    trainer = Trainer(callbacks=[GGMICallback(anchors=loader, policy=Filter(keep=0.5))])
    trainer.fit(module, train_loader)

A LightningModule around a Hugging Face causal LM needs no change: its model is found, and each training forward
passes through the engine. Any other module says what its samples cost: ``training_step`` returns their losses [n]
under ``"sample_loss"`` beside ``"loss"``, or ``sample_loss=`` computes them from module and batch.

Numbers go through ``pl_module.log``; the engine's state rides in Lightning's checkpoints. Under accumulation
Lightning averages the losses of micro-batches, so there N is each micro-batch's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

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

from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.engine.ledger import Ledger
from ggmi_callbacks.integrations.loop import batches
from ggmi_callbacks.policies import Monitor, Policy
from ggmi_callbacks.scorers import Scorer
from ggmi_callbacks.tasks import SampleLoss, unwrap_batch, wrap_batch
from ggmi_callbacks.weighting.attach import attach
from ggmi_callbacks.weighting.loss import causal_lm

SAMPLE_LOSS = "sample_loss"
"""Key of per-sample losses [n] in what ``training_step`` returns."""

_BASES = tuple(dict.fromkeys((Callback, pytorch_lightning.Callback)))  # one class may not serve the other's trainer


class GGMICallback(*_BASES):  # type: ignore[misc]
    """Monitors, filters or reweights the training samples of a LightningModule by their gain.

    Args:
        anchors: real examples: a loader, a sequence of batches, or a data set collated as the training set is.
        policy: what to do with a sample's gain; :class:`~ggmi_callbacks.Monitor` by default.
        scorer: how gain is estimated; :class:`~ggmi_callbacks.LikelihoodScorer` by default.
        model_attribute: name of the module's attribute that is the causal LM, if there are several.
        sample_loss: ``(module, batch) -> losses [n]`` for modules that are no language models.
        sources: name of each sample's source by id; ids ride in the batch under ``"ggmi_sample"``
            (:class:`~ggmi_callbacks.Numbered`, :class:`~ggmi_callbacks.CarryIds`).
        overhead: share of step time that scoring may take, see :class:`~ggmi_callbacks.GainEngine`.
        shadow_learning_rate: of the shadow; the optimiser's own by default.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        seed: of the engine's own draws.

    Raises:
        ValueError: at the start of fitting, naming what cannot be scored or weighted exactly.

    """

    def __init__(
        self,
        anchors: Any,
        *,
        policy: Policy | None = None,
        scorer: Scorer | None = None,
        model_attribute: str | None = None,
        sample_loss: Callable[[Any, Any], Tensor] | None = None,
        sources: Sequence[str | None] | None = None,
        overhead: float | None = None,
        shadow_learning_rate: float | None = None,
        shadow_epochs: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.anchors, self.policy, self.scorer = anchors, policy or Monitor(), scorer
        self.model_attribute, self.sample_loss, self.sources = model_attribute, sample_loss, sources
        self.overhead, self.shadow_learning_rate, self.shadow_epochs = overhead, shadow_learning_rate, shadow_epochs
        self.engine: GainEngine
        self._saved: dict[str, Any] | None = None
        self._undo: list[Callable[[], Any]] = []

    @property
    def ledger(self) -> Ledger:
        """Table of step, id, source, gain, weight, kept and nll; see :class:`~ggmi_callbacks.Ledger`."""
        return self.engine.ledger

    def results(self) -> dict[str, Any]:
        """Return the last logged numbers, the estimators behind them and the shadow's cost."""
        return self.engine.results()

    # -- events ------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Build the engine on the model where it is now, train the shadow, and put the engine in the way."""
        if self.policy.acts and not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(self.policy).__name__} cannot see which forward of a manual optimisation is the loss to weigh: "
                "use Monitor, or automatic optimisation with one optimiser."
            )
        name, model = self._find_model(pl_module)
        loader = trainer.train_dataloader
        lr = self.shadow_learning_rate or trainer.optimizers[0].param_groups[0]["lr"] or 1e-4
        self.engine = GainEngine(
            model,
            batches(self._anchor_loader(loader)),
            policy=self.policy,
            scorer=self.scorer,
            task=None if name else SampleLoss(self.sample_loss or self._losses_of_step),
            sources=self.sources,
            learning_rate=lr,
            shadow_epochs=self.shadow_epochs,
            overhead=self.overhead,
            num_samples=None if self.sources is None else len(self.sources),
            capacity=getattr(loader, "batch_size", None),
            seed=self.seed,
            progress=trainer.is_global_zero and trainer.progress_bar_callback is not None,
        )
        self.engine.optimizer = trainer.optimizers[0]
        with trainer.precision_plugin.train_step_context():
            if self._saved is None:
                self.engine.prepare()
            else:
                self.engine.load_state_dict(self._saved)
        if name:
            attachment = attach(self.engine, model)
            attachment.__enter__()
            self._undo = [lambda: attachment.__exit__()]
        else:
            self._undo = [self._wrap_training_step(pl_module)]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Tell the engine whether samples are new."""
        self.engine.begin_epoch(trainer.current_epoch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Close the engine's step when the optimiser has stepped, and log when Lightning does."""
        if trainer.fit_loop._should_accumulate():
            return
        self.engine.end_step()
        if trainer.global_step % trainer.log_every_n_steps == 0:
            numbers = self.engine.log()
            pl_module.log("ggmi/gain", numbers.pop("ggmi/gain", float("nan")), prog_bar=True)
            pl_module.log_dict(numbers)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the whole run's GGMI and take the engine out of the way."""
        try:
            numbers = {**self.engine.log(), **self.engine.finish()}
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)
        finally:
            self._detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the engine out of the way."""
        self._detach()

    def state_dict(self) -> dict[str, Any]:
        """The engine's state, for Lightning's checkpoint."""
        return self.engine.state_dict() if hasattr(self, "engine") else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the checkpoint's state until training starts."""
        self._saved = state_dict or None

    # -- translation -------------------------------------------------------------------------------------------------

    def _detach(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _anchor_loader(self, train_loader: Any) -> Iterable[Any]:
        if not hasattr(self.anchors, "__getitem__") or isinstance(self.anchors, (list, tuple)):
            return self.anchors
        if len(self.anchors) < 2:
            raise ValueError(f"`anchors` must hold at least two real examples of the task, got {len(self.anchors)}.")
        size = min(train_loader.batch_size or 1, max(1, len(self.anchors) // 4))
        return DataLoader(self.anchors, size, collate_fn=train_loader.collate_fn)

    def _find_model(self, pl_module: Any) -> tuple[str | None, nn.Module]:
        """Name and module of the causal LM inside ``pl_module``; no name if it has a loss of its own."""
        if self.model_attribute is not None:
            if not isinstance(getattr(pl_module, self.model_attribute, None), nn.Module):
                raise ValueError(
                    f"`model_attribute` {self.model_attribute!r} is no module of {type(pl_module).__name__}."
                )
            return self.model_attribute, getattr(pl_module, self.model_attribute)
        found = [(k, m) for k, m in pl_module.named_children() if hasattr(causal_lm(m), "loss_function")]
        if self.sample_loss is not None or not found:
            return None, pl_module
        if len(found) > 1:
            raise ValueError(
                f"{type(pl_module).__name__} holds several language models ({', '.join(k for k, _ in found)}): "
                "say which one with `model_attribute=`."
            )
        return found[0]

    def _losses_of_step(self, module: Any, batch: Any) -> Tensor:
        """Per-sample losses from the module's own ``training_step``, without its logging.

        If it returns none, Monitor gives every sample the mean loss of its batch.
        """
        with _muted(module):
            out = module.training_step(batch, 0)
        if isinstance(out, dict) and SAMPLE_LOSS in out:
            return out[SAMPLE_LOSS]
        if self.policy.acts:
            raise ValueError(
                f"{type(self.policy).__name__}: {type(module).__name__} holds no Hugging Face causal LM and its "
                "`training_step` returns no per-sample losses. Return them beside the loss, `return {'loss': "
                f"losses.mean(), {SAMPLE_LOSS!r}: losses}}` with losses [n], or give the callback "
                "`sample_loss=lambda module, batch: losses`."
            )
        loss = out["loss"] if isinstance(out, dict) else out
        return loss.expand(self.engine.probe.task.layout(wrap_batch(batch)).n)

    def _wrap_training_step(self, pl_module: Any) -> Callable[[], Any]:
        """Weigh the per-sample losses of a module with a loss of its own."""
        original = pl_module.training_step

        @functools.wraps(original)
        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            if self.engine.probe.active:
                return original(batch, *args, **kwargs)
            inputs = self.engine.observe(wrap_batch(batch))
            left = unwrap_batch(inputs)
            if self.sample_loss is not None and self.policy.acts:
                return self.engine.mean(self.sample_loss(pl_module, left))
            out = original(left, *args, **kwargs)
            if isinstance(out, dict) and SAMPLE_LOSS in out:  # else the probe has already said what is missing
                weighted = self.engine.mean(out[SAMPLE_LOSS])
                return {**out, "loss": weighted} if self.policy.acts else out
            return out

        pl_module.training_step = training_step
        return lambda: pl_module.__dict__.pop("training_step", None)


@contextmanager
def _muted(module: Any) -> Iterator[None]:
    """``module.log`` and ``log_dict`` without effect."""
    names = ("log", "log_dict")
    for name in names:
        module.__dict__[name] = lambda *args, **kwargs: None
    try:
        yield
    finally:
        for name in names:
            del module.__dict__[name]
