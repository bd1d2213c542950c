"""Effective diversity: how many different samples a set holds in effect."""

from __future__ import annotations

from torch import Tensor

from ggmi_callbacks.functional._interval import Interval
from ggmi_callbacks.functional.matrix_entropy import Kernel, matrix_entropy


def effective_diversity(
    x: Tensor,
    *,
    alpha: float = 1.0,
    kernel: Kernel = "cosine",
    bandwidth: float | None = None,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Effective number of different samples, the exponential of the matrix entropy of their embeddings.

    .. math::
        \exp S_\alpha(K / n) \in [1, n]

    One if all samples are alike, n if all are orthogonal under the kernel. With the cosine kernel and order one it is
    the Vendi score of the embeddings. It grows with n: compare sets of like size.

    Args:
        x: [n, d] embeddings.
        alpha: order of the entropy, in (0, inf]; the higher, the less rare kinds count.
        kernel: ``"cosine"``, ``"gaussian"`` or a function, as in :func:`matrix_entropy`.
        bandwidth: of the Gaussian kernel, by default the median distance.
        confidence: None for a 0-dim tensor, or the level of an interval: the image of that of the entropy.

    Returns:
        0-dim tensor, or an :class:`Interval`; a number of samples.

    Raises:
        ValueError: As :func:`matrix_entropy`.

    Source:
        Friedman and Dieng, The Vendi score (TMLR 2023); Sanchez Giraldo et al. (2015) for the entropy.

    Example:
        >>> import torch
        >>> round(float(effective_diversity(torch.eye(4).repeat(8, 1))), 4)  # four kinds of rows
        4.0
    """
    entropy = matrix_entropy(x, alpha=alpha, kernel=kernel, bandwidth=bandwidth, confidence=confidence)
    return Interval(*(part.exp() for part in entropy)) if isinstance(entropy, Interval) else entropy.exp()
