"""A trainer's ``compute_loss`` with the engine in between: from the batch to the weighted loss, on one page.

compute_loss    the engine drops, scores and weighs; the trainer's own compute_loss runs on what is left
  model(...)      its forward is heard: log-probabilities go to the engine, and
    _weigh          weights go on all that the trainer may make a loss of
  backward        has to come back through one of these, or the weights have not acted
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ggmi_callbacks.engine import SampleEngine
from ggmi_callbacks.integrations import _compat
from ggmi_callbacks.integrations._install import Installation
from ggmi_callbacks.tasks import IGNORE, Inputs
from ggmi_callbacks.weighting.loss import WeightedCausalLMLoss, causal_lm, fit_columns, scale_gradient, weigh_loss


class Reached:
    """Hook on a weighted tensor: whether a gradient came back through it."""

    came = False

    def __call__(self, grad: Tensor) -> None:
        self.came = True


class ScoredLoss:
    """Stands between a trainer and its loss for the length of a run.

    Args:
        trainer: whose ``compute_loss`` is replaced.
        engine: prepared.
        stock: the class whose ``compute_loss`` is known to take a mean over no targets for zero.

    """

    def __init__(self, trainer: Any, engine: SampleEngine, stock: type) -> None:
        self.trainer, self.engine = trainer, engine
        self._original: Callable[..., Any] = trainer.compute_loss
        self._own = getattr(self._original, "__func__", None) is not stock.compute_loss  # type: ignore[attr-defined]
        self._reached: list[Reached] = []  # one for each weighted micro-batch since the last check
        self._heard = False

    def install(self, installation: Installation) -> None:
        """Come between, until ``installation`` is undone."""
        installation.replace(self.trainer, "compute_loss", self.compute_loss)
        if self.engine.policy.acts and not self.engine.policy.drops:
            self._weigh_model_loss(installation)

    def compute_loss(self, model: nn.Module, inputs: Inputs, *args: Any, **kwargs: Any) -> Any:
        """The trainer's loss of what the engine leaves of ``inputs``; arguments as the trainer passes them."""
        if not (model.training and torch.is_grad_enabled()):
            return self._original(model, inputs, *args, **kwargs)
        whole = _targets(inputs)
        inputs = self.engine.observe(inputs)
        left = _targets(inputs)
        takes_mean = kwargs.get("num_items_in_batch") is None or (not self._own and _compat.smooths_mean(self.trainer))
        if self.engine.is_empty and (takes_mean or self._own):
            inputs["labels"] = inputs["input_ids"].clone()  # a mean over no targets is NaN, and 0 x NaN too
        with self._listening(model, inputs):
            loss = self._original(model, dict(inputs), *args, **kwargs)
        if self.engine.policy.drops and (takes_mean or (self._own and self.engine.is_empty)):
            # The trainer took the mean over what is left; the mean over the whole batch is wanted.
            share = left / whole
            return (loss[0] * share, *loss[1:]) if isinstance(loss, tuple) else loss * share
        return loss

    def check(self) -> None:
        """Raise if weights did not act on the gradients since the last call; before the optimiser's step.

        Raises:
            RuntimeError: with what the loss may be made of.

        """
        acted = all(reached.came for reached in self._reached)
        self._reached.clear()
        if not acted:
            raise RuntimeError(
                f"the weights of {self.engine.policy!r} did not reach the loss of step {self.engine.step}: "
                f"`{type(self.trainer).__name__}.compute_loss` makes it of something else than the outputs of "
                "`model(...)`. The optimiser has not stepped. Make the loss of `super().compute_loss(...)`, or of the "
                "outputs' `loss` or `logits`; or use `Filter()` or `Monitor()`, which need no weights in the loss."
            )

    @contextmanager
    def _listening(self, model: nn.Module, inputs: Inputs) -> Iterator[None]:
        """Hear the training forwards inside, and weigh what comes out of them."""
        self._heard = False
        if self.engine.weights is not None:
            self._reached.append(Reached())
        handle = model.register_forward_hook(partial(self._hear, inputs))
        try:
            yield
        finally:
            handle.remove()

    def _hear(self, inputs: Inputs, module: nn.Module, args: Any, outputs: Any) -> None:
        if not torch.is_grad_enabled():
            return
        if not self._heard and (getattr(outputs, "log_probs", None) is not None or self.engine.wants_log_probs):
            self._heard = True
            with self.engine.budget.spend("record"):
                log_probs = self.engine.probe.task.output_log_probs(outputs, inputs)
                self.engine.record_log_probs(log_probs)
        if (weights := self.engine.weights) is not None:
            self._weigh(outputs, weights, self._reached[-1])

    def _weigh(self, outputs: Any, weights: Tensor, reached: Reached) -> None:
        """Put ``weights`` on all that a loss may be made of; ``reached`` hears the gradient come back."""
        loss, logits = getattr(outputs, "loss", None), getattr(outputs, "logits", None)
        model_loss = getattr(causal_lm(self.trainer.model), "loss_function", None)
        if loss is not None and isinstance(model_loss, WeightedCausalLMLoss) and model_loss.take_called():
            loss.register_hook(reached)
        if logits is not None and logits.requires_grad:
            outputs["logits"] = scale_gradient(logits, fit_columns(weights, logits.shape[1])[..., None])
            outputs["logits"].register_hook(reached)

    def _weigh_model_loss(self, installation: Installation) -> None:
        """Put the weights into the loss that the model makes itself."""
        installation.callback(weigh_loss(self.trainer.model, self._weights))

    def _weights(self) -> Tensor | None:
        return self.engine.weights


def _targets(inputs: Inputs) -> Tensor:
    """Number of targets in a batch."""
    return inputs["labels"][..., 1:].ne(IGNORE).sum()
