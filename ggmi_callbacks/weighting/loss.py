"""How weights reach a loss that somebody else computes.

    L = sum_i w_i sum_t nll_it / N,   N that of the batch before anything was dropped

Two ways, both exact in the gradient. Where the per-token terms can be had before they are summed, they are multiplied
(:class:`WeightedCausalLMLoss`, or ``log_probs * w``): the loss that is logged is the weighted one. Where a loss is
made of them that cannot be opened (label smoothing, DFT), the *gradient* is multiplied where it passes through them
(:func:`scale_gradient`): right for every loss that is a sum over tokens, and its logged value is the unweighted one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ggmi_callbacks.tasks import IGNORE


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(weights)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return grad * weights.to(grad.dtype), None


def scale_gradient(values: Tensor, weights: Tensor) -> Tensor:
    """Return ``values`` unchanged; their gradient is multiplied by ``weights``, which broadcast against them.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> scale_gradient(x, torch.tensor([0.5, 2.0])).sum().backward()
        >>> x.grad
        tensor([0.5000, 2.0000])

    """
    return _ScaleGradient.apply(values, weights)


def fit_columns(weights: Tensor, columns: int) -> Tensor:
    """Weights [B, 1] or [B, T - 1] for ``columns`` = T positions, whose last one predicts nothing."""
    return F.pad(weights, (0, 1)) if 1 < weights.shape[1] == columns - 1 else weights


class WeightedCausalLMLoss:
    """Stands in for a Hugging Face model's ``loss_function`` while weights are other than one.

    Args:
        original: the model's own ``loss_function``, called whenever there are no weights.
        weights: returns those of the current batch, [B, T - 1] or [B, 1], or None.
        count: returns N, or None for what the caller passes as ``num_items_in_batch`` (else the targets in the batch).

    """

    def __init__(
        self,
        original: Callable[..., Tensor],
        weights: Callable[[], Tensor | None],
        count: Callable[[], Tensor | None] = lambda: None,
    ) -> None:
        self.original, self.weights, self.count = original, weights, count
        self.calls = 0
        """Eager calls with gradient: whether weights reached a loss at all."""
        self._called = False

    def __call__(self, logits: Tensor, labels: Tensor, vocab_size: int, **kwargs: Any) -> Tensor:
        """Cross-entropy of the next token, weighted; arguments as ``ForCausalLMLoss`` takes them."""
        if not torch.is_grad_enabled():
            return self.original(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        self._called = True
        if not torch.compiler.is_compiling():  # a compiled graph would be made anew for each number
            self.calls += 1
        weights, count = self.weights(), kwargs.get("num_items_in_batch")
        count = self.count() if count is None else count
        if weights is None:
            kwargs["num_items_in_batch"] = count
            return self.original(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        shifted = kwargs.get("shift_labels")
        if shifted is None:
            shifted = F.pad(labels, (0, 1), value=IGNORE)[..., 1:]
        shifted = shifted.to(logits.device)
        nll = F.cross_entropy(
            logits.float().view(-1, vocab_size), shifted.reshape(-1), reduction="none", ignore_index=IGNORE
        ).view(shifted.shape)
        count = (shifted != IGNORE).sum() if count is None else torch.as_tensor(count, device=nll.device)
        return (nll * fit_columns(weights, nll.shape[1])).sum() / count

    def take_called(self) -> bool:
        """Whether a loss with gradient was made here since this was last asked, compiled or not."""
        called, self._called = self._called, False
        return called


def causal_lm(model: Any) -> Any:
    """The Hugging Face model inside data-parallel and adapter wrappers, the one that makes the loss."""
    while True:
        if hasattr(model, "get_base_model"):  # peft
            model = model.get_base_model()
        elif hasattr(model, "module") and not hasattr(model, "loss_function"):  # data parallel
            model = model.module
        else:
            return getattr(model, "_orig_mod", model)  # torch.compile


def weigh_loss(
    model: Any, weights: Callable[[], Tensor | None], count: Callable[[], Tensor | None] = lambda: None
) -> Callable[[], None]:
    """Make ``model``'s own loss the weighted one; returns a function that undoes it.

    Args:
        model: a Hugging Face causal language model, wrapped or not.
        weights: see :class:`WeightedCausalLMLoss`.
        count: see :class:`WeightedCausalLMLoss`.

    Raises:
        ValueError: if the model's loss is weighted already, or is not the causal language-model loss, which alone can
            be weighted exactly.

    """
    inner = causal_lm(model)
    original: Any = getattr(inner, "loss_function", None)
    if isinstance(original, WeightedCausalLMLoss):
        raise ValueError(
            f"the loss of this {type(inner).__name__} is weighted already: leave the other `attach` block, or take the "
            "other callback off."
        )
    if getattr(original, "__name__", "") != "ForCausalLMLoss":
        raise ValueError(
            f"{type(inner).__name__} uses the loss {original!r}, which cannot be weighted exactly: only the causal "
            "language-model loss of Hugging Face models can. Use Monitor, or return per-sample losses."
        )
    before = vars(inner).get("_loss_function")
    inner.loss_function = WeightedCausalLMLoss(original, weights, count)

    def restore() -> None:
        if before is None:
            del inner._loss_function
        else:
            inner.loss_function = before

    return restore
