r"""How far the data sets lie apart: lower bounds on total variation by a classifier that tries to tell them apart.

Notation:
    x, y           [n, d], [m, d] embeddings of samples of two laws P and Q
    TV(P, Q)       total variation, in [0, 1]: 2 * (best possible balanced accuracy) - 1
    D, D_M, D_gen  the laws of the real data, of the generator's raw output, and of the curated synthetic set
    k              Gaussian kernel, its bandwidth the median distance
    C              bound on the loss, times the constant of the lemma
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive, check_tensors
from ggmi_callbacks.functional._interval import Interval, check_confidence, like

FOLDS = 5
# The classifiers of the folds share training data, so their hits are not independent: the variance of a cross-fitted
# accuracy is 1 + k / (k - 1) times a binomial one (Nadeau and Bengio, Machine Learning 52, 2003).
_WIDENING = (1 + FOLDS / (FOLDS - 1)) ** 0.5
_LANDMARKS = 512
_RIDGE = 1e-2


class DivergenceTerms(NamedTuple):
    """Lower bounds on the total variations between the three laws of synthetic data; each in [0, 1], but for noise.

    Attributes:
        bound: C (TV(D, D_M) + TV(D_M, D_gen)), the divergence part of the lemma, from below.
        real_generated: TV(D, D_M), what the generator gets wrong.
        generated_synthetic: TV(D_M, D_gen), what curation changes.
        real_synthetic: TV(D, D_gen), both at once; at most the sum of the two.
    """

    bound: Tensor | Interval
    real_generated: Tensor | Interval
    generated_synthetic: Tensor | Interval
    real_synthetic: Tensor | Interval


def shuffled(x: Tensor) -> Tensor:
    """The rows in a pseudo-random order that depends on their contents alone.

    So folds, and with them the estimate, do not depend on the order in which samples came, in which batch or rank.
    The order is that of a hash of the bits of each row in single precision, whatever precision it is kept in; int64
    products wrap around, alike on every device.
    """
    bits = (x.float().double() + 0.0).view(torch.int64)  # + 0.0 turns -0.0 into 0.0
    generator = torch.Generator().manual_seed(0)
    odd = 2 * torch.randint(2**62, (x.shape[1],), generator=generator).to(x.device) + 1
    # The low bits of a float64 that was a float32 are zero, and products carry upwards only: fold the high ones down.
    key = ((bits ^ (bits >> 32)) * odd).sum(1)
    key = (key ^ (key >> 29)) * 0x2545F4914F6CDD1D
    return x[(key ^ (key >> 32)).argsort(stable=True)]


def _kernel(x: Tensor, landmarks: Tensor, bandwidth: Tensor) -> Tensor:
    return (-0.5 * (torch.cdist(x, landmarks) / bandwidth).square()).exp()


def _features(x: Tensor, landmarks: Tensor, bandwidth: Tensor) -> Tensor:
    """Kernel values and a constant, [n, m + 1]: the constant lets a wide cloud around a narrow one be seen."""
    return torch.nn.functional.pad(_kernel(x, landmarks, bandwidth), (0, 1), value=1.0)


def _classify(x: Tensor, y: Tensor, test: Tensor) -> Tensor:
    """Scores of ``test``, positive for class ``x``: balanced kernel ridge regression on at most 512 landmarks."""
    share = _LANDMARKS // 2
    landmarks = torch.cat((x[:share], y[:share]))
    distances = torch.pdist(landmarks)
    bandwidth = distances.median().clamp_min(torch.finfo(x.dtype).tiny)
    features = _features(torch.cat((x, y)), landmarks, bandwidth)
    weight = torch.cat((x.new_full((len(x),), 0.5 / len(x)), y.new_full((len(y),), -0.5 / len(y))))
    gram = features.mT @ (weight.abs()[:, None] * features)
    ridge = torch.nn.functional.pad(_RIDGE * _kernel(landmarks, landmarks, bandwidth), (0, 1, 0, 1))
    jitter = 1e-10 * torch.eye(len(gram), dtype=x.dtype, device=x.device)  # equal landmarks are no fault
    coefficients = torch.linalg.solve(gram + ridge + jitter, features.mT @ weight)
    return _features(test, landmarks, bandwidth) @ coefficients


def _accuracies(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Held-out accuracy on either class, every sample judged by a classifier that has not seen its fold."""
    x, y = shuffled(x), shuffled(y)
    in_fold = [torch.arange(len(z), device=z.device) % FOLDS for z in (x, y)]
    p, q = x.new_zeros(()), x.new_zeros(())
    for fold in range(FOLDS):
        test_x, test_y = (z[of == fold] for z, of in zip((x, y), in_fold, strict=True))
        train_x, train_y = (z[of != fold] for z, of in zip((x, y), in_fold, strict=True))
        said = _classify(train_x, train_y, torch.cat((test_x, test_y))).sign()
        p = p + (1 + said[: len(test_x)]).sum() / 2  # a tie is half a hit
        q = q + (1 - said[len(test_x) :]).sum() / 2
    return p / len(x), q / len(y)


