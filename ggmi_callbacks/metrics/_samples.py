"""States of metrics that have to keep their samples, because every one matters to every other."""

from torch import Tensor

from ggmi_callbacks.functional._samples import check_rows
from ggmi_callbacks.metrics._base import InformationMetric


class SampleMetric(InformationMetric):
    """Keeps the rows of its ``update`` arguments; memory grows with the samples."""

    def _keep(self, **named: Tensor) -> None:
        """Append a batch [n, d], or [n] for one dimension, to the list state of each name."""
        for name, x in named.items():
            if x.ndim not in (1, 2):
                raise ValueError(
                    f"Expected argument `{name}` to have shape [n, d], or [n] for one dimension, but got "
                    f"{list(x.shape)}; flatten all but the first dimension."
                )
        check_rows(**named)
        self._validate(**named)
        for name, x in named.items():
            getattr(self, name).append(x[:, None] if x.ndim == 1 else x)
