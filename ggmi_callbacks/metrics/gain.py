"""Mean gain of the samples seen, with an interval, per source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

_NORMAL_95 = 1.959963984540054


class Gain(Metric):
    r"""Mean gain in nats per sample, :math:`\bar g = \frac{1}{n} \sum_i gain(z_i)`, over batches and ranks.

    Streaming: sums, sums of squares and counts per source; memory does not grow.

    As input to ``forward`` and ``update`` the metric accepts

    - ``gain`` (:class:`~torch.Tensor`): gains in nats, [n]; NaN where a sample was not scored
    - ``source`` (:class:`~torch.Tensor`, optional): code of each sample's source in ``[0, num_sources)``,
      long, [n]
    - ``weight`` (:class:`~torch.Tensor`, optional): its weight in the loss, [n]; zero means dropped

    As output of ``compute`` the metric returns the mean gain, a 0-dim tensor (NaN if nothing was scored).

    Args:
        num_sources: number of sources told apart.
        kwargs: see :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> metric = Gain(num_sources=2)
        >>> metric.update(torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 1.0]))
        >>> metric.compute()
        tensor(2.)
        >>> metric.summary()["kept"]
        tensor([1.0000, 0.5000])

    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    seen: Tensor
    kept: Tensor
    scored: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, num_sources: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_sources < 1:
            raise ValueError(f"`num_sources` must be at least 1, got {num_sources}.")
        for name in ("seen", "kept", "scored", "total", "squares"):
            self.add_state(name, torch.zeros(num_sources, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, gain: Tensor, source: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Add a batch."""
        if gain.dim() != 1:
            raise ValueError(f"`gain` must have shape [n], got {tuple(gain.shape)}.")
        value, scored = gain.double().nan_to_num(0.0), ~gain.isnan()
        source = torch.zeros_like(gain, dtype=torch.long) if source is None else source
        kept = torch.ones_like(value) if weight is None else (weight > 0).double()
        for name, amount in (
            ("seen", torch.ones_like(value)),
            ("kept", kept),
            ("scored", scored.double()),
            ("total", value),
            ("squares", value.square()),
        ):
            setattr(self, name, getattr(self, name).index_add(0, source, amount.to(getattr(self, name).dtype)))

    def compute(self) -> Tensor:
        """Mean gain of all scored samples."""
        return (self.total.sum() / self.scored.sum()).float()

    def summary(self) -> dict[str, Tensor]:
        """Return the states and what follows from them.

        Returns:
            ``mean``, ``low``, ``high`` (95 % normal interval), over all sources; ``gain`` and ``kept`` (share
            of the samples seen), per source [S]; ``coverage``, the share of the samples seen that were
            scored.

        """
        n = self.scored.sum()
        mean = self.total.sum() / n
        error = ((self.squares.sum() / n - mean.square()).clamp_min(0) / (n - 1)).sqrt() * _NORMAL_95
        return {
            "mean": mean.float(),
            "low": (mean - error).float(),
            "high": (mean + error).float(),
            "gain": (self.total / self.scored).float(),
            "kept": (self.kept / self.seen).float(),
            "coverage": (n / self.seen.sum()).float(),
        }
