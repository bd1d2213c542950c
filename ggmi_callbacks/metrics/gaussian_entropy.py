"""Differential entropy of Gaussian samples, as a streaming metric."""

from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.functional.entropy import _gaussian_entropy_compute, _gaussian_entropy_update
from ggmi_callbacks.metrics._base import InformationMetric, Value


class GaussianEntropy(InformationMetric):
    r"""Differential entropy of Gaussian samples, unbiased, in nats.

    .. math::
        h = \frac d2 \log(2 \pi e) + \frac12 \log\det\Sigma

    For data that are not Gaussian, an upper bound; see :func:`~ggmi_callbacks.functional.gaussian_entropy`. The state
    is one matrix of sums [d + 1, d + 1] in float64, so memory does not grow with the run (a mean some million times
    the standard deviation would cost digits).

    As input to ``forward`` and ``update`` the metric accepts

    - ``x`` (:class:`~torch.Tensor`): [n, d] or [n] samples

    As output of ``forward`` and ``compute`` the metric returns the entropy, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``.

    Args:
        confidence: level of an interval with the exact variance under the Gaussian, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If the shape is wrong, or the covariance of all samples is singular when computed.

    Example:
        >>> import torch
        >>> metric = GaussianEntropy()
        >>> for batch in torch.randn(40, 100, 3, generator=torch.Generator().manual_seed(0)):
        ...     metric.update(batch)
        >>> round(float(metric.compute()), 1)  # 3/2 log(2 pi e) = 4.257
        4.3
    """

    is_differentiable = True
    higher_is_better = None
    full_state_update = False
    plot_label = "entropy of the Gaussian (nats)"

    sums: Tensor

    def __init__(self, *, confidence: float | None = None, validate_args: bool = True, **kwargs: Any) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        # Becomes [d + 1, d + 1] with the first batch.
        self.add_state("sums", default=torch.zeros(1, 1, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor) -> None:
        """Add a batch of samples."""
        sums = _gaussian_entropy_update(x)
        self._validate(x=x)
        if self.sums.shape != sums.shape and len(self.sums) > 1:
            raise ValueError(
                f"Expected argument `x` to have {len(self.sums) - 1} columns like the samples before but got "
                f"{len(sums) - 1}; reset the metric, or use one for each kind of sample."
            )
        self.sums = self.sums + sums

    def compute(self) -> Value:
        """Entropy of the Gaussian with the covariance of all samples seen."""
        if len(self.sums) == 1 or not torch.isfinite(self.sums).all():
            return self._unknown()
        return self._finish(_gaussian_entropy_compute(self.sums, self.confidence))
