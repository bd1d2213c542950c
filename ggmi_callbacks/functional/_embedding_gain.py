r"""Information gain from embeddings of prompts and outputs; notation as in :mod:`information_gain`."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice
from ggmi_callbacks.functional._estimate import total
from ggmi_callbacks.functional._interval import Interval, check_confidence, like, t_interval
from ggmi_callbacks.functional._samples import as_samples, check_copies, check_rows
from ggmi_callbacks.functional.entropy import gaussian_entropy, knn_entropy
from ggmi_callbacks.functional.matrix_entropy import Kernel, gram_entropy, gram_matrix

EmbeddingEstimator = Literal["matrix", "knn", "gaussian"]
EMBEDDING_ESTIMATORS = ("matrix", "knn", "gaussian")


@overload
def embedding_information_gain(
    prompt: Tensor,
    output: Tensor,
    *,
    estimator: EmbeddingEstimator = ...,
    kernel: Kernel = ...,
    k: int = ...,
    confidence: None = ...,
) -> Tensor: ...
@overload
def embedding_information_gain(
    prompt: Tensor,
    output: Tensor,
    *,
    estimator: EmbeddingEstimator = ...,
    kernel: Kernel = ...,
    k: int = ...,
    confidence: float,
) -> Interval: ...
@overload
def embedding_information_gain(
    prompt: Tensor,
    output: Tensor,
    *,
    estimator: EmbeddingEstimator = ...,
    kernel: Kernel = ...,
    k: int = ...,
    confidence: float | None,
) -> Tensor | Interval: ...
def embedding_information_gain(
    prompt: Tensor,
    output: Tensor,
    *,
    estimator: EmbeddingEstimator = "matrix",
    kernel: Kernel = "gaussian",
    k: int = 5,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Information gain from embeddings of prompts and of the outputs generated for them.

    ``"matrix"`` needs no density and no training, in any dimension, and works on a batch. It lies in [0, log n], and
    is 0 where the prompt decides the output. It is a relative measure, not H(y | p) itself: compare values at one n
    and one kernel alone.

    .. math::
        S(K_p \circ K_y) - S(K_p)

    ``"knn"`` and ``"gaussian"`` estimate the differential entropy H(p, y) - H(p) = H(y | p) of the embeddings, which
    may be negative. Nearest neighbours are meant for some ten dimensions in all, thousands of samples, and prompts that
    do not repeat. The Gaussian needs n above the dimension in all, and is unbiased where embeddings are jointly
    Gaussian.

    Args:
        prompt: [n, d_p] embeddings of the prompts.
        output: [n, d_y] embeddings of the outputs, row by row.
        estimator: ``"matrix"``, ``"knn"`` or ``"gaussian"``.
        kernel: for ``"matrix"``, as in :func:`matrix_entropy`: ``"gaussian"`` (median bandwidth), ``"cosine"``, or a
            function; it must be positive definite with a constant diagonal, others are refused.
        k: for ``"knn"``, which neighbour.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval over samples: from the influence
            of each (matrix), the exact variance for Gaussian data (Gaussian), or both entropies taken for independent,
            which overstates it (knn).

    Returns:
        0-dim tensor, or an :class:`Interval`, in nats.

    Raises:
        ValueError: If shapes do not match, the kernel is refused, or an argument is out of range.

    Source:
        Gan and Liu (ICLR 2025), definition of dI; matrix-based conditional entropy: Sanchez Giraldo et al. (2015).

    Example:
        >>> import torch
        >>> prompt = torch.eye(4).repeat(8, 1)
        >>> embedding_information_gain(prompt, prompt, kernel="cosine").abs() < 1e-6  # a copy adds nothing,
        tensor(True)
        >>> fresh = torch.eye(8).repeat_interleave(4, 0)  # each prompt with each of 8 outputs: log 8
        >>> embedding_information_gain(prompt, fresh, kernel="cosine")
        tensor(2.0794)
    """
    check_confidence(confidence)
    check_choice("estimator", estimator, EMBEDDING_ESTIMATORS)
    p, y = as_samples(prompt=prompt), as_samples(output=output)
    check_rows(prompt=p, output=y)
    if estimator == "matrix":
        return like(_matrix_gain(p, y, kernel, confidence), prompt, output)
    if estimator == "knn":
        return like(_knn_gain(p, y, k, confidence), prompt, output)
    return like(_gaussian_gain(p, y, confidence), prompt, output)


def _matrix_gain(p: Tensor, y: Tensor, kernel: Kernel, confidence: float | None) -> Tensor | Interval:
    gram = gram_matrix(p, kernel)
    wanted = confidence is not None
    joint = gram_entropy(gram * gram_matrix(y, kernel), pointwise=wanted)
    return total([joint], [gram_entropy(gram, pointwise=wanted)]).finish(confidence, floor=0.0)


def _knn_gain(p: Tensor, y: Tensor, k: int, confidence: float | None) -> Tensor | Interval:
    check_copies(k, prompt=p)
    joint = knn_entropy(torch.cat((p, y), 1), k=k, confidence=confidence)
    alone = knn_entropy(p, k=k, confidence=confidence)
    if not (isinstance(joint, Interval) and isinstance(alone, Interval)):
        return joint - alone
    half = ((joint.high - joint.value).square() + (alone.high - alone.value).square()).sqrt()
    value = joint.value - alone.value
    return Interval(value, value - half, value + half)


def _gaussian_gain(p: Tensor, y: Tensor, confidence: float | None) -> Tensor | Interval:
    value = gaussian_entropy(torch.cat((p, y), 1)) - gaussian_entropy(p)
    if confidence is None:
        return value
    # The scatter of y given p is Wishart with n - 1 - d_p degrees of freedom.
    dof = len(p) - 1 - p.shape[1] - torch.arange(y.shape[1], dtype=torch.float64, device=p.device)
    return t_interval(value, torch.polygamma(1, dof / 2).sum() / 4, dof[0], confidence)
