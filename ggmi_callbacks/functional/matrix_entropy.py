r"""Matrix-based Renyi entropy of a kernel's Gram matrix, in nats.

Notation:
    k(a, b)     a positive definite kernel with k(a, a) = 1
    A           [n, n] Gram matrix k(x_i, x_j) / n: eigenvalues lambda_j >= 0 with sum one, like a density matrix
    S_alpha     log(sum_j lambda_j^alpha) / (1 - alpha), for alpha -> 1 the von Neumann entropy
                -sum_j lambda_j log lambda_j, for alpha -> inf  -log max_j lambda_j
    limits      0 if all rows are alike, log n if all are orthogonal; exp(S) counts the kinds of rows

No density is estimated, nothing is trained, and few samples will do; but S depends on the kernel and on its
bandwidth, so compare values only at one kernel and one n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_choice, check_positive
from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._interval import Interval, check_confidence, like
from ggmi_callbacks.functional._samples import as_samples
from ggmi_callbacks.functional._trace import largest_eigenvalue, trace_of_function

Kernel = Literal["gaussian", "cosine"] | Callable[[Tensor, Tensor], Tensor]
KERNELS = ("gaussian", "cosine")
_MEDIAN_ROWS = 2048
_MOST_ROWS = 10_000  # 0.8 GB each in float64, and a few are held at once


@overload
def matrix_entropy(
    x: Tensor,
    *,
    alpha: float = ...,
    kernel: Kernel = ...,
    bandwidth: float | None = ...,
    max_exact: int = ...,
    confidence: None = ...,
) -> Tensor: ...
@overload
def matrix_entropy(
    x: Tensor,
    *,
    alpha: float = ...,
    kernel: Kernel = ...,
    bandwidth: float | None = ...,
    max_exact: int = ...,
    confidence: float,
) -> Interval: ...
def matrix_entropy(
    x: Tensor,
    *,
    alpha: float = 1.0,
    kernel: Kernel = "gaussian",
    bandwidth: float | None = None,
    max_exact: int = 2048,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Matrix-based Renyi entropy of order alpha of samples under a kernel.

    .. math::
        S_\alpha = \frac{1}{1 - \alpha} \log \mathrm{tr} A^\alpha, \qquad
        S_1 = -\mathrm{tr}\, A \log A, \qquad A_{ij} = k(x_i, x_j) / n

    Up to ``max_exact`` samples it comes from the eigenvalues, and is differentiable. Beyond that it comes from a
    stochastic trace in O(n^2) time and memory, whose standard error is part of the interval. Order 2, order infinity
    and the cosine kernel with d < n need no random probes at any n.

    Args:
        x: [n, d] or [n] samples, such as embeddings.
        alpha: order, in (0, inf]; 1 is the von Neumann entropy.
        kernel: ``"gaussian"``, ``exp(-|a - b|^2 / (2 bandwidth^2))``; ``"cosine"``, which must be positive definite
            as it stands: ``a.b / (|a| |b|)``; or a function of [n, d] and [m, d] that returns [n, m], positive
            definite with a constant diagonal.
        bandwidth: of the Gaussian kernel; by default the median distance between different samples (beyond
            2048 samples that of 2048 evenly spaced ones).
        max_exact: largest number of samples for which the eigenvalues of A are computed, in O(n^3) time.
        confidence: None for a 0-dim tensor, or the level of an interval to first order in the samples (the
            influence function of the entropy at this bandwidth); it holds the error of a stochastic trace.

    Returns:
        0-dim tensor in nats within [0, log n], or an :class:`Interval`.

    Raises:
        ValueError: If there are more than 10,000 samples (but for the cosine kernel with d < n, which needs no Gram
            matrix), an argument is out of range, a row has no direction for the cosine kernel, the kernel is
            not positive definite with a constant diagonal, or a gradient is asked of a stochastic trace.

    Source:
        Sanchez Giraldo, Rao and Principe, IEEE Trans. Inf. Theory 61 (2015), equation 8.

    Example:
        >>> import torch
        >>> x = torch.eye(4).repeat(8, 1)  # four kinds of rows
        >>> matrix_entropy(x, kernel="cosine").exp()
        tensor(4.)
    """
    check_confidence(confidence)
    check_order(alpha)
    samples = as_samples(x=x)
    if kernel == "cosine" and samples.shape[1] < samples.shape[0]:
        spectrum = _spectrum_of_features(_directions(samples))
        estimate = Estimate(*_pointwise(spectrum, alpha), n=len(samples))
    else:
        gram = gram_matrix(samples, kernel, bandwidth)
        estimate = gram_entropy(gram, alpha, max_exact, pointwise=confidence is not None)
    return like(estimate.finish(confidence), x)


