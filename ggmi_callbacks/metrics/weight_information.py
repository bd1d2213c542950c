"""What the weights store about their training set, as a streaming metric."""

from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_pair, check_totals, check_vector
from ggmi_callbacks.functional._loss_difference import CELLS, relabel
from ggmi_callbacks.functional.weight_information import (
    ESTIMATORS,
    Estimator,
    _weight_information_compute,
    _weight_information_update,
)
from ggmi_callbacks.metrics._base import InformationMetric, Value


def empty_state(estimator: Estimator) -> Tensor:
    """The running sums before any sample: a few numbers, whatever the length of the run."""
    return torch.zeros((3, 3) if estimator == "mixture" else (CELLS, 2), dtype=torch.float64)


def check_lengths(first_nll: Tensor | None, final_nll: Tensor | None) -> None:
    """Refuse anything but one or two vectors [n] of the same samples."""
    given = {name: x for name, x in (("first_nll", first_nll), ("final_nll", final_nll)) if x is not None}
    if not given:
        raise ValueError("Expected argument `first_nll`, `final_nll` or both but got neither; pass code lengths [n].")
    if len(given) == 2:
        check_pair(**given)
    else:
        check_vector(**given)


class DifferentiableMixture:
    """``is_differentiable`` of a metric whose mixture estimate has a gradient and whose counts have none."""

    def __get__(self, metric: Any, owner: type) -> bool:
        """True for the class, whose default estimator is the mixture."""
        return metric is None or metric.estimator == "mixture"


class WeightInformation(InformationMetric):
    r"""What the weights store about the samples they were trained on, I(S; W), in nats.

    .. math::
        I_{mix} = \sum_i -\log p(z_i \mid z_1 \dots z_{i-1}) + \log p(z_i \mid W)

    ``estimator="mixture"`` gives memorised plus generalised information, from first-visit and final code lengths.
    ``estimator="loss_difference"`` gives a loose lower bound on the fixed-law information, from twins. The two differ
    by orders of magnitude: see :func:`~ggmi_callbacks.functional.weight_information`, whose arguments these are.

    The state is a fixed handful of running sums (counts on a grid for twins), so memory does not grow with the run.

    As input to ``forward`` and ``update`` the metric accepts

    - ``first_nll`` (:class:`~torch.Tensor`): [n] code length of each sample before training on it; for
      ``"loss_difference"`` the loss of its twin that is not trained on
    - ``final_nll`` (:class:`~torch.Tensor`): [n] code length of the same sample, or its twin, after training on it

    In the mixture either may come without the other, as first visits may be long past when final lengths are known.
    Their means are then compared. The interval is unpaired and so wider, as the two are taken for independent.

    As output of ``forward`` and ``compute`` the metric returns I(S; W), a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``. It is NaN as long as either kind is
    missing.

    Args:
        estimator: ``"mixture"`` or ``"loss_difference"``.
        total: number of samples of S if those seen are a random subsample; by default the number seen (of
            first visits). Pass 1 for nats per sample, or per pair of twins.
        confidence: level of a closed-form interval over samples, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If the estimator is unknown, ``total`` is not positive, or shapes do not match.

    Example:
        >>> from torch import tensor
        >>> metric = WeightInformation()
        >>> metric.update(tensor([3.0, 2.5]), tensor([1.0, 1.5]))
        >>> metric.update(tensor([2.0]), tensor([1.5]))
        >>> metric.compute()
        tensor(3.5000)
    """

    is_differentiable = DifferentiableMixture()
    higher_is_better: bool | None = None
    full_state_update = False

    code_lengths: Tensor

    def __init__(
        self,
        estimator: Estimator = "mixture",
        total: float | None = None,
        *,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_choice("estimator", estimator, ESTIMATORS)
        check_totals(total=total)
        self.estimator: Estimator = estimator
        self.total = total
        name = "weight information" if estimator == "mixture" else "lower bound on $I(S; W)$"
        self.plot_label = f"{name} (nats{'/sample' if total == 1 else ''})"
        self.add_state("code_lengths", default=empty_state(estimator), dist_reduce_fx="sum")

    def update(self, first_nll: Tensor | None = None, final_nll: Tensor | None = None) -> None:
        """Add the code lengths of a batch."""
        check_lengths(first_nll, final_nll)
        self._validate(first_nll=first_nll, final_nll=final_nll)
        self.code_lengths = self.code_lengths + _weight_information_update(first_nll, final_nll, self.estimator)

    def compute(self) -> Value:
        """I(S; W) of all samples seen."""
        return self._finish(self._estimate(self.code_lengths))

    def _estimate(self, state: Tensor) -> Value:
        return _weight_information_compute(state, self.estimator, self.total, self.confidence)

    def _null_control(self, seed: int) -> Value:
        """Toss the coin of every pair of twins anew. Code lengths of a mixture hold nothing to shuffle."""
        if self.estimator == "mixture":
            return super()._null_control(seed)
        return self._estimate(relabel(self.code_lengths, seed))
