"""How many different samples there are in effect, per source, as a metric on embeddings."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_embeddings, check_sources
from ggmi_callbacks.functional.diversity import effective_diversity
from ggmi_callbacks.functional.matrix_entropy import Kernel, check_order
from ggmi_callbacks.metrics._base import Value
from ggmi_callbacks.metrics._samples import SampleMetric


class EffectiveDiversity(SampleMetric):
    r"""Effective number of different samples: the exponential of the matrix entropy of their embeddings.

    .. math::
        \exp S_\alpha(K / n) \in [1, n]

    One if all samples are alike, n if all are orthogonal; see
    :func:`~ggmi_callbacks.functional.effective_diversity`. It grows with the number of samples, so compare sources of
    like size. Embeddings are kept, so memory grows with the samples.

    As input to ``forward`` and ``update`` the metric accepts

    - ``embeddings`` (:class:`~torch.Tensor`): [n, d] embeddings of a batch of samples
    - ``source`` (:class:`~torch.Tensor`): [n] index of each sample's source in ``sources``; only with ``sources``

    As output of ``forward`` and ``compute`` the metric returns the effective number of samples, a 0-dim tensor or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``; with ``sources``, a dictionary of them by name
    (NaN for a source that has not been seen).

    Args:
        sources: names of the sources; by default all samples count as one.
        alpha: order of the entropy, in (0, inf].
        kernel: as in :func:`~ggmi_callbacks.functional.effective_diversity`.
        confidence: level of an interval over samples, or None.
        validate_args: refuse input that is not finite; the check waits for the device once an update.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range, shapes do not match, or sources are missing.

    Example:
        >>> import torch
        >>> metric = EffectiveDiversity(sources=["web", "model"])
        >>> metric.update(torch.eye(4), source=torch.zeros(4, dtype=torch.long))
        >>> metric.update(torch.eye(4)[[0, 0, 0, 1]], source=torch.ones(4, dtype=torch.long))
        >>> metric.compute()
        {'web': tensor(4...), 'model': tensor(1.7548)}
    """

    is_differentiable = True
    higher_is_better = True
    full_state_update = False
    plot_label = "effective number of samples"
    plot_reference = 1.0

    _names: ClassVar[tuple[str, ...]] = ("embeddings", "codes")

    embeddings: list[Tensor]
    codes: list[Tensor]

    def __init__(
        self,
        sources: Sequence[str] | None = None,
        alpha: float = 1.0,
        kernel: Kernel = "cosine",
        *,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        check_order(alpha)
        self.sources = None if sources is None else list(sources)
        self.alpha = alpha
        self.kernel = kernel

    def update(self, embeddings: Tensor, source: Tensor | None = None) -> None:
        """Keep the embeddings of a batch."""
        check_embeddings(embeddings=embeddings)
        self._check_source(source, len(embeddings))
        codes = torch.zeros(len(embeddings), dtype=torch.long, device=embeddings.device) if source is None else source
        self._keep(embeddings=embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), codes=codes)

    def _check_source(self, source: Tensor | None, n: int) -> None:
        if source is not None and self.sources is None:
            raise ValueError("Expected argument `source` to be None; name the `sources` when making the metric.")
        if source is None and self.sources is not None:
            raise ValueError(
                f"Expected argument `source` to have shape [{n}] but got None; pass the index of each sample's source "
                f"in {self.sources}."
            )
        if source is not None and self.sources is not None:
            check_sources(source, n, len(self.sources), in_range=self.validate_args)

    def compute(self) -> Value | dict[str, Value]:  # type: ignore[override]
        """Effective number of samples, per source if there are sources; NaN where none has been seen."""
        samples = self._samples()
        if self.sources is None:
            return self._unknown() if samples is None else self._estimate(samples[0])
        if samples is None:
            return {name: self._unknown() for name in self.sources}
        embeddings, codes = samples
        return {name: self._estimate(embeddings[codes[:, 0] == code]) for code, name in enumerate(self.sources)}

    def _estimate(self, *samples: Tensor) -> Value:
        (embeddings,) = samples
        if len(embeddings) == 0:
            return self._unknown()
        value = effective_diversity(embeddings, alpha=self.alpha, kernel=self.kernel, confidence=self.confidence)
        return self._finish(value)