def check_order(alpha: float) -> None:
    """Refuse an order that is not positive."""
    if not alpha > 0:
        raise ValueError(f"Expected argument `alpha` to be in (0, inf] but got {alpha}; 1 is von Neumann's order.")


def check_kernel(kernel: Kernel, bandwidth: float | None) -> None:
    """Refuse an unknown kernel, and a bandwidth that is not positive."""
    if not callable(kernel):
        check_choice("kernel", kernel, KERNELS)
    if bandwidth is not None:
        check_positive(bandwidth=bandwidth)


# -- Gram matrices with a unit diagonal


def gram_matrix(x: Tensor, kernel: Kernel = "gaussian", bandwidth: float | None = None) -> Tensor:
    """Gram matrix [n, n] with a unit diagonal of samples [n, d] in float64; see :func:`matrix_entropy`."""
    check_kernel(kernel, bandwidth)
    if len(x) > _MOST_ROWS:
        raise ValueError(
            f"Expected at most {_MOST_ROWS} samples for a Gram matrix, which takes n^2 numbers, but got {len(x)}; pass "
            "a random subsample, x[torch.randperm(len(x))[:n]]."
        )
    if not isinstance(kernel, str):
        return _checked_gram(kernel(x, x), x.shape[0])
    if kernel == "cosine":
        directions = _directions(x)
        return directions @ directions.T
    x = x - x.mean(0)
    width = median_distance(x) if bandwidth is None else bandwidth
    squared = torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist").square()
    squared = squared.fill_diagonal_(0) / (-2 * width**2)  # rounding of the product leaves it off zero
    return squared.exp()


