"""Losses by source of a Hugging Face trainer's evaluations, from the forwards that these run anyway.

Sample ids ride in the batches of an evaluation set; ``eval_ggmi/nll/<source>`` then stands among the metrics that
``evaluate`` returns and logs, with the prefix of each set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ggmi_callbacks.data import CarryIds, to_device
from ggmi_callbacks.engine import SourceLoss
from ggmi_callbacks.integrations import _compat
from ggmi_callbacks.integrations._datasets import Samples
from ggmi_callbacks.integrations._install import Installation
from ggmi_callbacks.tasks import SAMPLE_KEY, Task

Read = Callable[[str | None, Any], Samples | None]
"""Samples of an evaluation set, by its name if there are several, with their sources; None if it names none."""


class Evaluations:
    """Hears a trainer's evaluations, in a run and outside of it.

    Args:
        trainer: already built.
        task: how its samples are found and scored.
        read: tells the sources of an evaluation set.

    """

    def __init__(self, trainer: Any, task: Task, read: Read) -> None:
        self.trainer, self.task, self._read = trainer, task, read
        self._known: dict[str | None, tuple[Any, Samples | None]] = {}  # what was read of a set, by its name
        self._next: tuple[Any, Samples] | None = None  # the loader that is evaluated next, and what it holds

    def install(self, installation: Installation) -> None:
        """Come between, until ``installation`` is undone."""
        _compat.forget_eval_loaders(self.trainer)
        installation.callback(_compat.forget_eval_loaders, self.trainer)
        self._get_loader = installation.replace(self.trainer, "get_eval_dataloader", self.get_eval_dataloader)
        self._loop = installation.replace(self.trainer, "evaluation_loop", self.evaluation_loop)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The trainer's loader, of batches that carry sample ids where their sources are known."""
        trainer, name = self.trainer, eval_dataset if isinstance(eval_dataset, str) else None
        data = trainer.eval_dataset[name] if name else trainer.eval_dataset if eval_dataset is None else eval_dataset
        samples = None if data is None else self._samples(name, data)
        if samples is None:
            return self._get_loader(eval_dataset)
        columns = _compat.signature_columns(trainer)
        with Installation() as meanwhile:
            meanwhile.replace(trainer, _compat.COLUMNS, [*columns, SAMPLE_KEY])
            meanwhile.replace(trainer, "data_collator", CarryIds(trainer.data_collator))
            if name:
                meanwhile.replace(trainer, "eval_dataset", {**trainer.eval_dataset, name: samples.numbered})
            loader = self._get_loader(name or samples.numbered)
        self._next = loader, samples
        return loader

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """The trainer's own, with losses by source among its metrics."""
        rest = (dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        (loader, samples), self._next = self._next or (None, None), None
        if samples is None or loader is not dataloader:
            return self._loop(*rest)
        assert samples.sources is not None
        losses = SourceLoss(samples.sources, self.task, self.trainer.args.device)
        with Installation() as meanwhile:
            step = _Step(losses, self.trainer.prediction_step)
            meanwhile.replace(self.trainer, "prediction_step", step)
            output = self._loop(*rest)
        output.metrics.update(losses.compute(f"{metric_key_prefix}_"))
        return output

    def _samples(self, name: str | None, data: Any) -> Samples | None:
        """What a set holds, read once as long as it stays the same."""
        known, found = self._known.get(name, (None, None))
        if found is None or known is not data:
            found = self._read(name, data)
            self._known[name] = data, found
        return found


class _Step:
    """Stands in for ``prediction_step``: takes the ids out of a batch, and hears the first forward with logits."""

    def __init__(self, losses: SourceLoss, original: Callable[..., Any]) -> None:
        self.losses, self.original = losses, original

    def __call__(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        ids = inputs.pop(SAMPLE_KEY)
        batch, heard = dict(inputs), False  # a trainer may take the labels out

        def hear(module: nn.Module, args: Any, outputs: Any) -> None:
            nonlocal heard
            if not heard and self.losses.task.has_targets(batch):
                heard = True
                self.losses.hear(outputs, to_device(batch, next(module.parameters()).device), ids)

        handle = model.register_forward_hook(hear)
        try:
            return self.original(model, inputs, *args, **kwargs)
        finally:
            handle.remove()
