"""Matrix-based Renyi entropy, as a metric on embeddings."""

from typing import Any, ClassVar

from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive
from ggmi_callbacks.functional.matrix_entropy import Kernel, check_kernel, check_order, matrix_entropy
from ggmi_callbacks.metrics._base import Value
from ggmi_callbacks.metrics._samples import SampleMetric


class MatrixEntropy(SampleMetric):
    r"""Matrix-based Renyi entropy of samples under a kernel, in nats, within [0, log n].

    .. math::
        S_\alpha = \frac{1}{1 - \alpha} \log \mathrm{tr} A^\alpha, \qquad A_{ij} = k(x_i, x_j) / n

    and the von Neumann entropy for order one; see :func:`~ggmi_callbacks.functional.matrix_entropy`, whose arguments
    these are. Samples are kept, so memory grows with them, and ``compute`` with its square.

    As input to ``forward`` and ``update`` the metric accepts

    - ``x`` (:class:`~torch.Tensor`): [n, d] or [n] samples, such as embeddings

    As output of ``forward`` and ``compute`` the metric returns the entropy, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``.

    Args:
        alpha: order, in (0, inf]; 1 is the von Neumann entropy.
        kernel: ``"gaussian"``, ``"cosine"`` or a function of two sets of samples.
        bandwidth: of the Gaussian kernel, by default the median distance.
        max_exact: largest number of samples for exact eigenvalues; beyond, a stochastic trace whose standard error
            is part of the interval.
        confidence: level of an interval, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If the shape is wrong or an argument is out of range.

    Example:
        >>> import torch
        >>> metric = MatrixEntropy(kernel="cosine")
        >>> metric.update(torch.eye(4))
        >>> metric.update(torch.eye(4))
        >>> metric.compute()  # log 4
        tensor(1.3863)
    """

    is_differentiable = True
    higher_is_better = None
    full_state_update = False
    plot_label = "matrix entropy (nats)"
    plot_reference = 0.0

    _names: ClassVar[tuple[str, ...]] = ("x",)

    x: list[Tensor]

    def __init__(
        self,
        alpha: float = 1.0,
        kernel: Kernel = "gaussian",
        bandwidth: float | None = None,
        max_exact: int = 2048,
        *,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_order(alpha)
        check_kernel(kernel, bandwidth)
        check_positive(max_exact=max_exact)
        self.alpha = alpha
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.max_exact = max_exact

    def update(self, x: Tensor) -> None:
        """Keep a batch of samples."""
        self._keep(x=x)

    def _estimate(self, *samples: Tensor) -> Value:
        (x,) = samples
        return matrix_entropy(
            x,
            alpha=self.alpha,
            kernel=self.kernel,
            bandwidth=self.bandwidth,
            max_exact=self.max_exact,
            confidence=self.confidence,
        )
