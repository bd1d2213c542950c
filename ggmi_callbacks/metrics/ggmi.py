"""Generalisation gain via mutual information, as a streaming metric."""

from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_tensors, check_totals
from ggmi_callbacks.functional._loss_difference import relabel
from ggmi_callbacks.functional.ggmi import CONDITIONING, GGMITerms, _combine, _ggmi_samples, _ggmi_terms
from ggmi_callbacks.functional.weight_information import (
    ESTIMATORS,
    Estimator,
    _weight_information_samples,
    _weight_information_update,
)
from ggmi_callbacks.metrics._base import InformationMetric, Value
from ggmi_callbacks.metrics.weight_information import DifferentiableMixture, check_lengths, empty_state

Split = Literal["anchor", "synthetic"]
SPLITS = ("anchor", "synthetic")
Per = Literal["total", "sample", "token"]


class GGMI(InformationMetric):
    r"""Generalisation gain via mutual information of a synthetic training set over the anchors, in nats.

    .. math::
        GGMI = I(S_{anchor}; W') - I(S_{gen}; W)

    Positive when training on the synthetic set stores less that is specific to its sample than training on the anchors
    would. Both terms are estimated alike, see :func:`~ggmi_callbacks.functional.ggmi`; what they are conditioned on is
    in :attr:`conditioning`. The state is a fixed handful of running sums.

    As input to ``forward`` and ``update`` the metric accepts

    - ``first_nll`` (:class:`~torch.Tensor`): [n] code length of each sample before training on it; for
      ``"loss_difference"`` the loss of its twin that is not trained on
    - ``final_nll`` (:class:`~torch.Tensor`): [n] code length of the same sample, or its twin, after training: under
      W' for anchors, under W for synthetic samples. In the mixture either may come without the other.
    - ``split``: ``"anchor"`` or ``"synthetic"``, or a :class:`~torch.Tensor` [n] that is True at synthetic samples
    - ``tokens`` (:class:`~torch.Tensor`, optional): [n] target tokens of each sample, or their sum as a 0-dim tensor;
      counted with the first visits and needed for values per token alone

    As output of ``forward`` and ``compute`` the metric returns GGMI, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``. It is NaN until both sets have been seen.
    :meth:`terms` returns both terms, sizes, and all scales at once.

    Args:
        estimator: ``"mixture"`` or ``"loss_difference"``, for both terms.
        per: ``"total"``, or each term per ``"sample"`` or per ``"token"`` of its own set.
        anchor_total: number of anchors if those seen are a random subsample; by default the number seen.
        synthetic_total: number of synthetic samples if those seen are a random subsample; by default the number seen.
        confidence: level of a closed-form interval over samples, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range or shapes do not match.

    Example:
        >>> from torch import tensor
        >>> metric = GGMI()
        >>> metric.update(tensor([3.0, 2.0]), tensor([1.0, 1.0]), split="anchor", tokens=tensor([2, 1]))
        >>> metric.update(tensor([2.0, 2.0]), tensor([1.5, 1.0]), split="synthetic", tokens=tensor([3, 3]))
        >>> metric.compute()
        tensor(1.5000)
        >>> float(metric.terms().per_token)
        0.75
    """

    is_differentiable = DifferentiableMixture()
    higher_is_better = True
    full_state_update = False
    plot_reference = 0.0

    anchor_lengths: Tensor
    synthetic_lengths: Tensor
    tokens: Tensor

    def __init__(
        self,
        estimator: Estimator = "mixture",
        per: Per = "total",
        anchor_total: float | None = None,
        synthetic_total: float | None = None,
        *,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_choice("estimator", estimator, ESTIMATORS)
        check_choice("per", per, ("total", "sample", "token"))
        check_totals(anchor_total=anchor_total, synthetic_total=synthetic_total)
        self.estimator: Estimator = estimator
        self.per: Per = per
        self.anchor_total = anchor_total
        self.synthetic_total = synthetic_total
        self.conditioning = CONDITIONING[estimator]
        self.plot_label = "GGMI (nats)" if per == "total" else f"GGMI (nats per {per})"
        for split in SPLITS:
            self.add_state(f"{split}_lengths", default=empty_state(estimator), dist_reduce_fx="sum")
        self.add_state("tokens", default=torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        first_nll: Tensor | None = None,
        final_nll: Tensor | None = None,
        *,
        split: Split | Tensor,
        tokens: Tensor | None = None,
    ) -> None:
        """Add the code lengths of a batch of one set, or of both."""
        check_lengths(first_nll, final_nll)
        self._validate(first_nll=first_nll, final_nll=final_nll)
        self._check_sets(first_nll if final_nll is None else final_nll, split, tokens)
        if isinstance(split, str):
            self._add(split, first_nll, final_nll, tokens)
            return
        for name, rows in (("anchor", ~split.bool()), ("synthetic", split.bool())):
            self._add(name, *(None if x is None else x[rows] for x in (first_nll, final_nll, tokens)))

    def _add(self, split: str, first: Tensor | None, final: Tensor | None, tokens: Tensor | None) -> None:
        name = f"{split}_lengths"
        setattr(self, name, getattr(self, name) + _weight_information_update(first, final, self.estimator))
        if first is not None and len(first):
            count = self.tokens.new_tensor(torch.nan) if tokens is None else tokens.double().sum()
            share = torch.zeros_like(self.tokens, dtype=torch.float64)
            share[SPLITS.index(split)] = count
            self.tokens = self.tokens + share

    @staticmethod
    def _check_sets(lengths: Tensor | None, split: Split | Tensor, tokens: Tensor | None) -> None:
        assert lengths is not None  # check_lengths saw to it
        shapes = {"tokens": tokens} if isinstance(split, str) else {"tokens": tokens, "split": split}
        check_tensors(**shapes)
        if isinstance(split, str):
            check_choice("split", split, SPLITS)
        for name, x in shapes.items():
            if x is not None and x.shape != lengths.shape and not (x.ndim == 0 and isinstance(split, str)):
                raise ValueError(
                    f"Expected argument `{name}` to have the shape of the code lengths, {list(lengths.shape)}, but got "
                    f"{list(x.shape)}; pass one entry per sample."
                )

    def compute(self) -> Value:
        """GGMI of all samples seen."""
        return self._finish(self._estimate((self.anchor_lengths, self.synthetic_lengths)))

    def _estimate(self, states: tuple[Tensor, Tensor]) -> Value:
        scales: tuple[Tensor | float, Tensor | float] = (1.0, 1.0)
        if self.per == "total":
            scales = _ggmi_samples(states, self.estimator, (self.anchor_total, self.synthetic_total))
        elif self.per == "token":
            anchors, synthetic = (_weight_information_samples(state, self.estimator) for state in states)
            scales = (anchors / self.tokens[0], synthetic / self.tokens[1])
        return _combine(states, self.estimator, scales, self.confidence)

    def terms(self) -> GGMITerms:
        """Both terms, the sizes of both sets, and GGMI in total, per sample and per token; synchronised like compute.

        Returns:
            A :class:`~ggmi_callbacks.functional.GGMITerms` in float64.
        """
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            states = (self.anchor_lengths, self.synthetic_lengths)
            totals = (self.anchor_total, self.synthetic_total)
            return _ggmi_terms(states, self.tokens, self.estimator, totals, self.confidence)

    def _null_control(self, seed: int) -> Value:
        """Toss the coins of all twins anew. Code lengths of a mixture hold nothing to shuffle."""
        if self.estimator == "mixture":
            return super()._null_control(seed)
        return self._estimate((relabel(self.anchor_lengths, seed), relabel(self.synthetic_lengths, seed + 1)))
