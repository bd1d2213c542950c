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

    """

    def __init__(self, original: Callable[..., Tensor], weights: Callable[[], Tensor | None]) -> None:
        self.original = original
        self.weights = weights

    def __call__(self, logits: Tensor, labels: Tensor, vocab_size: int, **kwargs: Any) -> Tensor:
        """Cross-entropy of the next token, weighted; arguments as ``ForCausalLMLoss`` takes them."""
        weights = self.weights() if torch.is_grad_enabled() else None
        if weights is None:
            return self.original(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        shifted = kwargs.get("shift_labels")
        if shifted is None:
            shifted = F.pad(labels, (0, 1), value=IGNORE)[..., 1:]
        shifted = shifted.to(logits.device)
        nll = F.cross_entropy(
            logits.float().view(-1, vocab_size), shifted.reshape(-1), reduction="none", ignore_index=IGNORE
        ).view(shifted.shape)
        count = kwargs.get("num_items_in_batch")
        count = (shifted != IGNORE).sum() if count is None else torch.as_tensor(count, device=nll.device)
        return (nll * fit_columns(weights, nll.shape[1])).sum() / count
