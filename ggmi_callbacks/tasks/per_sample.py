"""A task for models that are no language models: anything with a loss for each sample.

Gain needs no more than a code length. A classifier's cross-entropy is one, in nats; so is a regressor's negative
log-likelihood (a squared error is one up to scale, and gains then are in its unit).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from ggmi_callbacks.tasks.base import Inputs, Layout, Task, mixed

BATCH_KEY = "ggmi_batch"
"""Key under which a batch that is no dictionary stands in the engine's inputs."""


class SampleLoss(Task):
    """Scores samples by ``loss(model, batch) -> [n]``.

    Args:
        loss: per-sample losses of a batch, nats, [n], differentiable. Every tensor in the batch has the sample as its
            first dimension. The engine calls it whenever it needs to, in eval mode: it must depend on the model and the
            batch alone, and change neither.

    Example:
        >>> import torch
        >>> from torch.nn import functional as F
        >>> task = SampleLoss(lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"], reduction="none"))
        >>> batch = {"x": torch.zeros(2, 3), "y": torch.tensor([0, 1])}
        >>> task.layout(batch).n
        2

    """

    def __init__(self, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        self.loss = loss

    def layout(self, inputs: Mapping[str, Any], n: int | None = None) -> Layout:
        """See :meth:`Task.layout`; the first tensor says how many samples there are."""
        first = next((leaf for leaf in pytree.tree_leaves(dict(inputs)) if isinstance(leaf, Tensor)), None)
        if first is None or first.dim() == 0:
            raise ValueError("the batch holds no tensor with the sample as its first dimension.")
        ones = torch.ones(len(first), dtype=torch.long, device=first.device)
        return Layout(ones[:, None].bool(), len(first), None, ones)

    def log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.log_probs`; one target a sample, [n, 1]."""
        losses = self.loss(model, unwrap_batch(inputs))
        n = self.layout(inputs).n
        if losses.shape != (n,):
            raise ValueError(
                f"the per-sample loss must have shape [{n}], one entry a sample, got {tuple(losses.shape)}: use "
                "reduction='none', and sum over what is within a sample."
            )
        return -losses[:, None]

    def output_log_probs(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.output_log_probs`; ``outputs`` are the per-sample losses."""
        return -outputs[:, None]

    def fingerprint(self, inputs: Mapping[str, Any], layout: Layout) -> Tensor:
        """See :meth:`Task.fingerprint`: of every tensor in the batch; random augmentation makes a sample another."""
        total = torch.zeros(layout.n, dtype=torch.long, device=layout.target.device)
        leaves = [leaf for leaf in pytree.tree_leaves(dict(inputs)) if isinstance(leaf, Tensor) and leaf.dim()]
        for number, leaf in enumerate(leaf for leaf in leaves if len(leaf) == layout.n):
            bits = leaf.detach().reshape(layout.n, -1).double().view(torch.long)
            total += mixed(bits, torch.arange(number, number + bits.shape[1], device=bits.device).expand_as(bits)).sum(
                1
            )
        return total.abs()

    def select(self, inputs: Mapping[str, Any], layout: Layout, weights: Tensor) -> tuple[Inputs, Tensor]:
        """See :meth:`Task.select`. A batch that loses every sample keeps its first one, at weight zero."""
        kept = weights.gt(0).nonzero().flatten()
        rows = kept if len(kept) else kept.new_zeros(1)
        return pytree.tree_map_only(
            Tensor, lambda t: t[rows] if t.dim() and len(t) == layout.n else t, dict(inputs)
        ), kept

    def fewest(self, model: nn.Module) -> int:
        """See :meth:`Task.fewest`: two where BatchNorm takes its statistics over the samples of a batch."""
        return 2 if any(isinstance(m, _BatchNorm) and m.training for m in model.modules()) else 0


def wrap_batch(batch: Any) -> Inputs:
    """``batch`` as the dictionary that the engine wants."""
    return dict(batch) if isinstance(batch, Mapping) else {BATCH_KEY: batch}


def unwrap_batch(inputs: Mapping[str, Any]) -> Any:
    """The batch that :func:`wrap_batch` was given."""
    return inputs.get(BATCH_KEY, inputs)