def _wilson(share: Tensor, n: int, quantile: float) -> tuple[Tensor, Tensor]:
    """Wilson's interval of a binomial share: sound at 0 and 1, where the normal one has no width."""
    scale = 1 + quantile**2 / n
    centre = (share + quantile**2 / (2 * n)) / scale
    half = quantile / scale * (share * (1 - share) / n + quantile**2 / (4 * n**2)).sqrt()
    return centre - half, centre + half


def add(first: Tensor | Interval, second: Tensor | Interval, constant: float) -> Tensor | Interval:
    """constant * (first + second); the half-widths of independent intervals add in squares."""
    if not (isinstance(first, Interval) and isinstance(second, Interval)):
        return constant * (first + second)
    value = first.value + second.value
    low = ((first.value - first.low).square() + (second.value - second.low).square()).sqrt()
    high = ((first.high - first.value).square() + (second.high - second.value).square()).sqrt()
    return Interval(constant * value, constant * (value - low), constant * (value + high))


def total_variation_lower_bound(x: Tensor, y: Tensor, *, confidence: float | None = None) -> Tensor | Interval:
    r"""Classifier two-sample lower bound on the total variation between two laws, from embeddings.

    .. math::
        TV(P, Q) \ge P(\text{says } P \mid x \sim P) + P(\text{says } Q \mid y \sim Q) - 1

    for any classifier that has not seen the samples it judges. Here it is a kernel ridge regression (Gaussian kernel,
    median bandwidth, balanced classes), cross-fitted in five folds, so the estimate is below TV in expectation, and
    around zero, at times slightly negative, where P = Q. It is deterministic and does not depend on the order of rows.
    It is a bound on what this classifier can see: how tight depends on the embedding, on n and on d.

    Args:
        x: [n, d] embeddings of samples of P, n >= 5.
        y: [m, d] embeddings of samples of Q, m >= 5.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval (Wilson's for either class,
            combined as by Newcombe, widened for the folds). It covers the bound, that is, what such classifiers
            achieve on average, not TV.

    Returns:
        0-dim tensor, or an :class:`Interval`; a probability, without unit.

    Raises:
        ValueError: If the shapes are not as above, a value is not finite or ``confidence`` is out of range.

    Source:
        Lopez-Paz and Oquab, Revisiting classifier two-sample tests (ICLR 2017); Newcombe (1998), method 10.

    Example:
        >>> import torch
        >>> x, y = torch.randn(2, 200, 3, generator=torch.Generator().manual_seed(0))
        >>> far = float(total_variation_lower_bound(x, y + 9))
        >>> near = float(total_variation_lower_bound(x, y))
        >>> far, abs(near) < 0.15
        (1.0, True)
    """
    check_confidence(confidence)
    _check_sets(x=x, y=y)
    return _total_variation(x, y, confidence)


