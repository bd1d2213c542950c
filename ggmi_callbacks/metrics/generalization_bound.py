"""Bound on the generalisation error by what the weights store, as a streaming metric."""

from typing import Any

from ggmi_callbacks.functional._checks import check_choice
from ggmi_callbacks.functional._interval import Interval
from ggmi_callbacks.functional.bounds import generalization_bound
from ggmi_callbacks.functional.weight_information import ESTIMATORS, Estimator, _weight_information_compute
from ggmi_callbacks.metrics._base import Value
from ggmi_callbacks.metrics.weight_information import WeightInformation


class GeneralizationBound(WeightInformation):
    r"""Bound on the expected generalisation error by the information that the weights hold about their sample.

    .. math::
        \exp\left(-\tfrac L2 \log \tfrac 1\eta\right) \sqrt{\frac{2 \sigma^2 I(S; W)}{n}}

    I(S; W) is estimated as by :class:`WeightInformation`, whose ``forward`` and ``update`` this metric shares. The
    bound asks for the fixed-law information. ``"mixture"`` lies above it: a valid and looser bound, as far as its
    plug-in estimate is right. ``"loss_difference"`` lies below it; with sigma the full range of the loss and no
    contraction it bounds the error all the same (theorem of Wang and Mao for loss differences), and the losses are
    then those whose gap is bounded.

    As output of ``forward`` and ``compute`` the metric returns the bound in units of the loss, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``: the image of that of I(S; W).

    Args:
        estimator: ``"mixture"`` or ``"loss_difference"``.
        sigma: sub-Gaussian constant of the loss (``"mixture"``: half its range if bounded; ``"loss_difference"``: its
            range). By default that of a loss in [0, 1]: 1/2, or 1.
        layers: number L of contracting layers.
        eta: contraction factor of each, in (0, 1].
        confidence: level of a closed-form interval over samples, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range or shapes do not match.

    Example:
        >>> from torch import tensor
        >>> metric = GeneralizationBound()
        >>> metric.update(tensor([3.0, 2.5]), tensor([2.9, 2.2]))  # 0.2 nats per sample
        >>> metric.compute()
        tensor(0.3162)
    """

    higher_is_better = False
    plot_reference = 0.0

    def __init__(
        self,
        estimator: Estimator = "mixture",
        sigma: float | None = None,
        layers: int = 0,
        eta: float = 1.0,
        *,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        check_choice("estimator", estimator, ESTIMATORS)
        super().__init__(estimator, confidence=confidence, validate_args=validate_args, **kwargs)
        default = 0.5 if estimator == "mixture" else 1.0
        self.sigma = default if sigma is None else sigma
        self.layers = layers
        self.plot_label = "generalisation bound (units of loss)"
        self.eta = eta
        self._bound(self.code_lengths.new_zeros(()))  # refuses bad constants now, not at the end of the run

    def compute(self) -> Value:
        """The bound from all samples seen."""
        per_sample = _weight_information_compute(self.code_lengths, self.estimator, 1.0, self.confidence)
        return self._finish(self._bound(per_sample))

    def _bound(self, per_sample: Value) -> Value:
        if isinstance(per_sample, Interval):
            return Interval(*(self._bound(part) for part in per_sample))
        return generalization_bound(per_sample, 1, sigma=self.sigma, layers=self.layers, eta=self.eta)
