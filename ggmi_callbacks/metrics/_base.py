"""The one base of all information metrics: confidence, checks of values, null control and the plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from ggmi_callbacks._extras import extra
from ggmi_callbacks.functional._interval import Interval, Result, cast, check_confidence, unknown

Value: TypeAlias = Tensor | Interval
Plottable: TypeAlias = Value | Mapping[str, Value] | Sequence[Value] | Sequence[Mapping[str, Value]]


class InformationMetric(Metric):
    """A :class:`torchmetrics.Metric` whose value may come with an interval.

    Subclasses add their states, ``update`` and ``compute``; sums are kept in float64 whatever comes in, and
    ``compute`` hands its result through :meth:`_finish`. An ``update`` that is refused changes no state. Before any
    update the value is NaN, and torchmetrics warns.

    Args:
        confidence: None (default) for a 0-dim tensor, or the level in (0, 1) of an interval: ``compute`` then
            returns an :class:`~ggmi_callbacks.functional.Interval`, a 0-dim tensor that carries both ends.
        validate_args: refuse non-finite input with an error that says so. The check waits for the device once
            an update; switch it off in a training loop, and non-finite input shows as NaN.
        kwargs: see :class:`torchmetrics.Metric`.
    """

    is_differentiable: bool | None = False
    higher_is_better: bool | None = None
    full_state_update: bool | None = False
    plot_label: str = "information (nats)"
    plot_name: ClassVar[str | None] = None  # of a single value, where it is not that of the class
    plot_reference: ClassVar[float | None] = None  # a value worth a line, such as zero where the sign decides

    def __init__(self, *, confidence: float | None = None, validate_args: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_confidence(confidence)
        self.confidence = confidence
        self.validate_args = validate_args

    def _unknown(self) -> Value:
        """NaN, with an interval where one is asked for: the value as long as there is nothing to estimate from."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        return unknown(torch.zeros((), dtype=dtype, device=self.device), self.confidence)

    def _validate(self, **named: Tensor | None) -> None:
        """Refuse values that are not finite, if asked to validate."""
        if not self.validate_args:
            return
        for name, x in named.items():
            if x is not None and not torch.isfinite(x).all():
                raise ValueError(
                    f"Expected argument `{name}` to hold finite values but got {int((~torch.isfinite(x)).sum())} "
                    f"of {x.numel()} that are NaN or infinite; leave those samples out."
                )

    def _finish(self, result: Result) -> Result:
        """Cast a float64 result to the dtype of the metric, float32 or more (see ``set_dtype``)."""
        return cast(result, torch.promote_types(self.dtype, torch.float32))

    def null_control(self, seed: int = 0) -> Value:
        """Estimate the same quantity on data like those seen but for which the truth is zero.

        Args:
            seed: seed of the shuffle that destroys the dependence.

        Returns:
            What ``compute`` would return; its interval should cover zero.

        Raises:
            NotImplementedError: Where the states hold no data to build a null control from.
        """
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            return self._finish(self._null_control(seed))

    def _null_control(self, seed: int) -> Value:
        """The null control from synchronised states; overridden where there is one."""
        raise NotImplementedError(
            f"{type(self).__name__} has no null control: nothing it keeps can be shuffled to make the truth zero."
        )

    def plot(self, val: Plottable | None = None, ax: Any = None) -> tuple[Any, Any]:
        """Plot one value, one value per name, or a run of values; intervals become error bars or a band.

        Args:
            val: a result of ``compute`` or ``forward``, a mapping of names to such results, or a sequence of
                either, one per step. By default the result of ``compute``.
            ax: the matplotlib axes to draw on. By default a new figure.

        Returns:
            The figure and the axes.

        Raises:
            ValueError: If ``val`` is nothing of the above.
            ImportError: If matplotlib is missing.

        Example:
            >>> import torch
            >>> from ggmi_callbacks.metrics import WeightInformation
            >>> metric = WeightInformation(confidence=0.95)
            >>> run = [metric(3 + torch.rand(32), 2 + torch.rand(32)) for _ in range(5)]
            >>> figure, axes = metric.plot(run)
        """
        with extra("plot", "`plot`"):
            import matplotlib.pyplot as plt

        from ggmi_callbacks.metrics._plot import draw

        if ax is None:
            figure, ax = plt.subplots(figsize=(4.4, 3.0), layout="constrained")
        else:
            figure = ax.get_figure()
        draw(ax, self.compute() if val is None else val, self.plot_name or type(self).__name__)
        if self.plot_reference is not None:
            ax.axhline(self.plot_reference, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
        ax.set_ylabel(self.plot_label, fontsize=9)
        return figure, ax