def _check_sets(**named: Tensor) -> None:
    """Refuse anything but finite embeddings [n, d] of one d, at least one of each fold."""
    check_tensors(**named)
    width = next(iter(named.values())).shape[1:]
    for name, z in named.items():
        if z.ndim != 2 or len(z) < FOLDS or z.shape[1:] != width:
            raise ValueError(
                f"Expected argument `{name}` to have shape [n, d] with n >= {FOLDS} and the same d in all sets but got "
                f"{list(z.shape)}; embed the samples of all sets with one model."
            )
        if not torch.isfinite(z).all():
            raise ValueError(
                f"Expected argument `{name}` to be finite but got {int((~torch.isfinite(z)).sum())} values that are "
                "not; drop those samples."
            )


def _total_variation(x: Tensor, y: Tensor, confidence: float | None) -> Tensor | Interval:
    p, q = _accuracies(x.double(), y.double())
    value = p + q - 1
    if confidence is None:
        return like(value, x, y)
    quantile = NormalDist().inv_cdf(0.5 + confidence / 2)
    (p_low, p_high), (q_low, q_high) = _wilson(p, len(x), quantile), _wilson(q, len(y), quantile)
    low = value - _WIDENING * ((p - p_low).square() + (q - q_low).square()).sqrt()
    high = value + _WIDENING * ((p_high - p).square() + (q_high - q).square()).sqrt()
    return like(Interval(value, low, high), x, y)


def divergence_terms(
    real: Tensor, generated: Tensor, synthetic: Tensor, *, constant: float = 1.0, confidence: float | None = None
) -> DivergenceTerms:
    """:func:`divergence_bound` with its two terms, and the total variation between the real and the synthetic law.

    Args:
        real: as in :func:`divergence_bound`.
        generated: as in :func:`divergence_bound`.
        synthetic: as in :func:`divergence_bound`.
        constant: as in :func:`divergence_bound`.
        confidence: as in :func:`divergence_bound`; every field then is an :class:`Interval`.

    Returns:
        A :class:`DivergenceTerms`.

    Raises:
        ValueError: As :func:`divergence_bound`.

    Example:
        >>> import torch
        >>> real, generated = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
        >>> terms = divergence_terms(real, generated + 9, generated + 9)
        >>> float(terms.real_generated), float(terms.generated_synthetic) <= 0.0
        (1.0, True)
    """
    check_positive(constant=constant)
    check_confidence(confidence)
    _check_sets(real=real, generated=generated, synthetic=synthetic)
    first = _total_variation(real, generated, confidence)
    second = _total_variation(generated, synthetic, confidence)
    direct = _total_variation(real, synthetic, confidence)
    return DivergenceTerms(add(first, second, constant), first, second, direct)


def divergence_bound(
    real: Tensor, generated: Tensor, synthetic: Tensor, *, constant: float = 1.0, confidence: float | None = None
) -> Tensor | Interval:
    r"""The divergence part of the paper's bound on the risk, from below.

    .. math::
        C \left(TV(D, D_M) + TV(D_M, D_{gen})\right)

    The paper's Lemma 3.1 bounds the risk of training on synthetic data by this and the generalisation error. Each TV
    is replaced by its classifier lower bound, so the number says how large this part is *at least*; it does not bound
    the risk from above.

    Args:
        real: [n, d] embeddings of real samples, law D.
        generated: [m, d] embeddings of the generator's raw output, law D_M.
        synthetic: [k, d] embeddings of the curated set, law D_gen.
        constant: C, the bound on the loss.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval.

    Returns:
        0-dim tensor, or an :class:`Interval`, in units of ``constant``.

    Raises:
        ValueError: If shapes do not match, or ``constant`` or ``confidence`` is out of range.

    Source:
        Gan and Liu (ICLR 2025), Lemma 3.1.

    Example:
        >>> import torch
        >>> real, generated = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
        >>> divergence_bound(real, generated + 9, generated - 9)
        tensor(2.)
    """
    return divergence_terms(real, generated, synthetic, constant=constant, confidence=confidence).bound
