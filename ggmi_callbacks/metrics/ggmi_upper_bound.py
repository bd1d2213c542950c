"""Upper bound on GGMI, as a streaming metric."""

from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_pair, check_totals
from ggmi_callbacks.functional._interval import t_interval
from ggmi_callbacks.functional.bounds import GGMIUpperBoundTerms
from ggmi_callbacks.metrics._base import InformationMetric, Value
from ggmi_callbacks.metrics.ggmi import SPLITS, Split

# What update takes of each set, in the order of the moments; the last of an anchor may be left out.
_LENGTHS = {
    "anchor": ("first_nll", "final_nll", "prompt_nll", "cross_nll"),
    "synthetic": ("first_nll", "final_nll", "generator_nll"),
}
# Weights of these code lengths, of an anchor and of a synthetic sample, in each quantity.
_GGMI = ((1.0, -1.0, 0.0, 0.0), (-1.0, 1.0, 0.0))
_SLACK = ((1.0, 0.0, -1.0, 0.0), (-1.0, 0.0, 1.0))  # dH - H(S_anchor | p) + dI
_BOUND = ((2.0, -1.0, -1.0, 0.0), (-2.0, 1.0, 1.0))
_GIVEN_ANCHOR_WEIGHTS = ((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0))
_GIVEN_PROMPT = ((0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0))
_GIVEN_WEIGHTS = ((0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))
Weights = tuple[tuple[float, ...], tuple[float, ...]]


