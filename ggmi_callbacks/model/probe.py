"""Reading a model that somebody else is training, without leaving a trace.

A :class:`Probe` evaluates the module in eval mode and without gradient, with any of its parameters and buffers
*overridden* for the length of a call (:func:`torch.func.functional_call`): the shadow, the initial weights and a step
along a gradient are dictionaries of tensors, never second modules and never written into the first. Adapters cost
what adapters weigh, hooks stay single, and train/eval mode comes back as it was.

Code lengths are compared with each other, so all of them have one precision: that of :attr:`Probe.autocast_dtype`,
whatever autocast the caller is in.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ggmi_callbacks.model.row_limit import RowLimit
from ggmi_callbacks.model.soft_prompt import own_tokens
from ggmi_callbacks.tasks import Inputs, Layout, Task

Parameters = dict[str, Tensor]
"""Tensors that stand in for parameters or buffers of a model, by name."""


class Probe:
    """Evaluates ``model`` on batches through ``task``.

    Args:
        model: the module itself, free of data-parallel and compile wrappers.
        task: how its samples are scored.

    Example:
        >>> import torch
        >>> from ggmi_callbacks.tasks import SampleLoss
        >>> probe = Probe(torch.nn.Linear(1, 1), SampleLoss(lambda model, batch: model(batch["x"]).square()[:, 0]))
        >>> batch = {"x": torch.tensor([[1.0], [2.0]])}
        >>> ones = {name: torch.ones_like(p) for name, p in probe.trainable.items()}
        >>> probe.nll(batch, probe.task.layout(batch), ones)  # (x + 1)^2, and the model is as it was
        tensor([4., 9.])

    """

    def __init__(self, model: nn.Module, task: Task) -> None:
        task.check(model)
        self.model = model
        self.task = task
        self._holder = _Holder(model)
        self._rows = RowLimit()
        self.active = False
        """True while the probe itself runs the model, so that hooks on it stand aside."""
        self.autocast_dtype: torch.dtype | None = None
        """Autocast of every evaluation, best that of the training forward; None for none.

        It holds inside and outside the trainer's own autocast. A model that enters an autocast in its own ``forward``
        (as Accelerate prepares it) keeps that one.
        """

    @property
    def trainable(self) -> Parameters:
        """The parameters that training changes, by name: adapters only, if the base is frozen."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def buffers(self) -> Parameters:
        """The buffers that a training forward may change, by name: those that a checkpoint keeps."""
        saved = self.model.state_dict()
        return {name: b for name, b in self.model.named_buffers() if name in saved}

    def snapshot(self, without: Container[str] = ()) -> Parameters:
        """Return a detached copy of all that training changes, :attr:`trainable` and :attr:`buffers`.

        Args:
            without: names to leave out.

        """
        live = {**self.trainable, **self.buffers}
        return {name: value.detach().clone() for name, value in live.items() if name not in without}

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

    @contextmanager
    def precision(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Inside, :attr:`autocast_dtype` is ``dtype``."""
        before, self.autocast_dtype = self.autocast_dtype, dtype
        try:
            yield
        finally:
            self.autocast_dtype = before

    def call(self, function: Callable[[Any], Tensor], weights: Parameters | None = None) -> Tensor:
        """``function(model)`` with ``weights`` overridden meanwhile; call it inside :meth:`quiet`."""
        overrides = {f"model.{name}": value for name, value in (weights or {}).items()}
        device, dtype = next(self.model.parameters()).device.type, self.autocast_dtype
        with torch.autocast(device, dtype, enabled=dtype is not None), own_tokens(self.model):
            return functional_call(self._holder, overrides, (function,)) if overrides else function(self.model)

    def log_probs(self, inputs: Mapping[str, Any], weights: Parameters | None = None) -> Tensor:
        """Per-target log-probabilities [B, T'], with gradient if it is enabled; call it inside :meth:`quiet`.

        Args:
            inputs: a batch of model inputs; a :class:`SharedBatch` is run once for each set of weights.
            weights: parameters and buffers to override; None for the live ones.

        """
        if not isinstance(inputs, SharedBatch) or torch.is_grad_enabled():
            return self._run(inputs, weights)
        found = inputs.find(weights, self.autocast_dtype)
        if found is None:
            found = self._run(inputs, weights)
            inputs.keep(weights, self.autocast_dtype, found)
        return found

    def _run(self, inputs: Mapping[str, Any], weights: Parameters | None) -> Tensor:
        """One forward, or several of some rows each where memory does not suffice; never those of a training step."""

        def forward(rows: Mapping[str, Any]) -> Tensor:
            return self.call(lambda model: self.task.log_probs(model, rows), weights)

        whole = torch.is_grad_enabled() or not self.task.rows_stand_alone
        return forward(inputs) if whole else self._rows.run(inputs, forward)

    @torch.no_grad()
    def nll(self, inputs: Mapping[str, Any], layout: Layout, weights: Parameters | None = None) -> Tensor:
        """Code length of each sample in nats, [n], in eval mode."""
        with self.quiet():
            return -layout.total(self.log_probs(inputs, weights))


class SharedBatch(Inputs):
    """A batch that several scorers read; the probe runs it once for each set of weights and precision.

    It is a batch of model inputs like any other. What was found lives as long as the batch, and holds as long as the
    live weights stand still. A copy, ``dict(batch)``, shares nothing.
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        super().__init__(inputs)
        self._found: list[tuple[Parameters | None, torch.dtype | None, Tensor]] = []

    def find(self, weights: Parameters | None, dtype: torch.dtype | None) -> Tensor | None:
        """What :meth:`keep` was given for these very tensors, or None."""
        for others, precision, log_probs in self._found:
            if precision == dtype and _same_tensors(weights, others):
                return log_probs
        return None

    def keep(self, weights: Parameters | None, dtype: torch.dtype | None, log_probs: Tensor) -> None:
        """Remember the log-probabilities under ``weights``."""
        self._found.append((weights, dtype, log_probs))


def _same_tensors(a: Parameters | None, b: Parameters | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.keys() == b.keys() and all(a[name] is b[name] for name in a)


class _Holder(nn.Module):
    """Calls a function of ``model``, so that ``functional_call`` can override parameters around any use of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Tensor]) -> Tensor:
        return function(self.model)