def median_distance(x: Tensor) -> Tensor:
    """Median distance between samples that differ, [n, d] -> 0-dim; one if all are alike."""
    rows = x[:: -(-x.shape[0] // _MEDIAN_ROWS)]
    distances = torch.pdist(rows)
    different = distances[distances > 0]
    return different.median() if different.numel() else distances.new_ones(())


def _directions(x: Tensor) -> Tensor:
    norm = x.norm(dim=1, keepdim=True)
    if not (norm > 0).all():
        raise ValueError(
            f"Expected argument `x` to have no zero row for the cosine kernel but got {int((norm == 0).sum())}; "
            'drop them or use `kernel="gaussian"`.'
        )
    return x / norm


def _checked_gram(gram: Tensor, n: int) -> Tensor:
    """A user's Gram matrix scaled to a unit diagonal, or an error."""
    if gram.shape != (n, n):
        raise ValueError(f"Expected argument `kernel` to return [{n}, {n}] but got {list(gram.shape)}.")
    gram = gram.double()
    diagonal = gram.diagonal()
    scale = diagonal.mean()
    if not scale > 0 or (diagonal - scale).abs().max() > 1e-6 * scale or (gram - gram.T).abs().max() > 1e-6 * scale:
        raise ValueError(
            "Expected argument `kernel` to be symmetric with a constant positive diagonal but its diagonal is in "
            f"[{float(diagonal.min()):.4g}, {float(diagonal.max()):.4g}]; divide k(a, b) by "
            "sqrt(k(a, a) k(b, b))."
        )
    return (gram + gram.T) / (2 * scale)


# -- Spectra and their entropies


class _Spectrum(NamedTuple):
    """Eigenvalues [m] of A and, if asked for, the weight [n, m] of each sample in each of them.

    sum_i weight_ij = n, and n tr f(A) = sum_ij weight_ij f(lambda_j).
    """

    values: Tensor
    weights: Tensor | None


def _spectrum_of_gram(gram: Tensor, pointwise: bool) -> _Spectrum:
    n = gram.shape[0]
    if pointwise:
        values, vectors = torch.linalg.eigh(gram)
        weights = n * vectors.square()
    else:
        values, weights = torch.linalg.eigvalsh(gram), None
    values = values / n
    if values[0] < -1e-7:
        raise ValueError(
            "Expected argument `kernel` to be positive definite but its Gram matrix has the eigenvalue "
            f"{float(values[0]) * n:.4g}; use a kernel such as the Gaussian."
        )
    return _Spectrum(values, weights)


def _spectrum_of_features(features: Tensor) -> _Spectrum:
    """The same nonzero eigenvalues from [d, d] instead of [n, n], for a kernel that is a dot product."""
    n = features.shape[0]
    values, vectors = torch.linalg.eigh(features.T @ features / n)
    return _Spectrum(values, (features @ vectors.detach()).square() / values.clamp_min(1e-15).detach())


def _power(values: Tensor, alpha: float) -> Tensor:
    """lambda^alpha, or -lambda log lambda for order one; zero eigenvalues, and rounding below, count nothing."""
    positive = values > 1e-15
    safe = torch.where(positive, values, torch.ones_like(values))
    return torch.where(positive, -safe * safe.log() if alpha == 1 else safe**alpha, torch.zeros_like(values))


def _entropy_of_trace(trace: Tensor, alpha: float) -> Tensor:
    return trace if alpha == 1 else trace.log() / (1 - alpha)


def _pointwise(spectrum: _Spectrum, alpha: float) -> tuple[Tensor, Tensor | None]:
    """The entropy and, with weights, [n] values with that mean whose spread is the entropy's, times n."""
    values, weights = spectrum
    if math.isinf(alpha):
        value = -values[-1].log()
        return value, None if weights is None else value + 1 - weights[:, -1]
    powers = _power(values, alpha)
    trace = powers.sum()
    value = _entropy_of_trace(trace, alpha)
    if weights is None:
        return value, None
    shares = weights @ powers  # mean: the trace
    return value, shares if alpha == 1 else value + alpha / (1 - alpha) * (shares / trace - 1)


def gram_entropy(gram: Tensor, alpha: float = 1.0, max_exact: int = 2048, pointwise: bool = False) -> Estimate:
    """Entropy of a Gram matrix with a unit diagonal; beyond ``max_exact`` samples by a stochastic trace."""
    n = gram.shape[0]
    if n <= max_exact:
        return Estimate(*_pointwise(_spectrum_of_gram(gram, pointwise), alpha), n=n)
    if gram.requires_grad and alpha != 2:
        raise ValueError(
            f"Expected at most `max_exact` = {max_exact} samples where a gradient is wanted but got {n}; "
            "raise `max_exact`, take fewer samples, or detach `x`."
        )
    value, error = _stochastic(gram / n, alpha)
    spread = None
    if pointwise:  # a part of the samples is enough to tell their spread
        rows = torch.linspace(0, n - 1, max_exact, device=gram.device).long()
        spread = _pointwise(_spectrum_of_gram(gram[rows][:, rows], True), alpha)[1]
    return Estimate(value, spread, n, error)


def _stochastic(a: Tensor, alpha: float) -> tuple[Tensor, float]:
    """Entropy of a large matrix without its eigenvalues, and its standard error."""
    if alpha == 2:
        return -2 * torch.linalg.vector_norm(a).log(), 0.0
    if math.isinf(alpha):
        return -largest_eigenvalue(a).log(), 0.0
    trace, error = trace_of_function(a, lambda values: _power(values, alpha))
    scale = 1.0 if alpha == 1 else 1 / (float(trace) * abs(1 - alpha))
    return _entropy_of_trace(trace, alpha), float(error) * scale
