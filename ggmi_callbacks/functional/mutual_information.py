r"""Mutual information of samples, in nats, plain and conditional.

Notation:
    x, y, z     [n, d_x], [n, d_y], [n, d_z] n samples of three variables ([n] is read as d = 1)
    I(x; y)     E log p(x, y) / (p(x) p(y)) >= 0; zero only if x and y are independent
    I(x; y | z) I(x; (y, z)) - I(x; z) >= 0

Which estimator where (errors on the forty tasks of the public benchmark are in the README):
    "auto"           measures which of the four below fits, and says so
    "copula"         elliptical dependence with any marginals, dozens of dimensions, n of a few times d; the only
                     one without bias there
    "ksg"            any dependence with a density, up to about five dimensions each, n of thousands; too low
                     beyond, and where the dependence is very strong
    "canonical_ksg"  any dependence that shows in a few correlated directions of many
    "infonce"        any dependence in many dimensions, n of thousands; a lower bound
    "gaussian"       Gaussian variables (canonical correlations); differentiable
    "matrix"         a relative measure between zero and log n, for few samples of embeddings; differentiable

Estimates below zero are noise about zero and are returned as zero.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from ggmi_callbacks.functional._auto import Choice, choose
from ggmi_callbacks.functional._checks import check_choice
from ggmi_callbacks.functional._copula import fit_copula, gaussian_information, information_of_copula
from ggmi_callbacks.functional._estimate import Estimate, total
from ggmi_callbacks.functional._infonce import infonce_information
from ggmi_callbacks.functional._interval import Interval, check_confidence, like
from ggmi_callbacks.functional._ksg import canonical_ksg_information, ksg_information
from ggmi_callbacks.functional._samples import as_samples, check_neighbours, check_rows
from ggmi_callbacks.functional.matrix_entropy import gram_entropy, gram_matrix

MutualInformationEstimator = Literal["auto", "copula", "ksg", "canonical_ksg", "infonce", "gaussian", "matrix"]
ESTIMATORS = ("auto", "copula", "ksg", "canonical_ksg", "infonce", "gaussian", "matrix")
CONDITIONAL_ESTIMATORS = tuple(name for name in ESTIMATORS if name != "canonical_ksg")
MutualInformationChoice = Choice


@overload
def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    estimator: MutualInformationEstimator = ...,
    k: int = ...,
    seed: int = ...,
    progress: bool = ...,
    confidence: None = ...,
) -> Tensor: ...
@overload
def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    estimator: MutualInformationEstimator = ...,
    k: int = ...,
    seed: int = ...,
    progress: bool = ...,
    confidence: float,
) -> Interval: ...
def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    estimator: MutualInformationEstimator = "auto",
    k: int = 5,
    seed: int = 0,
    progress: bool = True,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Mutual information I(x; y) of paired samples.

    .. math::
        I(x; y) = E \log \frac{p(x, y)}{p(x)\, p(y)}

    ``"gaussian"`` and ``"matrix"`` are differentiable, the others return a constant. For a null control pass
    shuffled pairs, ``y[torch.randperm(n)]``: the truth is then zero.

    Args:
        x: [n, d_x] or [n] samples.
        y: [n, d_y] or [n] samples; row i belongs to row i of x.
        estimator: see the table at the top of this module. What auto chose is in :func:`choose_estimator`, and logged
            at level INFO. ``"infonce"`` trains at most 5 critics for 5000 steps of 256 pairs each and stops early:
            at n = 5000 one call took 1 to 45 s on one core, half of them less than 4 s. ``"auto"`` takes about as
            long where it trains one, and a second or two where it does not; the others take less.
        k: number of neighbours, for ``"ksg"``, ``"canonical_ksg"`` and ``"auto"``.
        seed: seed of what is random in ``"auto"``, ``"canonical_ksg"`` and ``"infonce"``; no global random state
            moves.
        progress: show a progress bar while a critic is trained.
        confidence: None for a 0-dim tensor, or the level of a closed-form interval from the spread of the pointwise
            information (with neighbours, twice its variance, as their values are correlated); bias is not part of it.

    Returns:
        0-dim tensor in nats, at least zero, or an :class:`Interval`.

    Raises:
        ValueError: If shapes do not match, an argument is out of range, there are too few samples, or columns
            depend on each other linearly where that matters.

    Source:
        Kraskov et al., Phys. Rev. E 69, 066138 (2004) for ``"ksg"``; Sanchez Giraldo et al. (2015) for
        ``"matrix"``; van den Oord et al. (2018) for ``"infonce"``; the rule of ``"auto"`` is ours.

    Example:
        >>> import torch
        >>> x, noise = torch.randn(2, 2000, generator=torch.Generator().manual_seed(3))
        >>> y = 0.6 * x + 0.8 * noise  # I = -log(0.8) = 0.223
        >>> bool(abs(mutual_information(x, y, estimator="ksg") - 0.223) < 0.05)
        True
        >>> value, low, high = mutual_information(x, y, confidence=0.95)
        >>> bool(low < 0.223 < high)
        True
    """
    check_confidence(confidence)
    check_choice("estimator", estimator, ESTIMATORS)
    variables = [as_samples(x=x), as_samples(y=y)]
    check_rows(x=x, y=y)
    estimate = _estimate(variables, estimator, k, seed, progress, confidence is not None)
    return like(estimate.finish(confidence, floor=0.0), x, y)


