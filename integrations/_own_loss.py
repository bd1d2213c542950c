"""A LightningModule with a loss of its own: its training steps pass through an engine."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.engine import SampleEngine
from ggmi_callbacks.tasks import SAMPLE_KEY, unwrap_batch, wrap_batch

SAMPLE_LOSS = "sample_loss"
"""Key of per-sample losses [n] in what ``training_step`` returns."""


@contextmanager
def own_loss(engine: SampleEngine, module: Any) -> Iterator[None]:
    """Inside, each ``training_step`` of ``module`` gets the batch that ``engine`` leaves, and its loss the weights.

    Raises:
        ValueError: in the first step whose loss the weights cannot reach: no per-sample losses come back, or the loss
            beside them is another than their mean.

    """
    step = _Step(engine, module.training_step)
    mine = vars(module).get("training_step")  # a compiled module has one of its own
    module.training_step = functools.wraps(step.original)(lambda *args, **kwargs: step(*args, **kwargs))
    try:
        yield
    finally:
        del module.training_step
        if mine is not None:
            module.training_step = mine


class _Step:
    """Stands in for ``training_step``."""

    def __init__(self, engine: SampleEngine, original: Any) -> None:
        self.engine, self.original = engine, original
        self._returns = False  # whether per-sample losses came back last time
        self._checked = False  # whether the loss has been seen to be their mean

    def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
        if self.engine.probe.active:  # a user's own `sample_loss` may come by here
            return self.original(batch, *args, **kwargs)
        inputs = self.engine.observe(wrap_batch(batch))
        left = unwrap_batch(inputs)
        return self._act(left, args, kwargs) if self.engine.policy.acts else self._watch(batch, left, args, kwargs)

    def _watch(self, batch: Any, left: Any, args: Any, kwargs: Any) -> Any:
        """Run the step as it is; code lengths come with it, or else from a forward before its update."""
        due = self.engine.wants_forward and not self._returns
        if due:
            with self.engine.budget.spend("record"):
                inputs = wrap_batch(left)
                self.engine.record_log_probs(
                    -self.engine.probe.nll(inputs, self.engine.probe.task.layout(inputs))[:, None]
                )
        carries_ids = isinstance(batch, Mapping) and SAMPLE_KEY in batch
        out = self.original(left if carries_ids else batch, *args, **kwargs)
        losses = sample_losses(out)
        if losses is None and not self.engine.scores:
            raise ValueError(
                "losses by source are those of the samples, and `training_step` returned one number. Let it return "
                f"their losses [n] beside it, `return {{'loss': losses.mean(), {SAMPLE_LOSS!r}: losses}}`."
            )
        if losses is not None and not due:
            self.engine.record_log_probs(-losses[:, None])
        self._returns = losses is not None
        return out

    def _act(self, left: Any, args: Any, kwargs: Any) -> Any:
        """Run the step on what is left, and put the weights into its loss."""
        out = self.original(left, *args, **kwargs)
        if out is None:  # Lightning skips the batch
            return None
        losses = sample_losses(out)
        if losses is None:
            raise ValueError(
                f"{type(self.engine.policy).__name__} cannot weigh the samples of a loss that is one number. Let "
                f"`training_step` return their losses [n] beside it, `return {{'loss': losses.mean(), "
                f"{SAMPLE_LOSS!r}: losses}}`, or use Monitor."
            )
        if not self._checked:
            self._check(out["loss"].detach().float(), losses.detach().float().mean())
        return {**out, "loss": self.engine.mean(losses)}

    def _check(self, loss: Tensor, mean: Tensor) -> None:
        if not torch.isclose(loss, mean, rtol=1e-2, atol=1e-6, equal_nan=True):
            raise ValueError(
                f"`training_step` returned a loss of {float(loss):.4g} beside {SAMPLE_LOSS!r} with a mean of "
                f"{float(mean):.4g}. {type(self.engine.policy).__name__} trains on their weighted mean, so what else "
                "is in the loss would be lost: add it to the losses of the samples."
            )
        self._checked = True


def sample_losses(out: Any) -> Tensor | None:
    """Losses of the samples in what a step returned, [n]; None if it returned none."""
    losses = out.get(SAMPLE_LOSS) if isinstance(out, Mapping) else None
    if losses is not None and losses.dim() != 1:
        raise ValueError(f"{SAMPLE_LOSS!r} must have shape [n], got {tuple(losses.shape)}: one loss a sample.")
    return losses
