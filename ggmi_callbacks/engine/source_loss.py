"""Loss per token by source, of forwards that run anyway.

    nll(source) = sum_i nll_i / sum_i tokens_i      over the samples i of a source, nats per token

Weighted by their tokens, the losses of all sources make the loss of all samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.utilities.distributed import gather_all_tensors

from ggmi_callbacks.distributed import is_distributed, sum_over_ranks
from ggmi_callbacks.tasks import SAMPLE_KEY, CausalLM, Task

UNKNOWN = "unknown"
"""Source of the samples that name none."""


class SourceSums:
    """Sums by source of a stream, on the device; nothing here waits for it but :meth:`values` of several ranks.

    Args:
        names: of the sources, in the order of their codes; the code after the last one is of none.
        device: where code lengths are.

    Example:
        >>> import torch
        >>> sums = SourceSums(["human", "model"], torch.device("cpu"))
        >>> sums.add(torch.tensor([0, 1, 2]), torch.tensor([6.0, 3.0, 4.0]), torch.tensor([3, 1, 4]))
        >>> {name: float(value) for name, value in sums.values().items()}
        {'nll/human': 2.0, 'nll/model': 3.0, 'nll/unknown': 1.0}

    """

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        self._names = [*names, UNKNOWN] if names else []
        self.sums = torch.zeros(len(names) + 1, 3, dtype=torch.float64, device=device)
        """Nats, samples and targets of each source, [sources + 1, 3]."""

    def add(self, source: Tensor, nll: Tensor, tokens: Tensor) -> None:
        """Add samples with ``tokens`` targets [n], by the codes of their sources [n] and their code lengths [n]."""
        self.sums.index_add_(0, source, torch.stack([nll.double(), (tokens > 0).double(), tokens.double()], -1))

    def values(self) -> dict[str, Tensor]:
        """``nll/<source>``, NaN where there is none; empty without sources. Every rank must call it."""
        found: dict[str, Tensor] = {}
        for name, sums in zip(self._names, sum_over_ranks(self.sums), strict=False):
            found[name] = found[name] + sums if name in found else sums  # a source may be called "unknown"
        return {f"nll/{name}": sums[0] / sums[2] for name, sums in found.items()}

    def totals(self) -> Tensor:
        """Nats, samples and targets over all sources, [3]; every rank must call it."""
        return sum_over_ranks(self.sums.sum(0))


class SourceLoss:
    """Loss per token by source of one pass over an evaluation set, from the forwards of that pass.

    A sample counts once, whichever ranks have seen it and however often, as where a sampler fills its last batch up.

    Args:
        sources: name of each sample's source by id, or None, which counts as ``"unknown"``.
        task: how samples are found and scored; a causal language model by default.
        device: where the forwards run; of use where a rank of several may hear none.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from types import SimpleNamespace
        >>> class Even(nn.Module):  # all of two tokens are as likely, wherever it is asked
        ...     def forward(self, input_ids, labels):
        ...         return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 2))
        >>> model, tokens = Even(), torch.tensor([[0, 1, 1], [1, 0, 0]])
        >>> losses = SourceLoss(["human", "model"])
        >>> with torch.no_grad(), losses.listen(model):
        ...     _ = model(input_ids=tokens, labels=tokens, ggmi_sample=torch.tensor([0, 1]))
        >>> {name: round(value, 3) for name, value in losses.compute().items()}
        {'ggmi/nll/human': 0.693, 'ggmi/nll/model': 0.693}

    """

    def __init__(
        self, sources: Sequence[str | None], task: Task | None = None, device: torch.device | None = None
    ) -> None:
        self.sources, self.task = sources, CausalLM() if task is None else task
        # Ids, nats and targets, [3, n] each; the first of none at all, since NCCL gathers from its own devices alone.
        self._found = [torch.empty(3, 0, dtype=torch.float64, device=device)]

    def add(self, ids: Tensor, nll: Tensor, tokens: Tensor) -> None:
        """Take note of code lengths ``nll`` [n], nats, of the samples ``ids`` [n] with ``tokens`` targets [n]."""
        self._found.append(torch.stack([ids.to(nll.device).double(), nll.detach().double(), tokens.double()]))

    def hear(self, outputs: Any, inputs: Mapping[str, Any], ids: Tensor) -> None:
        """Take note of a forward: its ``outputs``, and the ``inputs`` of the samples ``ids`` [n], with labels."""
        layout = self.task.layout(inputs, ids.numel())
        nll = -layout.total(self.task.output_log_probs(outputs, inputs).detach())
        self.add(ids.flatten(), nll, layout.tokens)

    @contextmanager
    def listen(self, model: nn.Module) -> Iterator[SourceLoss]:
        """Inside, hear each forward of ``model`` that is called with ``labels`` and ids under ``"ggmi_sample"``.

        Forwards with gradient are those of training, which the engine hears.
        """
        heard: list[Any] = []

        def before(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            if torch.is_grad_enabled():
                return None
            ids = kwargs.pop(SAMPLE_KEY, None)
            heard.append(ids)
            return args, kwargs

        def after(module: nn.Module, args: Any, kwargs: dict[str, Any], outputs: Any) -> None:
            if torch.is_grad_enabled():
                return
            ids = heard.pop()
            if ids is not None and kwargs.get("labels") is not None:
                self.hear(outputs, kwargs, ids)

        first = model.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
        last = model.register_forward_hook(after, with_kwargs=True)
        try:
            yield self
        finally:
            first.remove()
            last.remove()

    def compute(self, prefix: str = "") -> dict[str, float]:
        """``<prefix>ggmi/nll/<source>`` of what was heard; every rank must call it.

        A sample whose loss is not finite is left out, and so is a source that was not met.

        Raises:
            ValueError: if ids lie outside ``sources``.

        """
        ids, nll, tokens = self._gathered()
        _, once = np.unique(ids, return_index=True)
        once = once[np.isfinite(nll[once]) & (tokens[once] > 0)]
        ids = ids[once].astype(np.int64)
        if len(ids) and (ids.min() < 0 or ids.max() >= len(self.sources)):
            raise ValueError(
                f"{SAMPLE_KEY!r} held id {ids.max()}, and `sources` names {len(self.sources)} samples: ids must be "
                "positions in the evaluation set."
            )
        names = np.array([UNKNOWN if (name := self.sources[i]) is None else name for i in ids], dtype=object)
        found, code = np.unique(names, return_inverse=True)
        means = np.bincount(code, nll[once]) / np.bincount(code, tokens[once]) if len(ids) else ()
        return {f"{prefix}ggmi/nll/{name}": float(mean) for name, mean in zip(found, means, strict=True)}

    def _gathered(self) -> np.ndarray[Any, Any]:
        """Ids, nats and targets of all ranks, [3, n]."""
        rows = torch.cat([found.to(self._found[-1].device) for found in self._found], 1)
        if is_distributed():
            rows = torch.cat(gather_all_tensors(rows.T.contiguous())).T
        return rows.cpu().numpy()
