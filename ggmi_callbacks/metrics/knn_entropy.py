"""Differential entropy from nearest neighbours, as a metric."""

from typing import Any, ClassVar

from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive
from ggmi_callbacks.functional.entropy import knn_entropy
from ggmi_callbacks.metrics._base import Value
from ggmi_callbacks.metrics._samples import SampleMetric


class KNNEntropy(SampleMetric):
    r"""Kozachenko-Leonenko estimate of the differential entropy, in nats.

    .. math::
        \hat h = \psi(n) - \psi(k) + \log V_d + \frac dn \sum_i \log \varepsilon_i

    with the distance of each sample to its k-th neighbour; see :func:`~ggmi_callbacks.functional.knn_entropy` for
    where it holds. Samples are kept, so memory grows with them, and ``compute`` takes O(n^2) time.

    As input to ``forward`` and ``update`` the metric accepts

    - ``x`` (:class:`~torch.Tensor`): [n, d] or [n] samples

    As output of ``forward`` and ``compute`` the metric returns the entropy, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``.

    Args:
        k: which neighbour.
        confidence: level of a closed-form interval over samples, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If the shape is wrong, ``k`` is not positive, there are at most k samples, or more than k of them
            coincide.

    Example:
        >>> import torch
        >>> metric = KNNEntropy()
        >>> for batch in torch.rand(40, 100, 2, generator=torch.Generator().manual_seed(0)):
        ...     metric.update(batch)
        >>> abs(float(metric.compute())) < 0.05  # a unit square: h = 0
        True
    """

    is_differentiable = True
    higher_is_better = None
    full_state_update = False
    plot_label = "differential entropy (nats)"

    _names: ClassVar[tuple[str, ...]] = ("x",)

    x: list[Tensor]

    def __init__(
        self, k: int = 5, *, confidence: float | None = None, validate_args: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_positive(k=k)
        self.k = k

    def update(self, x: Tensor) -> None:
        """Keep a batch of samples."""
        self._keep(x=x)

    def _estimate(self, *samples: Tensor) -> Value:
        (x,) = samples
        return knn_entropy(x, k=self.k, confidence=self.confidence)
