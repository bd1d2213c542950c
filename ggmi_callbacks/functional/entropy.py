r"""Entropies of samples, in nats: Gaussian, k-nearest-neighbour, matrix-based, and code length.

Notation:
    x          [n, d] n samples in d dimensions ([n] is read as d = 1)
    h(x)       differential entropy, -E log p(x); it may be negative
    W          scatter matrix, sum_i (x_i - mean)(x_i - mean)^T; Wishart with n - 1 degrees of freedom if x is
               Gaussian
    eps_i      Euclidean distance from x_i to its k-th nearest neighbour
    V_d        volume of the d-dimensional unit ball, pi^(d/2) / Gamma(d/2 + 1)
    psi        the digamma function

Limits: the Gaussian entropy is unbiased for Gaussian data and an upper bound for any other law; the
nearest-neighbour entropy needs no model but many samples, and fails in tens of dimensions; the matrix entropy
needs neither a density nor many samples, and is a relative measure: it is no estimate of h(x).
"""

from __future__ import annotations

import math
from typing import Literal, overload

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_log_probs, check_tensors
from ggmi_callbacks.functional._interval import Interval, check_confidence, like, mean_interval, moments, t_interval
from ggmi_callbacks.functional._neighbours import nearest
from ggmi_callbacks.functional._samples import as_matrix, as_samples, check_copies, check_neighbours, covariance_factor
from ggmi_callbacks.functional.matrix_entropy import matrix_entropy

__all__ = ["code_length", "gaussian_entropy", "knn_entropy", "matrix_entropy"]

Per = Literal["sample", "token", "total"]
PER = ("sample", "token", "total")


def _gaussian_entropy_update(x: Tensor) -> Tensor:
    """Running sums [d + 1, d + 1] of (1, x)(1, x)^T in float64: count, sums and products."""
    x = as_matrix(x=x)
    with_one = torch.cat((torch.ones_like(x[:, :1]), x), 1)
    return with_one.T @ with_one


def _gaussian_entropy_compute(sums: Tensor, confidence: float | None) -> Tensor | Interval:
    n, total = sums[0, 0], sums[0, 1:]
    d = len(total)
    factor = covariance_factor(sums[1:, 1:] - total[:, None] * total / n, int(n), "x")
    half_dof = (n - 1 - torch.arange(d, device=sums.device)) / 2
    expected = torch.digamma(half_dof).sum() + d * math.log(2)  # E log det W - log det Sigma
    value = factor.diagonal().log().sum() + 0.5 * (d * math.log(2 * math.pi * math.e) - expected)
    if confidence is None:
        return value
    return t_interval(value, torch.polygamma(1, half_dof).sum() / 4, n - 1, confidence)


@overload
def gaussian_entropy(x: Tensor, *, confidence: None = ...) -> Tensor: ...
@overload
def gaussian_entropy(x: Tensor, *, confidence: float) -> Interval: ...
def gaussian_entropy(x: Tensor, *, confidence: float | None = None) -> Tensor | Interval:
    r"""Differential entropy of Gaussian samples, unbiased.

    .. math::
        \hat h = \frac d2 \log(2 \pi e) + \frac12 \Big[\log\det W - d \log 2
            - \sum_{i=0}^{d-1} \psi\big(\tfrac{n-1-i}{2}\big)\Big]

    Exact in expectation for Gaussian data in any dimension below n - 1; for other data an upper bound, the
    entropy of the Gaussian with their covariance. Differentiable.

    Args:
        x: [n, d] or [n] samples with n > d + 1.
        confidence: None for a 0-dim tensor, or the level of an interval; its width is the exact variance of
            the estimate under the Gaussian, a quarter of the sum of trigamma((n - 1 - i) / 2).

    Returns:
        0-dim tensor in nats, or an :class:`Interval`.

    Raises:
        ValueError: If the shape is wrong, there are too few samples, or the covariance is singular.

    Source:
        Ahmed and Gokhale, IEEE Trans. Inf. Theory 35 (1989), the minimum-variance unbiased estimator.

    Example:
        >>> import torch
        >>> x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
        >>> round(float(gaussian_entropy(x)), 1)  # 3/2 log(2 pi e) = 4.257
        4.3
    """
    check_confidence(confidence)
    samples = as_samples(x=x)
    # The sums of centred samples lose no digits to a large mean.
    sums = _gaussian_entropy_update(samples - samples.mean(0))
    return like(_gaussian_entropy_compute(sums, confidence), x)