@overload
def conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    estimator: MutualInformationEstimator = ...,
    k: int = ...,
    seed: int = ...,
    progress: bool = ...,
    confidence: None = ...,
) -> Tensor: ...
@overload
def conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    estimator: MutualInformationEstimator = ...,
    k: int = ...,
    seed: int = ...,
    progress: bool = ...,
    confidence: float,
) -> Interval: ...
def conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    estimator: MutualInformationEstimator = "auto",
    k: int = 5,
    seed: int = 0,
    progress: bool = True,
    confidence: float | None = None,
) -> Tensor | Interval:
    r"""Conditional mutual information I(x; y | z) of samples.

    .. math::
        I(x; y \mid z) = E \log \frac{p(x, y \mid z)}{p(x \mid z)\, p(y \mid z)}

    ``"gaussian"``, ``"copula"``, ``"ksg"`` (Frenzel and Pompe) and ``"matrix"`` estimate it directly,
    ``"infonce"`` as I(x; (y, z)) - I(x; z), a difference of two lower bounds and so no bound.
    ``"canonical_ksg"`` has no conditional form.

    Args:
        x: [n, d_x] or [n] samples.
        y: [n, d_y] or [n] samples.
        z: [n, d_z] or [n] samples of what is conditioned on.
        estimator: as in :func:`mutual_information`.
        k: as in :func:`mutual_information`.
        seed: as in :func:`mutual_information`.
        progress: as in :func:`mutual_information`.
        confidence: as in :func:`mutual_information`.

    Returns:
        0-dim tensor in nats, at least zero, or an :class:`Interval`.

    Raises:
        ValueError: As :func:`mutual_information`.

    Source:
        Frenzel and Pompe, Phys. Rev. Lett. 99, 204101 (2007) for ``"ksg"``.

    Example:
        >>> import torch
        >>> x, y, z = torch.randn(3, 2000, generator=torch.Generator().manual_seed(0))
        >>> value = conditional_mutual_information(x + z, y + z, z, estimator="ksg")  # all they share is z
        >>> bool(value < 0.05)
        True
    """
    check_confidence(confidence)
    check_choice("estimator", estimator, CONDITIONAL_ESTIMATORS)
    variables = [as_samples(x=x), as_samples(y=y), as_samples(z=z)]
    check_rows(x=x, y=y, z=z)
    estimate = _estimate(variables, estimator, k, seed, progress, confidence is not None)
    return like(estimate.finish(confidence, floor=0.0), x, y, z)


def choose_estimator(
    x: Tensor, y: Tensor, z: Tensor | None = None, *, k: int = 5, seed: int = 0, progress: bool = True
) -> MutualInformationChoice:
    """What ``estimator="auto"`` chooses for these samples, why, and the value of each estimator it tried.

    Its rule: an elliptical copula (Gaussian or Student-t, any marginals) is fitted first. If nearest neighbours
    see no more and no less on the samples than on samples drawn from that copula, within three standard errors,
    it is the answer. Otherwise the largest of the neighbours' estimates, corrected by the error that they make on
    the copula, and, in more than three dimensions, of a trained critic.

    Args:
        x: as in :func:`mutual_information`.
        y: as in :func:`mutual_information`.
        z: None, or what to condition on.
        k: as in :func:`mutual_information`.
        seed: as in :func:`mutual_information`.
        progress: as in :func:`mutual_information`.

    Returns:
        A named tuple ``(estimator, reason, estimates)``.

    Raises:
        ValueError: As :func:`mutual_information`.

    Example:
        >>> import torch
        >>> x, noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
        >>> choose_estimator(x, (x + noise).exp()).estimator
        'copula'
        >>> choose_estimator(x, x**2 + 0.1 * noise).estimator
        'ksg'
    """
    given = {"x": x, "y": y} | ({} if z is None else {"z": z})
    variables = [as_samples(**{name: v}) for name, v in given.items()]
    check_rows(**given)
    check_neighbours(k, len(x))
    return choose([v.detach() for v in variables], k, seed, progress)[1]


def _estimate(variables: list[Tensor], estimator: str, k: int, seed: int, progress: bool, pointwise: bool) -> Estimate:
    """Estimate I of [x, y] or [x, y, z] by name."""
    if estimator == "gaussian":
        return gaussian_information(torch.cat(variables, 1), _dims(variables), pointwise)
    if estimator == "matrix":
        return _matrix_information(variables, pointwise)
    check_neighbours(k, len(variables[0]))
    variables = [v.detach() for v in variables]
    if estimator == "auto":
        return choose(variables, k, seed, progress)[0]
    if estimator == "ksg":
        return ksg_information(variables, k)
    if estimator == "canonical_ksg":
        return canonical_ksg_information(variables[0], variables[1], k, torch.Generator().manual_seed(seed))
    if estimator == "infonce":
        return infonce_information(variables, seed, progress)
    data = torch.cat(variables, 1)
    return information_of_copula(data, fit_copula(data), _dims(variables))[0]


def _dims(variables: list[Tensor]) -> tuple[int, ...]:
    """Dimensions of x, y and z; zero for no z."""
    return (*(v.shape[1] for v in variables), 0)[:3]


def _matrix_information(variables: list[Tensor], pointwise: bool) -> Estimate:
    """S(x, z) + S(y, z) - S(z) - S(x, y, z); the joint Gram matrix is the product of the single ones."""
    x, y, *rest = [gram_matrix(v) for v in variables]
    if not rest:
        plus, minus = [x, y], [x * y]
    else:
        (z,) = rest
        plus, minus = [x * z, y * z], [z, x * y * z]

    def entropies(grams: list[Tensor]) -> list[Estimate]:
        return [gram_entropy(gram, pointwise=pointwise) for gram in grams]

    return total(entropies(plus), entropies(minus))
