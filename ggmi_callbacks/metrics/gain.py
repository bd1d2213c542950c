"""Mean gain of the samples seen, with an interval, per source."""

from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_sources, check_tensors
from ggmi_callbacks.functional._interval import Interval, mean_and_variance, t_interval
from ggmi_callbacks.metrics._base import InformationMetric, Value

_STATES = ("seen", "kept", "scored", "total", "squares")


class Gain(InformationMetric):
    r"""Mean gain in nats per sample, :math:`\bar g = \frac{1}{n} \sum_i gain(z_i)`, over batches and ranks.

    Streaming: sums, sums of squares and counts per source; memory does not grow.

    As input to ``forward`` and ``update`` the metric accepts

    - ``gain`` (:class:`~torch.Tensor`): gains in nats, [n]; NaN where a sample was not scored
    - ``source`` (:class:`~torch.Tensor`, optional): code of each sample's source in ``[0, num_sources)``,
      long, [n]
    - ``weight`` (:class:`~torch.Tensor`, optional): its weight in the loss, [n]; zero means dropped

    As output of ``compute`` the metric returns the mean gain, a 0-dim tensor (NaN if nothing was scored), or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``.

    Args:
        num_sources: number of sources told apart.
        confidence: level of a Student-t interval over samples, or None.
        validate_args: refuse a ``source`` out of range; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If ``num_sources`` is not positive, shapes do not match, or ``source`` is out of range.

    Example:
        >>> import torch
        >>> metric = Gain(num_sources=2)
        >>> gain, source = torch.tensor([1.0, 3.0, float("nan")]), torch.tensor([0, 1, 1])
        >>> metric.update(gain, source, weight=torch.tensor([1.0, 0.0, 1.0]))
        >>> metric.compute()
        tensor(2.)
        >>> metric.summary()["kept"]
        tensor([1.0000, 0.5000])

    """

    higher_is_better = True
    plot_label = "gain (nats per sample)"
    plot_reference = 0.0

    seen: Tensor
    kept: Tensor
    scored: Tensor
    total: Tensor
    squares: Tensor

    def __init__(
        self, num_sources: int = 1, *, confidence: float | None = None, validate_args: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        if num_sources < 1:
            raise ValueError(
                f"Expected argument `num_sources` to be at least 1 but got {num_sources}; leave it out without sources."
            )
        for name in _STATES:
            self.add_state(name, torch.zeros(num_sources, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, gain: Tensor, source: Tensor | None = None, weight: Tensor | None = None) -> None:
        """Add a batch."""
        self._check(gain, source, weight)
        gain = gain.detach()
        scored = ~gain.isnan()
        value = torch.where(scored, gain.double(), 0.0)
        source = torch.zeros_like(gain, dtype=torch.long) if source is None else source
        kept = torch.ones_like(value) if weight is None else (weight > 0).double()
        amounts = (torch.ones_like(value), kept, scored.double(), value, value.square())
        sums = [getattr(self, name).double().index_add(0, source, x) for name, x in zip(_STATES, amounts, strict=True)]
        self.seen, self.kept, self.scored, self.total, self.squares = sums

    def _check(self, gain: Tensor, source: Tensor | None, weight: Tensor | None) -> None:
        check_tensors(gain=gain, source=source, weight=weight)
        if gain.dim() != 1:
            raise ValueError(
                f"Expected argument `gain` to have shape [n], one number per sample, but got {list(gain.shape)}; "
                "average token gains over each sample first."
            )
        if source is not None:
            check_sources(source, len(gain), len(self.seen), in_range=self.validate_args)
        if weight is not None and weight.shape != gain.shape:
            raise ValueError(
                f"Expected argument `weight` to have shape {list(gain.shape)}, one number per sample, but got "
                f"{list(weight.shape)}; pass the weight of each sample in the loss."
            )

    def compute(self) -> Value:
        """Mean gain of all scored samples."""
        return self._finish(self._mean() if self.confidence is None else self._interval(self.confidence))

    def summary(self) -> dict[str, Tensor]:
        """Return the states and what follows from them.

        Returns:
            ``mean``, ``low``, ``high`` (95 % Student-t interval), over all sources; ``gain`` and ``kept`` (share of
            the samples seen), per source [S]; ``coverage``, the share of the samples seen that were scored.

        """
        mean, low, high = self._interval(0.95)
        return {
            "mean": mean.float(),
            "low": low.float(),
            "high": high.float(),
            "gain": (self.total / self.scored).float(),
            "kept": (self.kept / self.seen).float(),
            "coverage": (self.scored.sum() / self.seen.sum()).float(),
        }

    def _mean(self) -> Tensor:
        return self.total.double().sum() / self.scored.double().sum()

    def _interval(self, confidence: float) -> Interval:
        sums = torch.stack([state.double().sum() for state in (self.scored, self.total, self.squares)])
        mean, variance = mean_and_variance(sums)
        return t_interval(mean, variance, sums[0] - 1, confidence)
