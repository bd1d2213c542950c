"""Reading a model that somebody else is training, without leaving a trace.

A :class:`Probe` evaluates the module in eval mode and without gradient, with any of its parameters *overridden* for
the length of a call (:func:`torch.func.functional_call`): the shadow, the initial weights and a step along a
gradient are dictionaries of tensors, never second modules and never written into the first. Adapters cost what
adapters weigh, hooks and buffers stay single, and train/eval mode comes back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ggmi_callbacks.tasks import Layout, Task

Parameters = dict[str, Tensor]


class Probe:
    """Evaluates ``model`` on batches through ``task``.

    Args:
        model: the module itself, free of data-parallel and compile wrappers.
        task: how its samples are scored.

    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        task.check(model)
        self.model = model
        self.task = task
        self._holder = _Holder(model)
        self._remembered: dict[Any, Any] | None = None
        self.active = False
        """True while the probe itself runs the model, so that hooks on it stand aside."""
        self.autocast_dtype: torch.dtype | None = None
        """Autocast of every evaluation, best that of the training forward; None for none."""

    @property
    def trainable(self) -> Parameters:
        """The parameters that training changes, by name: adapters only, if the base is frozen."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def snapshot(self) -> Parameters:
        """Return a detached copy of :attr:`trainable`."""
        return {name: p.detach().clone() for name, p in self.trainable.items()}

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Eval mode inside, everything as it was outside."""
        training = [module for module in self.model.modules() if module.training]
        before, self.active = self.active, True
        self.model.eval()
        try:
            yield
        finally:
            self.active = before
            for module in training:
                module.training = True
            # Casts that autocast cached under no_grad carry no gradient: the training forward must not find them.
            torch.clear_autocast_cache()

    def call(self, function: Callable[[Any], Tensor], parameters: Parameters | None = None) -> Tensor:
        """``function(model)`` with ``parameters`` overridden meanwhile; call it inside :meth:`quiet`."""
        overrides = {f"model.{name}": value for name, value in (parameters or {}).items()}
        return functional_call(self._holder, overrides, (function,)) if overrides else function(self.model)

    def log_probs(self, inputs: Mapping[str, Any], parameters: Parameters | None = None) -> Tensor:
        """Per-target log-probabilities [B, T'], with gradient if it is enabled; call it inside :meth:`quiet`."""
        device = next(self.model.parameters()).device.type
        key = (id(inputs), id(parameters), torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device))
        if self._remembered is None or torch.is_grad_enabled():
            return self.call(lambda model: self.task.log_probs(model, inputs), parameters)
        if key not in self._remembered:
            found = self.call(lambda model: self.task.log_probs(model, inputs), parameters)
            self._remembered[key] = (found, inputs, parameters)  # which live on, so that no other gets their identity
        return self._remembered[key][0]

    @contextmanager
    def remembering(self, on: bool = True) -> Iterator[None]:
        """Inside, the same batch under the same parameters (the same objects) is run once; or not, again."""
        before, self._remembered = self._remembered, {} if on else None
        try:
            yield
        finally:
            self._remembered = before

    @torch.no_grad()
    def nll(self, inputs: Mapping[str, Any], layout: Layout, parameters: Parameters | None = None) -> Tensor:
        """Code length of each sample in nats, [n], in eval mode."""
        with self.quiet():
            return -layout.total(self.log_probs(inputs, parameters))


class _Holder(nn.Module):
    """Calls a function of ``model``, so that ``functional_call`` can override parameters around any use of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        return function(self.model)
