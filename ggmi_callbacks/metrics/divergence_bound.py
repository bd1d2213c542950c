"""How far real, generated and curated data lie apart, as a metric on embeddings."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_embeddings, check_positive
from ggmi_callbacks.functional._interval import unknown
from ggmi_callbacks.functional.divergence import (
    FOLDS,
    DivergenceTerms,
    add,
    shuffled,
    total_variation_lower_bound,
)
from ggmi_callbacks.metrics._base import Value
from ggmi_callbacks.metrics._samples import SampleMetric

Role = Literal["real", "generated", "synthetic"]
ROLES = ("real", "generated", "synthetic")


class DivergenceBound(SampleMetric):
    r"""The divergence part of the paper's bound on the risk, from below, by classifiers on embeddings.

    .. math::
        C \left(TV(D, D_M) + TV(D_M, D_{gen})\right)

    with D the law of the real data, D_M of the generator's raw output and D_gen of the curated set; see
    :func:`~ggmi_callbacks.functional.divergence_bound`. It says how large this part is at least. Embeddings are kept,
    so memory grows with the number of samples: subsample long runs (some thousand of each are enough).

    As input to ``forward`` and ``update`` the metric accepts

    - ``embeddings`` (:class:`~torch.Tensor`): [n, d] embeddings of a batch of samples
    - ``split``: which law they come from, ``"real"``, ``"generated"`` or ``"synthetic"``

    As output of ``compute`` the metric returns the bound, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``; NaN as long as one of the three has fewer than
    five samples. :meth:`terms` returns both of its terms, and TV(D, D_gen) beside them.

    Args:
        constant: C, the bound on the loss.
        confidence: level of a closed-form interval over samples, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range or shapes do not match.

    Example:
        >>> import torch
        >>> metric = DivergenceBound()
        >>> real, generated = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
        >>> metric.update(real, split="real")
        >>> metric.update(generated + 9, split="generated")
        >>> metric.update(generated - 9, split="synthetic")
        >>> metric.compute()
        tensor(2.)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_label = "divergence (TV, lower bound)"
    plot_reference = 0.0

    # One list for all roles: a rank that never meets one of them still takes part in the gathering.
    _names: ClassVar[tuple[str, ...]] = ("embeddings", "roles")

    embeddings: list[Tensor]
    roles: list[Tensor]

    def __init__(
        self,
        constant: float = 1.0,
        *,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_positive(constant=constant)
        self.constant = constant

    def update(self, embeddings: Tensor, split: Role) -> None:
        """Keep the embeddings of a batch."""
        check_choice("split", split, ROLES)
        check_embeddings(embeddings=embeddings)
        roles = torch.full((len(embeddings), 1), ROLES.index(split), device=embeddings.device)
        self._keep(embeddings=embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32)), roles=roles)

    def _estimate(self, *samples: Tensor) -> Value:
        return self._terms(*_sets(*samples)).bound

    def terms(self) -> DivergenceTerms:
        """The bound, its two terms and TV(D, D_gen); synchronised like ``compute``."""
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            samples = self._samples()
            return DivergenceTerms(*[self._unknown()] * 4) if samples is None else self._terms(*_sets(*samples))

    def _null_control(self, seed: int) -> Value:
        """Deal the samples of each pair of sets to the two at random: all laws are then alike."""
        samples = self._samples()
        if samples is None:
            return self._unknown()
        generator = torch.Generator().manual_seed(seed)
        real, generated, synthetic = _sets(*samples)

        def dealt(x: Tensor, y: Tensor) -> Value:
            rows = torch.randperm(len(x) + len(y), generator=generator).to(x.device)
            first, second = shuffled(torch.cat((x, y)))[rows].split((len(x), len(y)))
            return self._total_variation(first, second)

        return add(dealt(real, generated), dealt(generated, synthetic), self.constant)

    def _terms(self, real: Tensor, generated: Tensor, synthetic: Tensor) -> DivergenceTerms:
        first, second = self._total_variation(real, generated), self._total_variation(generated, synthetic)
        bound = add(first, second, self.constant)
        return DivergenceTerms(bound, first, second, self._total_variation(real, synthetic))

    def _total_variation(self, x: Tensor, y: Tensor) -> Value:
        if min(len(x), len(y)) >= FOLDS:
            return total_variation_lower_bound(x, y, confidence=self.confidence)
        return unknown(x, self.confidence)


def _sets(embeddings: Tensor, roles: Tensor) -> tuple[Tensor, ...]:
    """Embeddings of real, generated and synthetic samples."""
    return tuple(embeddings[roles[:, 0] == code] for code in range(len(ROLES)))
