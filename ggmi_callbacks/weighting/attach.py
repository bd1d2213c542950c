"""An engine between a causal language model and whoever calls it.

with attach(engine, model):
    loss = model(**batch).loss       # scored, filtered and weighted on the way
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ggmi_callbacks.weighting.loss import causal_lm, weigh_loss

if TYPE_CHECKING:
    from ggmi_callbacks.engine import GainEngine


def attach(engine: GainEngine, model: nn.Module | None = None) -> Attachment:
    """Act on every training forward of ``model`` inside a ``with`` block; see :class:`Attachment`.

    Args:
        engine: prepared on entering, if it has not been.
        model: the module that is called, the engine's own if not given; a data-parallel wrapper around it will do.

    """
    return Attachment(engine, engine.probe.model if model is None else model)


class Attachment:
    """Context manager: inside, each training forward of ``model`` passes through ``engine``.

    A training forward is one in train mode, with gradient, called with keyword arguments among them ``labels``.

    Args:
        engine: prepared on entering, if it has not been.
        model: the module that is called: the model itself, or its data-parallel wrapper.

    Raises:
        RuntimeError: in the first backward-able forward whose loss the weights could not reach, because it was called
            without labels or its loss is made elsewhere. Weights are never silently off.

    """

    def __init__(self, engine: GainEngine, model: nn.Module) -> None:
        self.engine, self.model = engine, model
        self._undo: list[Callable[[], None]] = []
        self._calls = 0

    def __enter__(self) -> GainEngine:
        if self.engine.shadow is None:
            self.engine.prepare()
        before = self.model.register_forward_pre_hook(self._before, with_kwargs=True)
        after = self.model.register_forward_hook(self._after, with_kwargs=True)
        self._undo = [before.remove, after.remove]
        if self.engine.policy.acts:
            self._undo.append(weigh_loss(self.model, lambda: self.engine.weights, lambda: self.engine.count))
        return self.engine

    def __exit__(self, *error: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _trains(self, module: nn.Module) -> bool:
        return module.training and torch.is_grad_enabled() and not self.engine.probe.active

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._trains(module):
            kwargs.pop("ggmi_sample", None)
            return args, kwargs
        if args or kwargs.get("labels") is None:
            raise RuntimeError(
                "`attach` follows forwards called with keyword arguments and `labels`, as in "
                "`model(**batch).loss`. For a loss of your own use `engine.observe(batch)` and `engine.mean(losses)`."
            )
        self._calls = self._weighted_calls()
        return args, self.engine.observe(kwargs)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if not self._trains(module):
            return
        if self.engine.policy.acts and self._weighted_calls() == self._calls:
            raise RuntimeError(
                f"{type(module).__name__} made its loss without `loss_function`, so weights did not act."
            )
        if self.engine.wants_log_probs:
            with self.engine.budget.spend("watch"):
                self.engine.watch(self.engine.probe.task.output_log_probs(outputs, kwargs))

    def _weighted_calls(self) -> int:
        return getattr(getattr(causal_lm(self.model), "loss_function", None), "calls", 0)
