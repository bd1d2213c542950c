"""Mutual information of paired samples, as a metric."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_positive
from ggmi_callbacks.functional.mutual_information import (
    ESTIMATORS,
    MutualInformationChoice,
    MutualInformationEstimator,
    choose_estimator,
    mutual_information,
)
from ggmi_callbacks.metrics._base import Value
from ggmi_callbacks.metrics._samples import SampleMetric

DIFFERENTIABLE = ("gaussian", "matrix")


class DifferentiableEstimator:
    """``is_differentiable`` of a metric some of whose estimators have a gradient."""

    def __get__(self, metric: Any, owner: type) -> bool:
        """False for the class, whose default estimator has none."""
        return metric is not None and metric.estimator in DIFFERENTIABLE


class MutualInformation(SampleMetric):
    r"""Mutual information I(x; y) of paired samples, in nats.

    .. math::
        I(x; y) = E \log \frac{p(x, y)}{p(x)\, p(y)}

    See :func:`~ggmi_callbacks.functional.mutual_information`, whose arguments these are, for what each estimator is
    meant for. Samples are kept, so memory grows with them; ``forward`` estimates on each batch as well, so use
    ``update`` where only the value of all samples matters.

    As input to ``forward`` and ``update`` the metric accepts

    - ``x`` (:class:`~torch.Tensor`): [n, d_x] or [n] samples
    - ``y`` (:class:`~torch.Tensor`): [n, d_y] or [n] samples, row by row

    As output of ``forward`` and ``compute`` the metric returns I(x; y), a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``. :meth:`choice` says what ``"auto"`` chooses for
    the samples kept, and why; :meth:`null_control` repeats the estimate on shuffled pairs.

    Args:
        estimator: ``"auto"``, ``"copula"``, ``"ksg"``, ``"canonical_ksg"``, ``"infonce"``, ``"gaussian"`` or
            ``"matrix"``; the last two are differentiable.
        k: number of neighbours.
        seed: seed of what is random in an estimator.
        progress: show a progress bar while a critic is trained.
        confidence: level of a closed-form interval over samples, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If shapes do not match or an argument is out of range.

    Example:
        >>> import torch
        >>> x, noise = torch.randn(2, 2000, generator=torch.Generator().manual_seed(3))
        >>> metric = MutualInformation(confidence=0.95)
        >>> for rows in torch.arange(2000).split(500):
        ...     metric.update(x[rows], 0.6 * x[rows] + 0.8 * noise[rows])  # I = -log(0.8) = 0.223
        >>> value, low, high = metric.compute()
        >>> bool(low < 0.223 < high)
        True
        >>> metric.choice().estimator
        'copula'
        >>> bool(metric.null_control().low <= 0)
        True
    """

    is_differentiable = DifferentiableEstimator()
    higher_is_better = None
    full_state_update = False
    plot_label = "mutual information $I(x; y)$ (nats)"
    plot_reference = 0.0

    _names: ClassVar[tuple[str, ...]] = ("x", "y")

    x: list[Tensor]
    y: list[Tensor]

    def __init__(
        self,
        estimator: MutualInformationEstimator = "auto",
        k: int = 5,
        *,
        seed: int = 0,
        progress: bool = True,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_choice("estimator", estimator, ESTIMATORS)
        check_positive(k=k)
        self.estimator: MutualInformationEstimator = estimator
        self.k = k
        self.seed = seed
        self.progress = progress
        if estimator == "matrix":
            self.plot_label = "matrix-based information (nats, relative)"

    def update(self, x: Tensor, y: Tensor) -> None:
        """Keep a batch of pairs."""
        self._keep(x=x, y=y)

    def choice(self) -> MutualInformationChoice:
        """What ``"auto"`` chooses for the samples kept on this rank, why, and all estimates that it tried.

        Raises:
            ValueError: If there is no sample, or one that is not finite.
        """
        samples = self._samples()
        if samples is None:
            raise ValueError("Expected finite samples to choose an estimator for but got none; call `update` first.")
        return choose_estimator(*samples, k=self.k, seed=self.seed, progress=self.progress)

    def _null_control(self, seed: int) -> Value:
        """The same estimate with the rows of y in random order."""
        samples = self._samples()
        if samples is None:
            return self._unknown()
        x, y, *rest = samples
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed)).to(y.device)
        return self._estimate(x, y[order], *rest)

    def _estimate(self, *samples: Tensor) -> Value:
        x, y = samples
        return mutual_information(x, y, **self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            "estimator": self.estimator,
            "k": self.k,
            "seed": self.seed,
            "progress": self.progress,
            "confidence": self.confidence,
        }
