"""What a generator adds beyond its prompt, as a metric."""

from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_embeddings, check_log_probs
from ggmi_callbacks.functional._embedding_gain import (
    EMBEDDING_ESTIMATORS,
    EmbeddingEstimator,
    embedding_information_gain,
)
from ggmi_callbacks.functional._interval import moments
from ggmi_callbacks.functional.information_gain import _code_length, _mean_compute
from ggmi_callbacks.functional.matrix_entropy import Kernel
from ggmi_callbacks.metrics._base import InformationMetric, Value
from ggmi_callbacks.metrics._samples import SampleMetric

GainEstimator = Literal["log_probs", "reference", "matrix", "knn", "gaussian"]
GAIN_ESTIMATORS = ("log_probs", "reference", *EMBEDDING_ESTIMATORS)


class InformationGain(InformationMetric):
    r"""Information gain of a generator, dI: what its outputs hold beyond their prompts, in nats per output.

    .. math::
        \Delta I = H(M(p)) - I(h(e_p); M(p)) = H(y \mid p)

    ``estimator`` decides what ``forward`` and ``update`` accept:

    - ``"log_probs"``: ``log_probs`` [n, T] (or [n]) under the law that sampled the outputs, and ``mask`` [n, T]; see
      :func:`~ggmi_callbacks.functional.information_gain`. The state is three running sums.
    - ``"reference"``: the same under another model: a cross-entropy, an upper bound on dI; see
      :func:`~ggmi_callbacks.functional.cross_entropy_upper_bound`.
    - ``"matrix"``, ``"knn"``, ``"gaussian"``: ``prompt`` [n, d_p] and ``output`` [n, d_y] embeddings; see
      :func:`~ggmi_callbacks.functional.embedding_information_gain`. They are kept, so memory grows with the samples.

    As output of ``forward`` and ``compute`` the metric returns dI, a 0-dim tensor, or an
    :class:`~ggmi_callbacks.functional.Interval` with ``confidence``.

    Args:
        estimator: one of the above; the instance is of a subclass that fits it.
        kernel: for ``"matrix"``, as in :func:`~ggmi_callbacks.functional.embedding_information_gain`.
        k: for ``"knn"``, which neighbour.
        confidence: level of an interval over samples, or None.
        validate_args: refuse input that is not finite, and positive log-probabilities; the check waits for the device.
        kwargs: see :class:`torchmetrics.Metric`.

    Raises:
        ValueError: If an argument is out of range or shapes do not match.

    Example:
        >>> import torch
        >>> metric = InformationGain()
        >>> metric.update(torch.tensor([[0.5, 0.5], [0.25, 1.0]]).log())
        >>> metric.compute()
        tensor(1.3863)
        >>> metric = InformationGain(estimator="matrix", kernel="cosine")
        >>> metric.update(prompt=torch.eye(4).repeat(8, 1), output=torch.eye(8).repeat_interleave(4, 0))
        >>> metric.compute()
        tensor(2.0794)
    """

    is_differentiable = True
    higher_is_better = None
    full_state_update = False
    plot_name = "InformationGain"

    def __new__(cls, estimator: GainEstimator = "log_probs", *_: Any, **__: Any) -> "InformationGain":
        """Choose the subclass whose ``update`` fits the estimator, as torchmetrics does by task."""
        check_choice("estimator", estimator, GAIN_ESTIMATORS)
        if cls is InformationGain:
            cls = EmbeddingInformationGain if estimator in EMBEDDING_ESTIMATORS else LogProbInformationGain
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple[str, ...]:
        """What ``__new__`` is given when the metric is unpickled."""
        return (self.estimator,)

    def __init__(
        self,
        estimator: GainEstimator = "log_probs",
        kernel: Kernel = "gaussian",
        k: int = 5,
        *,
        confidence: float | None = None,
        validate_args: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(confidence=confidence, validate_args=validate_args, **kwargs)
        self.estimator: GainEstimator = estimator
        self.kernel = kernel
        self.k = k
        name = "cross-entropy bound on dI" if estimator == "reference" else f"information gain, {estimator}"
        self.plot_label = f"{name} (nats)".replace("_", "-")

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add a batch; what it takes depends on the estimator."""
        raise NotImplementedError

    def compute(self) -> Value:
        """Information gain of all samples seen."""
        raise NotImplementedError


class LogProbInformationGain(InformationGain):
    """:class:`InformationGain` from log-probabilities: three running sums.

    Example:
        >>> from torch import tensor
        >>> LogProbInformationGain("reference")(tensor([-1.0, -3.0]))
        tensor(2.)
    """

    code_lengths: Tensor

    def __init__(self, estimator: Literal["log_probs", "reference"] = "log_probs", **kwargs: Any) -> None:
        super().__init__(estimator, **kwargs)
        self.add_state("code_lengths", default=torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_probs: Tensor, mask: Tensor | None = None) -> None:
        """Add the log-probabilities of a batch of outputs."""
        lengths = _code_length(log_probs, mask)
        if self.validate_args:
            check_log_probs(mask, log_probs=log_probs)
            self._validate(log_probs=lengths)
        self.code_lengths = self.code_lengths + moments(lengths)

    def compute(self) -> Value:
        """Mean code length of all outputs seen."""
        return self._finish(_mean_compute(self.code_lengths, self.confidence))


class EmbeddingInformationGain(SampleMetric, InformationGain):
    """:class:`InformationGain` from embeddings, which it keeps.

    Example:
        >>> import torch
        >>> prompt, noise = torch.randn(2, 2000, 1, generator=torch.Generator().manual_seed(0))
        >>> dI = EmbeddingInformationGain("gaussian")(prompt, 3 * prompt + noise)
        >>> abs(float(dI) - 1.4189) < 0.1  # log(2 pi e) / 2, the entropy of the noise
        True
    """

    _names: ClassVar[tuple[str, ...]] = ("prompt", "output")

    prompt: list[Tensor]
    output: list[Tensor]

    def __init__(self, estimator: Literal["matrix", "knn", "gaussian"] = "matrix", **kwargs: Any) -> None:
        super().__init__(estimator=estimator, **kwargs)

    def update(self, prompt: Tensor, output: Tensor) -> None:
        """Keep the embeddings of a batch of prompts and of their outputs."""
        check_embeddings(prompt=prompt, output=output)
        self._keep(prompt=prompt, output=output)

    def _estimate(self, *samples: Tensor) -> Value:
        prompt, output = samples
        return embedding_information_gain(
            prompt,
            output,
            estimator=cast(EmbeddingEstimator, self.estimator),
            kernel=self.kernel,
            k=self.k,
            confidence=self.confidence,
        )
