r"""Which estimator fits these samples: a copula if it explains them, and what it leaves unexplained if not.

Notation:
    C           I of the fitted elliptical copula (Gaussian or Student-t), less its bias; c_i its pointwise values
    K, k_i      a nearest-neighbour estimate of I on normal scores, and its pointwise values
    Delta       mean(k - c) on the samples minus mean(k - c) on as many samples drawn from the copula itself and
                treated alike: what neighbours see beyond the copula, their own bias cancelled
    s           standard error of Delta

The rule:
0. If columns determine each other, no copula has a density: the answer is K on the samples as they are.
1. If |Delta| < 4 s, the copula explains the samples: the answer is C. So it is for Gaussian and elliptical
   dependence with any marginals, where C is all but unbiased even in dozens of dimensions.
2. Otherwise the answer is the largest of K in all dimensions, less its bias on the copula; C + Delta on the (up
   to three) canonical pairs that correlate on held-out samples, c_i then being the Gaussian of these pairs; and the
   held-out InfoNCE bound of a trained critic. All three miss information rather than invent it. In up to three
   dimensions in all there is no critic and half as many neighbours, as they miss next to nothing there.
Where ties would bias the neighbours (rounded data, counts), the columns that have them get uniform noise first
(:func:`break_ties`).
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._neighbours import standardise
from ggmi_callbacks.functional._samples import full_rank
from ggmi_callbacks.functional.mutual_information._canonical import (
    MOST_PAIRS,
    canonical_pairs,
    canonical_rank,
    truncated_cross_correlation,
)
from ggmi_callbacks.functional.mutual_information._copula import (
    EllipticalCopula,
    fit_copula,
    fit_correlation,
    information_of_copula,
    model_information,
    sample_copula,
    with_information,
)
from ggmi_callbacks.functional.mutual_information._gaussian import gaussian_pointwise
from ggmi_callbacks.functional.mutual_information._infonce import FEWEST, infonce_information
from ggmi_callbacks.functional.mutual_information._ksg import (
    TOLERATED_TIES,
    ksg_information,
    ksg_pointwise,
    neighbour_estimate,
    share_of_ties,
)
from ggmi_callbacks.functional.mutual_information._ranks import (
    break_ties,
    mid_ranks,
    normal_scores,
    t_scores,
    tied_columns,
)

_LOG = logging.getLogger(__name__)
_SIGNIFICANT = 4.0  # standard errors
_MOST_ROWS = 10_000  # for the neighbours, whose time grows with the square
_LOW_DIMENSION = 3


class Choice(NamedTuple):
    """What ``estimator="auto"`` chose and why.

    Attributes:
        estimator: ``"copula"``, ``"ksg"``, ``"canonical_ksg"`` or ``"infonce"``.
        reason: one sentence with the figures that decided.
        estimates: the value in nats of every estimator that was tried.
    """

    estimator: str
    reason: str
    estimates: dict[str, float]


class _Residual(NamedTuple):
    estimate: Estimate  # C + Delta
    delta: float
    error: float

    @property
    def significant(self) -> bool:
        return abs(self.delta) > _SIGNIFICANT * self.error


def choose(variables: list[Tensor], k: int, seed: int, progress: bool) -> tuple[Estimate, Choice]:
    """Apply the rule above to [x, y] or [x, y, z], each [n, d] in float64."""
    variables, note = _reduced(variables)
    dims = (*(v.shape[1] for v in variables), 0)[:3]
    generator = torch.Generator().manual_seed(seed)
    data = torch.cat(variables, 1)
    tied = tied_columns(data)
    if tied.any() and share_of_ties(list(_split(normal_scores(data), dims)), k) > TOLERATED_TIES:
        data = break_ties(data, tied, generator)
        variables = list(_split(data, dims))
        note += f"; ties in {int(tied.sum())} columns broken by uniform noise, which keeps their information"
    if not full_rank(normal_scores(data)):
        neighbours = ksg_information(variables, k)
        reason = "columns that determine each other leave a copula no density" + note
        return neighbours, _told(Choice("ksg", reason, {"ksg": float(neighbours.value)}))
    copula = fit_copula(data)
    base, pointwise = information_of_copula(data, copula, dims)
    kind = "Gaussian" if math.isinf(copula.nu) else f"Student-t (nu = {copula.nu:.3g})"
    residuals = _residuals(data, dims, copula, base, pointwise, k, generator)
    estimates = {"copula": base} | {name: residual.estimate for name, residual in residuals.items()}
    largest = max(residuals.values(), key=lambda residual: abs(residual.delta) / residual.error)
    figures = f"neighbours see {largest.delta:+.3f} nats beyond it, standard error {largest.error:.3f}"
    # Fewer pairs than there are dimensions may rightly see less than the copula; only more is a misfit.
    misfit = residuals["ksg"].significant or any(r.significant and r.delta > 0 for r in residuals.values())
    if not misfit:
        name, reason = "copula", f"a {kind} copula explains the samples: {figures}"
    else:
        if sum(dims) > _LOW_DIMENSION and len(data) >= FEWEST:
            estimates["infonce"] = infonce_information(variables, seed, progress)
        name = max((name for name in estimates if name != "copula"), key=lambda name: float(estimates[name].value))
        reason = f"a {kind} copula does not explain the samples ({figures}), and {name} finds the most"
    values = {name: float(estimate.value) for name, estimate in estimates.items()}
    return estimates[name], _told(Choice(name, reason + note, values))


def _told(choice: Choice) -> Choice:
    _LOG.info("mutual information by %s: %s", choice.estimator, choice.reason)
    return choice


def _reduced(variables: list[Tensor]) -> tuple[list[Tensor], str]:
    """Leading principal components where there are fewer than four samples per dimension."""
    n, dimensions = len(variables[0]), sum(v.shape[1] for v in variables)
    if n >= 4 * dimensions:
        return variables, ""
    keep = max(1, n // 12)
    small = []
    for v in variables:
        left, values, _ = torch.linalg.svd(standardise(v), full_matrices=False)
        small.append((left * values)[:, :keep] if v.shape[1] > keep else v)
    return small, f"; reduced to at most {keep} principal components each, as n = {n} is small for {dimensions} columns"


def _residuals(
    data: Tensor,
    dims: tuple[int, ...],
    copula: EllipticalCopula,
    base: Estimate,
    pointwise: Tensor,
    k: int,
    generator: torch.Generator,
) -> dict[str, _Residual]:
    """What neighbours see beyond the copula, in all dimensions and on canonical pairs."""
    n = len(data)
    if n > _MOST_ROWS:
        rows = torch.randperm(n, generator=generator)[:_MOST_ROWS].to(data.device)
        data, pointwise = data[rows], pointwise[rows]
    d_x, d_y, d_z = dims
    cross, rank = copula.correlation[:d_x, d_x : d_x + d_y], 0
    if d_z == 0:
        rank = canonical_rank(data[:, :d_x], data[:, d_x:], generator)
        cross = truncated_cross_correlation(copula.correlation, d_x, rank)
    truth = with_information(copula, dims, cross, float(base.value))
    drawn = sample_copula(truth, len(data), generator).to(data.device)
    refit = EllipticalCopula(copula.nu, fit_correlation(t_scores(mid_ranks(drawn), copula.nu), copula.nu))
    _, drawn_pointwise = information_of_copula(drawn, refit, dims)
    # What fitting adds to the pointwise values, on the samples and on those drawn alike.
    excess = model_information(copula, dims) - float(base.value)
    few = sum(dims) <= _LOW_DIMENSION
    if few:
        k = (k + 1) // 2  # where there is no other bias, that of large neighbourhoods is the larger part
    seen = _look(data, dims, k, rank, pointwise - excess)
    control = _look(drawn, dims, k, rank, drawn_pointwise - excess)
    return {name: _residual(base, seen[name], control[name], few, n) for name in seen}


def _split(data: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, ...]:
    """The columns of x, y and, if there is one, z."""
    return data.split([d for d in dims if d], 1)


class _View(NamedTuple):
    """Pointwise neighbour estimates [n] of all or a part of the information, and those of a model of the same."""

    neighbours: Tensor
    model: Tensor
    complete: bool


def _look(data: Tensor, dims: tuple[int, ...], k: int, rank: int, pointwise: Tensor) -> dict[str, _View]:
    """Neighbours in all dimensions against the copula and, if fewer, on canonical pairs against their Gaussian."""
    variables = _split(normal_scores(data), dims)
    views = {"ksg": _View(ksg_pointwise(list(variables), k), pointwise, complete=True)}
    rank = min(rank, MOST_PAIRS)
    if 0 < rank < max(dims):
        pairs = canonical_pairs(variables[0], variables[1], rank)
        gaussian = gaussian_pointwise(torch.cat(pairs, 1), (rank, rank, 0))
        views["canonical_ksg"] = _View(ksg_pointwise(list(pairs), k, scaled=True), gaussian, complete=False)
    return views


def _residual(base: Estimate, seen: _View, control: _View, few: bool, n: int) -> _Residual:
    """Delta, and the estimate that follows from it where the copula fails."""
    gap, model_gap = seen.neighbours - seen.model, control.neighbours - control.model
    bias, noise = float(model_gap.mean()), float(model_gap.std()) / len(model_gap) ** 0.5
    # In few dimensions neighbours have next to no bias: there, as below its own noise, a correction only adds noise.
    if few or abs(bias) < 2 * noise:
        bias = noise = 0.0
    delta = float(gap.mean()) - bias
    error = math.hypot(float(gap.std()) / len(gap) ** 0.5, noise)
    value = seen.neighbours.mean() - bias if seen.complete else base.value + delta
    estimate = neighbour_estimate(seen.neighbours)._replace(value=value, n=n, error=noise)
    return _Residual(estimate, delta, error)
