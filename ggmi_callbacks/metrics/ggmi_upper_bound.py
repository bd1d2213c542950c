"""Upper bound on GGMI, as a streaming metric."""

from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_pair, check_totals
from ggmi_callbacks.functional._interval import t_interval
from ggmi_callbacks.functional.bounds import GGMIUpperBoundTerms, best_parameter, check_parameter
from ggmi_callbacks.metrics._base import InformationMetric, Value
from ggmi_callbacks.metrics.ggmi import SPLITS, Split

# Weights [2, 3] of (first, final, third) of an anchor and of a synthetic sample in each quantity; the third of an
# anchor is its code length under W, that of a synthetic sample under its generator.
_GGMI = ((1.0, -1.0, 0.0), (-1.0, 1.0, 0.0))
_GAIN = ((1.0, 0.0, 0.0), (-1.0, 0.0, 1.0))  # dH + dI
_CROSS = ((0.0, 0.0, 1.0), (0.0, 0.0, 0.0))  # H(S_anchor | W)


class GGMIUpperBound(InformationMetric):
    r"""Upper bound on GGMI through the information gain of the generator, in nats.

    .. math::
        GGMI \le \Delta I + 2 \Delta H + H(S_g \mid W) - H(S_a \mid W') - a \, H(S_a \mid W)

    The theorem of :func:`~ggmi_callbacks.functional.ggmi_upper_bound`, with every entropy a code length summed over
    samples (their mixture version) and dI the code length of the synthetic set under its own generator. The state is
    one matrix of second moments for either set, so memory does not grow.

    As input to ``forward`` and ``update`` the metric accepts

    - ``first_nll`` (:class:`~torch.Tensor`): [n] code length of each sample before training on it
    - ``final_nll`` (:class:`~torch.Tensor`): [n] code length after training: under W' for anchors, W for synthetic
    - ``split``: ``"anchor"`` or ``"synthetic"``
    - ``generator_nll`` (:class:`~torch.Tensor`): [n] code length of each synthetic sample under the generator that
      sampled it; its sum is the information gain
    - ``cross_nll`` (:class:`~torch.Tensor`, optional): [n] code length of each anchor under W; for a > 0 and a* alone

    As output of ``forward`` and ``compute`` the metric returns the bound, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``. It is NaN until both sets have been seen.
    :meth:`terms` returns GGMI itself, the slack and a* beside it.

    Args:
        a: the free parameter of the theorem, at least 0.
        anchor_total: number of anchors if those seen are a random subsample; by default the number seen.
        synthetic_total: number of synthetic samples if those seen are a random subsample; by default the number seen.
        confidence: level of a closed-form interval over samples, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range, shapes do not match, or a needed code length is missing.

    Example:
        >>> from torch import tensor
        >>> metric = GGMIUpperBound()
        >>> metric.update(tensor([5.0, 4.0]), tensor([2.0, 2.0]), split="anchor", cross_nll=tensor([4.0, 4.0]))
        >>> metric.update(tensor([4.0, 4.0]), tensor([2.5, 2.5]), split="synthetic", generator_nll=tensor([1.0, 2.0]))
        >>> metric.compute()
        tensor(6.)
        >>> bound, ggmi, slack, a_star = metric.terms()
        >>> float(ggmi), float(slack), float(a_star)
        (2.0, 4.0, 0.5)
    """

    is_differentiable = True
    higher_is_better = None
    full_state_update = False
    plot_label = "upper bound on GGMI (nats)"
    plot_reference = 0.0

    anchor_moments: Tensor
    synthetic_moments: Tensor

    def __init__(
        self,
        a: float = 0.0,
        anchor_total: float | None = None,
        synthetic_total: float | None = None,
        *,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_parameter(a)
        check_totals(anchor_total=anchor_total, synthetic_total=synthetic_total)
        self.a = a
        self.anchor_total = anchor_total
        self.synthetic_total = synthetic_total
        for split in SPLITS:
            self.add_state(f"{split}_moments", torch.zeros(4, 4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        first_nll: Tensor,
        final_nll: Tensor,
        *,
        split: Split,
        generator_nll: Tensor | None = None,
        cross_nll: Tensor | None = None,
    ) -> None:
        """Add the code lengths of a batch of one set."""
        check_choice("split", split, SPLITS)
        self._check_third(split, generator_nll, cross_nll)
        third = generator_nll if split == "synthetic" else cross_nll
        given = {"first_nll": first_nll, "final_nll": final_nll, "generator_nll": generator_nll, "cross_nll": cross_nll}
        check_pair(**{name: x for name, x in given.items() if x is not None})
        self._validate(**given)
        if third is None:
            third = torch.full_like(first_nll, torch.nan)
        rows = torch.stack((torch.ones_like(first_nll), first_nll, final_nll, third), dim=-1).double()  # [n, 4]
        name = f"{split}_moments"
        setattr(self, name, getattr(self, name) + rows.mT @ rows)

    def _check_third(self, split: Split, generator_nll: Tensor | None, cross_nll: Tensor | None) -> None:
        if split == "synthetic" and (generator_nll is None or cross_nll is not None):
            raise ValueError(
                "Expected argument `generator_nll` and no `cross_nll` with split='synthetic'; pass the code lengths of "
                "the samples under the generator that sampled them."
            )
        if split == "anchor" and (generator_nll is not None or (cross_nll is None and self.a > 0)):
            raise ValueError(
                "Expected no argument `generator_nll` with split='anchor', and `cross_nll` if a > 0; pass the code "
                "lengths of the anchors under the weights trained on synthetic data."
            )

    def compute(self) -> Value:
        """The bound from all samples seen."""
        return self._finish(self._terms().bound)

    def terms(self) -> GGMIUpperBoundTerms:
        """The bound, GGMI, the slack between them and a* (NaN where there is none); synchronised like ``compute``."""
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            return self._terms()

    def _terms(self) -> GGMIUpperBoundTerms:
        ggmi, gain, cross = (self.anchor_moments.new_tensor(weights) for weights in (_GGMI, _GAIN, _CROSS))
        slack = gain - self.a * cross
        return GGMIUpperBoundTerms(
            bound=self._estimate(ggmi + slack),
            ggmi=self._estimate(ggmi),
            slack=self._estimate(slack),
            a_star=best_parameter(self._sum(gain)[0], self._sum(cross)[0]),
        )

    def _estimate(self, weights: Tensor) -> Value:
        value, variance = self._sum(weights)
        if self.confidence is None:
            return value
        dof = torch.minimum(self.anchor_moments[0, 0], self.synthetic_moments[0, 0]) - 1
        return t_interval(value, variance, dof, self.confidence)

    def _sum(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """A weighted sum [2, 3] of code lengths over both whole sets, and its variance."""
        sums = torch.stack((self.anchor_moments, self.synthetic_moments))  # [2, 4, 4]
        n = sums[:, 0, 0]
        totals = (self.anchor_total, self.synthetic_total)
        size = torch.stack(
            [seen if total is None else seen.new_tensor(total) for seen, total in zip(n, totals, strict=True)]
        )
        used = weights != 0  # a code length that was never given is NaN, and of no matter where it is not used
        first = (weights * torch.where(used, sums[:, 0, 1:], 0.0)).sum(-1)
        products = torch.where(used[:, :, None] & used[:, None, :], sums[:, 1:, 1:], 0.0)
        second = torch.einsum("si,sij,sj->s", weights, products, weights)
        spread = (second - first.square() / n).clamp_min(0.0) / (n - 1) / n
        variance = torch.where(n > 1, spread, torch.inf)
        return (size * first / n).sum(), (size.square() * variance).sum()
