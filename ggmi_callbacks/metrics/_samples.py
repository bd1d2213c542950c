"""States of metrics that have to keep their samples, because every one matters to every other."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from ggmi_callbacks.functional._checks import check_tensors
from ggmi_callbacks.functional._samples import check_rows
from ggmi_callbacks.metrics._base import InformationMetric, Value


class SampleMetric(InformationMetric):
    """Keeps the rows of its ``update`` arguments; memory grows with the samples.

    Subclasses name their states in ``_names`` and estimate from all rows in :meth:`_estimate`.
    """

    _names: ClassVar[tuple[str, ...]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self._names:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def _keep(self, **named: Tensor) -> None:
        """Append a batch [n, d], or [n] for one dimension, to the list state of each name, or change nothing."""
        check_tensors(**named)
        for name, x in named.items():
            if x.ndim not in (1, 2):
                raise ValueError(
                    f"Expected argument `{name}` to have shape [n, d], or [n] for one dimension, but got "
                    f"{list(x.shape)}; flatten all but the first dimension."
                )
        check_rows(**named)
        self._validate(**named)
        batch = {name: x[:, None] if x.ndim == 1 else x for name, x in named.items()}
        for name, x in batch.items():
            kept = getattr(self, name)
            if len(kept) and kept[-1].shape[-1] != x.shape[-1]:
                raise ValueError(
                    f"Expected argument `{name}` to have {kept[-1].shape[-1]} columns like the samples before but got "
                    f"{x.shape[-1]}; reset the metric, or use one for each kind of sample."
                )
        for name, x in batch.items():
            getattr(self, name).append(x)

    def compute(self) -> Value:
        """The estimate from all samples kept; NaN where there are none, or where one is not finite."""
        samples = self._samples()
        return self._unknown() if samples is None else self._finish(self._estimate(*samples))

    def _samples(self) -> list[Tensor] | None:
        """All rows of each state, synchronised or not; None where there are none, or where one is not finite."""
        states = [getattr(self, name) for name in self._names]
        if not all(len(state) for state in states):
            return None
        samples = [dim_zero_cat(state) for state in states]
        return samples if all(torch.isfinite(rows).all() for rows in samples) else None

    def _estimate(self, *samples: Tensor) -> Value:
        """Estimate from the rows [n, d] of each state; overridden by each metric."""
        raise NotImplementedError
