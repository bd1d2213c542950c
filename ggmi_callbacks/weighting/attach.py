"""An engine between a causal language model and whoever calls it.

with attach(engine, model):
    loss = model(**batch).loss       # scored, filtered and weighted on the way
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ggmi_callbacks.tasks import SAMPLE_KEY, Inputs
from ggmi_callbacks.weighting.loss import causal_lm, fit_columns, scale_gradient, weigh_loss

if TYPE_CHECKING:
    from ggmi_callbacks.engine import SampleEngine

_attached: WeakSet[nn.Module] = WeakSet()  # models that pass through an engine now


def attach(engine: SampleEngine, model: nn.Module | None = None) -> Attachment:
    """Act on every training forward of ``model`` inside a ``with`` block; see :class:`Attachment`.

    Args:
        engine: prepared on entering, if it has not been.
        model: the module that is called, the engine's own if not given; a data-parallel or compile wrapper around it
            will do.

    """
    return Attachment(engine, engine.probe.model if model is None else model)


class Attachment:
    """Context manager: inside, each training forward of ``model`` passes through ``engine``.

    A training forward is one in train mode, with gradient, called with keyword arguments among them ``labels``. After
    the block, however it ends, the model is as it was before.

    Packed rows (``position_ids`` without ``attention_mask``) are trained on with ``use_cache=False``: where Hugging
    Face's models make a cache they let the segments of a row see each other. Monitor, which changes nothing, refuses
    such a forward instead.

    Args:
        engine: prepared on entering, if it has not been.
        model: the module that is called: the model itself, or its data-parallel or compile wrapper.

    Raises:
        ValueError: on entering, if ``model`` is not the engine's; in a forward whose segments would see each other.
        RuntimeError: on entering, if an engine is attached to the model already; in the first backward-able forward
            whose loss the weights could not reach, because it was called without labels or its loss is made elsewhere.
            Weights are never silently off.

    """

    def __init__(self, engine: SampleEngine, model: nn.Module) -> None:
        self.engine, self.model = engine, model
        self._undo = ExitStack()
        self._reached = 0  # losses that have asked for their weights

    def __enter__(self) -> SampleEngine:
        inner = causal_lm(self.model)
        if inner is not causal_lm(self.engine.probe.model):
            raise ValueError(
                f"`model` ({type(inner).__name__}) is neither the engine's model "
                f"({type(self.engine.probe.model).__name__}) nor a wrapper around it: attach the engine to its own."
            )
        if inner in _attached:
            raise RuntimeError(
                f"this {type(inner).__name__} passes through an engine already, and a second one would score what the "
                "first leaves: end the first `with attach(...)` block, or take the other callback out."
            )
        with ExitStack() as undo:
            _attached.add(inner)
            undo.callback(_attached.discard, inner)
            if not self.engine.prepared:
                self.engine.prepare()
            undo.callback(self.model.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            undo.callback(self.model.register_forward_hook(self._after, with_kwargs=True).remove)
            if self.engine.policy.acts:
                undo.callback(weigh_loss(self.model, self._weights, self._count))
            self._undo = undo.pop_all()
        return self.engine

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    def _trains(self, module: nn.Module) -> bool:
        return module.training and torch.is_grad_enabled() and not self.engine.probe.active

    # A compiled graph must hold none of what follows: it would be traced once, with the first batch's numbers.

    @torch.compiler.disable
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._trains(module):
            return args, {key: value for key, value in kwargs.items() if not key.startswith("ggmi_")}
        if args or kwargs.get("labels") is None:
            raise RuntimeError(
                "GGMI follows training forwards called with keyword arguments and `labels`, as in "
                "`model(**batch).loss`, and this one was called without. A loss of your own has to be known sample by "
                "sample: `engine.observe(batch)` and `engine.mean(losses)` in a loop, `sample_loss=` of Lightning's "
                "GGMICallback."
            )
        self._reached = 0
        return args, self._apart(self.engine.observe(kwargs), kwargs.get(SAMPLE_KEY))

    @torch.compiler.disable
    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        if not self._trains(module):
            return
        if self.engine.policy.acts and not self._reached:
            raise RuntimeError(
                f"{type(module).__name__} made its loss without `loss_function`, so weights did not act."
            )
        if self.engine.wants_log_probs:
            with self.engine.budget.spend("record"):
                self.engine.record_log_probs(self.engine.probe.task.output_log_probs(outputs, kwargs))
        logits, weights = getattr(outputs, "logits", None), self.engine.weights
        if weights is not None and logits is not None and logits.requires_grad:
            # The model's own loss has its weights already; a loss that is made of the logits gets them here.
            outputs.logits = scale_gradient(logits, fit_columns(weights, logits.shape[1])[..., None])

    @torch.compiler.disable
    def _weights(self) -> Tensor | None:
        self._reached += 1
        return self.engine.weights

    @torch.compiler.disable
    def _count(self) -> Tensor | None:
        return self.engine.targets

    def _apart(self, inputs: Inputs, ids: Tensor | None) -> Inputs:
        """``inputs`` of a forward in which packed segments do not see each other.

        Hugging Face looks for segments in ``position_ids`` only if there is no mask and no cache, and a cache is made
        by default, in training too.
        """
        if inputs.get("position_ids") is None or inputs.get("attention_mask") is not None:
            return inputs
        if inputs.get("past_key_values") is None:
            if not self._makes_cache(inputs):
                return inputs
            if self.engine.policy.acts:
                return {**inputs, "use_cache": False}
            if ids is None or ids.numel() <= len(inputs["labels"]):  # as many rows as samples
                return inputs
        raise ValueError(
            "packed samples (`position_ids` without `attention_mask`) see each other in a forward with a cache: pass "
            "`use_cache=False` and no `past_key_values`; training has no use for them."
        )

    def _makes_cache(self, inputs: Inputs) -> bool:
        inner, asked = causal_lm(self.model), inputs.get("use_cache")
        if not (getattr(getattr(inner, "config", None), "use_cache", False) if asked is None else asked):
            return False
        return not any(getattr(m, "gradient_checkpointing", False) for m in inner.modules())  # which leaves it out
