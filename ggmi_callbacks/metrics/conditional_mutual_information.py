"""Conditional mutual information of samples, as a metric."""

from typing import Any, ClassVar

from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice
from ggmi_callbacks.functional._neighbours import nearest
from ggmi_callbacks.functional.mutual_information import (
    CONDITIONAL_ESTIMATORS,
    MutualInformationEstimator,
    conditional_mutual_information,
)
from ggmi_callbacks.metrics._base import Value
from ggmi_callbacks.metrics.mutual_information import MutualInformation


class ConditionalMutualInformation(MutualInformation):
    r"""Conditional mutual information I(x; y | z) of samples, in nats.

    .. math::
        I(x; y \mid z) = E \log \frac{p(x, y \mid z)}{p(x \mid z)\, p(y \mid z)}

    See :func:`~ggmi_callbacks.functional.conditional_mutual_information`. Samples are kept, so memory grows with them.

    As input to ``forward`` and ``update`` the metric accepts

    - ``x`` (:class:`~torch.Tensor`): [n, d_x] or [n] samples
    - ``y`` (:class:`~torch.Tensor`): [n, d_y] or [n] samples, row by row
    - ``z`` (:class:`~torch.Tensor`): [n, d_z] or [n] samples of what is conditioned on

    As output of ``forward`` and ``compute`` the metric returns I(x; y | z), a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``.

    Args:
        estimator: as in :class:`MutualInformation`, without ``"canonical_ksg"``.
        kwargs: as in :class:`MutualInformation`.

    Raises:
        ValueError: If shapes do not match or an argument is out of range.

    Example:
        >>> import torch
        >>> x, y, z = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
        >>> metric = ConditionalMutualInformation("ksg")
        >>> metric.update(x + z, y + z, z)  # all they share is z
        >>> bool(metric.compute() < 0.05)
        True
    """

    plot_label = "information $I(x; y | z)$ (nats)"

    _names: ClassVar[tuple[str, ...]] = ("x", "y", "z")

    z: list[Tensor]

    def __init__(self, estimator: MutualInformationEstimator = "auto", k: int = 5, **kwargs: Any) -> None:
        check_choice("estimator", estimator, CONDITIONAL_ESTIMATORS)
        super().__init__(estimator, k, **kwargs)

    def update(self, x: Tensor, y: Tensor, z: Tensor) -> None:  # type: ignore[override]
        """Keep a batch of samples."""
        self._keep(x=x, y=y, z=z)

    def _null_control(self, seed: int) -> Value:
        """The same estimate with each y replaced by that of the nearest other sample in z; no seed is needed.

        So y keeps its tie to z and loses that to x given z: the truth is zero, but for the distance to the neighbour.
        """
        samples = self._samples()
        if samples is None:
            return self._unknown()
        x, y, z = samples
        return self._estimate(x, y[nearest(z.double(), 1)], z)

    def _estimate(self, *samples: Tensor) -> Value:
        x, y, z = samples
        return conditional_mutual_information(x, y, z, **self._settings())