@overload
def knn_entropy(x: Tensor, *, k: int = ..., confidence: None = ...) -> Tensor: ...
@overload
def knn_entropy(x: Tensor, *, k: int = ..., confidence: float) -> Interval: ...
def knn_entropy(x: Tensor, *, k: int = 5, confidence: float | None = None) -> Tensor | Interval:
    r"""Kozachenko-Leonenko estimate of the differential entropy from k-th nearest-neighbour distances.

    .. math::
        \hat h = \psi(n) - \psi(k) + \log V_d + \frac dn \sum_i \log \varepsilon_i

    Meant for up to about ten dimensions with thousands of samples: the bias is of order (k / n)^(2 / d). Exact
    search in O(n^2) time and O(n) memory. Differentiable almost everywhere.

    Args:
        x: [n, d] or [n] samples of a law with a density.
        k: which neighbour; more neighbours, less variance and more bias.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval: the summands are taken for
            independent, and bias is not part of it.

    Returns:
        0-dim tensor in nats, or an :class:`Interval`.

    Raises:
        ValueError: If the shape is wrong, k is not in [1, n), or more than k samples coincide.

    Source:
        Kozachenko and Leonenko, Probl. Inf. Transm. 23 (1987); Kraskov et al., Phys. Rev. E 69, 066138 (2004),
        equation 20.

    Example:
        >>> import torch
        >>> x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> abs(float(knn_entropy(x))) < 0.05  # a unit square: h = 0
        True
    """
    check_confidence(confidence)
    samples = as_samples(x=x)
    n, d = samples.shape
    check_neighbours(k, n)
    check_copies(k, x=samples)
    squared = (samples - samples[nearest(samples.detach(), k)]).square().sum(1)
    if not (squared > 0).all():
        raise ValueError(
            f"Expected argument `x` to be samples of a density but got more than k = {k} that coincide; the "
            "entropy is then minus infinity: use `matrix_entropy`, or add the noise of the measurement."
        )
    ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    offset = float(torch.digamma(torch.tensor([n, k], dtype=torch.float64)).diff().neg()) + ball
    pointwise = offset + d / 2 * squared.log()
    return like(pointwise.mean() if confidence is None else mean_interval(pointwise, confidence), x)


def _code_length_update(log_probs: Tensor, mask: Tensor | None) -> Tensor:
    """Moments [3, 3] of nats, of tokens and of their sum per sequence; polarisation gives the covariance."""
    check_tensors(log_probs=log_probs, mask=mask)
    if log_probs.ndim != 2 or log_probs.numel() == 0:
        raise ValueError(
            f"Expected argument `log_probs` to have shape [B, T] but got {list(log_probs.shape)}; "
            "pass the log-probability of each target token, and unsqueeze a single sequence."
        )
    if mask is None:
        mask = torch.ones_like(log_probs, dtype=torch.bool)
    if mask.shape != log_probs.shape:
        raise ValueError(
            f"Expected argument `mask` to have the shape of `log_probs`, {list(log_probs.shape)}, but got "
            f"{list(mask.shape)}; it is true at the tokens that count."
        )
    mask = mask.bool()
    # Not a product: log-probabilities of padding may be infinite.
    nats = -torch.where(mask, log_probs.double(), 0.0).sum(1)  # [B]
    tokens = mask.sum(1).double()
    return torch.stack([moments(nats), moments(tokens), moments(nats + tokens)])


def _code_length_compute(sums: Tensor, per: Per, confidence: float | None) -> Tensor | Interval:
    n, total, square = sums.unbind(-1)  # [3] each: nats, tokens, both
    if per == "token":
        value, scale = total[0] / total[1], n[0] / total[1]
        # Variance of nats - value * tokens, the delta method of a ratio of means.
        product = (square[2] - square[0] - square[1]) / 2
        spread = square[0] - 2 * value * product + value**2 * square[1]
    else:
        value, scale = total[0] / n[0], torch.ones_like(n[0])
        spread = square[0] - total[0] * value
    if per == "total":
        value, scale = n[0] * value, n[0]  # NaN where there is no sequence
    if confidence is None:
        return value
    variance = torch.where(n[0] > 1, spread.clamp_min(0) / (n[0] - 1) / n[0], torch.inf)
    return t_interval(value, scale**2 * variance, n[0] - 1, confidence)


@overload
def code_length(log_probs: Tensor, mask: Tensor | None = ..., *, per: Per = ..., confidence: None = ...) -> Tensor: ...
@overload
def code_length(log_probs: Tensor, mask: Tensor | None = ..., *, per: Per = ..., confidence: float) -> Interval: ...
def code_length(
    log_probs: Tensor,
    mask: Tensor | None = None,
    *,
    per: Per = "sample",
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Mean code length of sequences under a model, from the log-probabilities of their tokens.

    .. math::
        \hat L = \frac1B \sum_b \sum_t -m_{bt} \log p(y_{bt} \mid y_{b,<t})

    Of sequences that the model sampled itself this estimates their entropy; of any others the cross-entropy,
    an upper bound on it. Differentiable.

    Args:
        log_probs: [B, T] log-probability of each target token.
        mask: [B, T] true at the tokens that count; by default all.
        per: ``"sample"`` for nats per sequence, ``"token"`` for nats per token (total nats over total tokens),
            ``"total"`` for the sum over all sequences.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval over sequences (for tokens
            the delta method, as tokens of a sequence are not independent).

    Returns:
        0-dim tensor in nats, or an :class:`Interval`.

    Raises:
        ValueError: If shapes do not match, ``per`` is unknown, or a log-probability is positive.

    Example:
        >>> from torch import tensor
        >>> log_probs = tensor([[-1.0, -2.0, -9.0], [-1.0, -1.0, -1.0]])
        >>> mask = tensor([[True, True, False], [True, True, True]])
        >>> code_length(log_probs, mask)
        tensor(3.)
        >>> code_length(log_probs, mask, per="token")
        tensor(1.2000)
    """
    check_confidence(confidence)
    check_choice("per", per, PER)
    sums = _code_length_update(log_probs, mask)
    check_log_probs(mask, log_probs=log_probs)
    return like(_code_length_compute(sums, per, confidence), log_probs)
