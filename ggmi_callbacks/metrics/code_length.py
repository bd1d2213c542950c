"""Code length of sequences under a model, as a streaming metric."""

from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_log_probs
from ggmi_callbacks.functional.entropy import PER, Per, _code_length_compute, _code_length_update
from ggmi_callbacks.metrics._base import InformationMetric, Value


class CodeLength(InformationMetric):
    r"""Mean code length of sequences under a model, from the log-probabilities of their tokens, in nats.

    .. math::
        \hat L = \frac1B \sum_b \sum_t -m_{bt} \log p(y_{bt} \mid y_{b,<t})

    Of sequences that the model sampled itself, their entropy; of others an upper bound on it; see
    :func:`~ggmi_callbacks.functional.code_length`. The state is nine running sums, however long the run.

    As input to ``forward`` and ``update`` the metric accepts

    - ``log_probs`` (:class:`~torch.Tensor`): [B, T] log-probability of each target token
    - ``mask`` (:class:`~torch.Tensor`): [B, T] true at the tokens that count; by default all. T may change from batch
      to batch

    As output of ``forward`` and ``compute`` the metric returns the code length, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``.

    Args:
        per: ``"sample"``, ``"token"`` or ``"total"``.
        confidence: level of a closed-form interval over sequences, or None.
        validate_args: refuse positive log-probabilities and NaN; the check waits for the device.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If shapes do not match, ``per`` is unknown, or a log-probability is positive.

    Example:
        >>> from torch import tensor
        >>> metric = CodeLength(per="token")
        >>> metric.update(tensor([[-1.0, -2.0, -9.0]]), tensor([[True, True, False]]))
        >>> metric.update(tensor([[-1.0, -1.0]]))
        >>> metric.compute()
        tensor(1.2500)
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_label = "code length (nats)"

    sums: Tensor

    def __init__(
        self, per: Per = "sample", *, confidence: float | None = None, validate_args: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_choice("per", per, PER)
        self.per: Per = per
        self.plot_label = "code length (nats)" if per == "total" else f"code length (nats per {per})"
        self.add_state("sums", default=torch.zeros(3, 3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_probs: Tensor, mask: Tensor | None = None) -> None:
        """Add the token log-probabilities of a batch of sequences."""
        sums = _code_length_update(log_probs, mask)
        if self.validate_args:
            check_log_probs(mask, log_probs=log_probs)
        self.sums = self.sums + sums

    def compute(self) -> Value:
        """Code length of all sequences seen."""
        return self._finish(_code_length_compute(self.sums, self.per, self.confidence))