class GGMIUpperBound(InformationMetric):
    r"""Upper bound on GGMI through the information gain of the generator, in nats.

    .. math::
        GGMI \le \Delta I + 2 \Delta H + H(S_g \mid W) - H(S_a \mid W') - H(S_a \mid p)

    The theorem of :func:`~ggmi_callbacks.functional.ggmi_upper_bound`, with every entropy a code length summed over
    samples (their mixture version) and dI the code length of the synthetic set under its own generator. The state is
    one matrix of second moments for either set, so memory does not grow.

    As input to ``forward`` and ``update`` the metric accepts

    - ``first_nll`` (:class:`~torch.Tensor`): [n] code length of each sample before training on it
    - ``final_nll`` (:class:`~torch.Tensor`): [n] code length after training: under W' for anchors, W for synthetic
    - ``split``: ``"anchor"`` or ``"synthetic"``
    - ``generator_nll`` (:class:`~torch.Tensor`): [n] code length of each synthetic sample under the generator that
      sampled it; its sum is the information gain
    - ``prompt_nll`` (:class:`~torch.Tensor`): [n] code length of each anchor where the prompt is known; 0 where the
      prompt holds the anchor word for word
    - ``cross_nll`` (:class:`~torch.Tensor`, optional): [n] code length of each anchor under W; for ``a`` and
      ``epsilon`` alone

    As output of ``forward`` and ``compute`` the metric returns the bound, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``. It is NaN until both sets have been seen.
    :meth:`terms` returns GGMI itself, the slack, a and epsilon beside it.

    Args:
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
        >>> metric.update(tensor([5.0, 4.0]), tensor([2.0, 2.0]), split="anchor", prompt_nll=tensor([1.0, 1.0]))
        >>> metric.update(tensor([4.0, 4.0]), tensor([2.5, 2.5]), split="synthetic", generator_nll=tensor([1.0, 2.0]))
        >>> metric.compute()
        tensor(4.)
        >>> float(metric.terms().ggmi), float(metric.terms().slack)
        (2.0, 2.0)
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
        *,
        anchor_total: float | None = None,
        synthetic_total: float | None = None,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_totals(anchor_total=anchor_total, synthetic_total=synthetic_total)
        self.anchor_total = anchor_total
        self.synthetic_total = synthetic_total
        for split in SPLITS:
            size = 1 + len(_LENGTHS[split])
            self.add_state(f"{split}_moments", torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        first_nll: Tensor,
        final_nll: Tensor,
        *,
        split: Split,
        generator_nll: Tensor | None = None,
        prompt_nll: Tensor | None = None,
        cross_nll: Tensor | None = None,
    ) -> None:
        """Add the code lengths of a batch of one set."""
        check_choice("split", split, SPLITS)
        self._check_given(split, generator_nll=generator_nll, prompt_nll=prompt_nll, cross_nll=cross_nll)
        given = {
            "first_nll": first_nll,
            "final_nll": final_nll,
            "generator_nll": generator_nll,
            "prompt_nll": prompt_nll,
            "cross_nll": cross_nll,
        }
        check_pair(**{name: x for name, x in given.items() if x is not None})
        self._validate(**given)
        one, unknown = torch.ones_like(first_nll), torch.full_like(first_nll, torch.nan)
        lengths = [unknown if x is None else x for x in (given[name] for name in _LENGTHS[split])]
        rows = torch.stack([one, *lengths], dim=-1).double()  # [n, 1 + lengths]
        name = f"{split}_moments"
        setattr(self, name, getattr(self, name) + rows.mT @ rows)

    @staticmethod
    def _check_given(split: Split, **given: Tensor | None) -> None:
        """Refuse the third code length of the other set, and the lack of one's own."""
        wanted = {
            "anchor": ("prompt_nll", "the anchors where the prompt is known, 0 where it holds them word for word"),
            "synthetic": ("generator_nll", "the samples under the generator that sampled them"),
        }
        needed, whose = wanted[split]
        misplaced = [name for name, x in given.items() if x is not None and name not in _LENGTHS[split]]
        if given[needed] is None or misplaced:
            got = f"{', '.join(misplaced)} in its place" if misplaced else "none"
            raise ValueError(
                f"Expected argument `{needed}` with split='{split}' but got {got}; pass the code lengths of {whose}."
            )

    def compute(self) -> Value:
        """The bound from all samples seen."""
        return self._finish(self._estimate(_BOUND))

    def terms(self) -> GGMIUpperBoundTerms:
        """The bound, GGMI, the slack between them, a and epsilon; synchronised like ``compute``."""
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            anchor_weights, prompt, weights = (
                self._sum(parts)[0] for parts in (_GIVEN_ANCHOR_WEIGHTS, _GIVEN_PROMPT, _GIVEN_WEIGHTS)
            )
            return GGMIUpperBoundTerms(
                bound=self._estimate(_BOUND),
                ggmi=self._estimate(_GGMI),
                slack=self._estimate(_SLACK),
                a=anchor_weights / weights,
                epsilon=weights - prompt,
            )

    def _estimate(self, weights: Weights) -> Value:
        value, variance = self._sum(weights)
        if self.confidence is None:
            return value
        dof = torch.minimum(self.anchor_moments[0, 0], self.synthetic_moments[0, 0]) - 1
        return t_interval(value, variance, dof, self.confidence)

    def _sum(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """A weighted sum of code lengths over both whole sets, and its variance; the sets are independent."""
        parts = [
            _weighted_sum(self.anchor_moments, weights[0], self.anchor_total),
            _weighted_sum(self.synthetic_moments, weights[1], self.synthetic_total),
        ]
        value, variance = (torch.stack(terms).sum() for terms in zip(*parts, strict=True))
        return value, variance


def _weighted_sum(moments: Tensor, weights: tuple[float, ...], total: float | None) -> tuple[Tensor, Tensor]:
    """Weighted sum of the code lengths of ``total`` samples (by default those seen), and its variance."""
    w = moments.new_tensor(weights)
    n = moments[0, 0]
    size = n if total is None else torch.full_like(n, total)
    used = w != 0  # a code length that was never given is NaN, and of no matter where it is not used
    first = (w * torch.where(used, moments[0, 1:], 0.0)).sum()
    second = w @ torch.where(used[:, None] & used, moments[1:, 1:], 0.0) @ w
    spread = (second - first.square() / n).clamp_min(0.0) / (n - 1) / n
    return size * first / n, size.square() * torch.where(n > 1, spread, torch.inf)
