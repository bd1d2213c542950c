"""How many different samples there are in effect, per source, as a metric on embeddings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from ggmi_callbacks.functional._interval import Interval
from ggmi_callbacks.functional.diversity import effective_diversity
from ggmi_callbacks.functional.matrix_entropy import Kernel, check_order
from ggmi_callbacks.metrics._base import InformationMetric, Value


class EffectiveDiversity(InformationMetric):
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
        self.add_state("embeddings", default=[], dist_reduce_fx="cat")
        self.add_state("codes", default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, source: Tensor | None = None) -> None:
        """Keep the embeddings of a batch."""
        if embeddings.ndim != 2:
            raise ValueError(
                f"Expected argument `embeddings` to have shape [n, d] but got {list(embeddings.shape)}; pool the "
                "hidden states of each sample to one vector first."
            )
        self._check_source(source, len(embeddings))
        self._validate(embeddings=embeddings)
        self.embeddings.append(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)))
        one = torch.zeros(len(embeddings), dtype=torch.long, device=embeddings.device)
        self.codes.append(one if source is None else source)

    def _check_source(self, source: Tensor | None, n: int) -> None:
        if self.sources is None:
            if source is not None:
                raise ValueError("Expected argument `source` to be None; name the `sources` when making the metric.")
            return
        if source is None or source.shape != (n,):
            got = None if source is None else list(source.shape)
            raise ValueError(f"Expected argument `source` to have shape [{n}] but got {got}; pass an index per sample.")
        if self.validate_args and not ((source >= 0) & (source < len(self.sources))).all():
            raise ValueError(
                f"Expected argument `source` to hold indices below {len(self.sources)} but got values in "
                f"[{int(source.min())}, {int(source.max())}]; they point into `sources`."
            )

    def compute(self) -> Value | dict[str, Value]:
        """Effective number of samples, per source if there are sources."""
        embeddings = dim_zero_cat(self.embeddings)
        if self.sources is None:
            return self._diversity(embeddings)
        codes = dim_zero_cat(self.codes)
        return {name: self._diversity(embeddings[codes == code]) for code, name in enumerate(self.sources)}

    def _diversity(self, embeddings: Tensor) -> Value:
        if len(embeddings) == 0:
            unknown = self._finish(embeddings.new_full((), torch.nan))
            return unknown if self.confidence is None else Interval(unknown, unknown, unknown)
        value = effective_diversity(embeddings, alpha=self.alpha, kernel=self.kernel, confidence=self.confidence)
        return self._finish(value)
