r"""Which estimator fits these samples: a copula if it explains them, and what it leaves unexplained if not.

Notation:
    C           I of the fitted elliptical copula (Gaussian or Student-t), less its bias; c_i its pointwise values
    K, k_i      a nearest-neighbour estimate of I on normal scores, and its pointwise values
    Delta       mean(k - c) on the samples minus mean(k - c) on as many samples drawn from the copula itself and
                treated alike: what neighbours see beyond the copula, their own bias cancelled
    s           standard error of Delta

The rule:
1. If |Delta| < 4 s, the copula explains the samples: the answer is C. So it is for Gaussian and elliptical
   dependence with any marginals, where C is all but unbiased even in dozens of dimensions.
2. Otherwise the answer is the largest of C + Delta with neighbours in all dimensions, the same on the (up to
   three) canonical pairs that correlate on held-out samples, and the held-out InfoNCE bound of a trained critic.
   All three miss information rather than invent it. The critic is only trained in more than three dimensions:
   below, neighbours miss next to nothing.
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.functional._copula import (
    EllipticalCopula,
    fit_copula,
    fit_correlation,
    gaussian_pointwise,
    information_of_copula,
    mid_ranks,
    normal_scores,
    sample_copula,
    t_scores,
    with_information,
)
from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._infonce import FEWEST, infonce_information
from ggmi_callbacks.functional._ksg import (
    MOST_PAIRS,
    canonical_pairs,
    canonical_rank,
    ksg_pointwise,
    truncated_cross_correlation,
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
    choice = Choice(name, reason + note, {name: float(estimate.value) for name, estimate in estimates.items()})
    _LOG.info("mutual information by %s: %s", choice.estimator, choice.reason)
    return estimates[name], choice


def _reduced(variables: list[Tensor]) -> tuple[list[Tensor], str]:
    """Leading principal components where there are fewer than four samples per dimension."""
    n, dimensions = len(variables[0]), sum(v.shape[1] for v in variables)
    if n >= 4 * dimensions:
        return variables, ""
    keep = max(1, n // 12)
    small = []
    for v in variables:
        centred = v - v.mean(0)
        left, values, _ = torch.linalg.svd(centred, full_matrices=False)
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
    seen = _neighbours(data, dims, k, rank, pointwise)
    control = _neighbours(drawn, dims, k, rank, drawn_pointwise)
    # In few dimensions neighbours have next to no bias to correct, and a correction would only add noise.
    correct = sum(dims) > _LOW_DIMENSION
    return {name: _residual(base, *seen[name], control[name][1], correct, n) for name in seen}


def _neighbours(
    data: Tensor, dims: tuple[int, ...], k: int, rank: int, pointwise: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """By name the pointwise neighbour estimates [n], and how far they exceed those of a parametric model.

    In all dimensions the model is the copula. On canonical pairs, looked at only if they are fewer than the
    dimensions, it is the Gaussian of these very pairs, as they leave out what the copula finds elsewhere.
    """
    variables = normal_scores(data).split([d for d in dims if d], 1)
    found = {"ksg": (ksg_pointwise(list(variables), k), pointwise)}
    rank = min(rank, MOST_PAIRS)
    if 0 < rank < max(dims):
        pairs = canonical_pairs(variables[0], variables[1], rank)
        gaussian = gaussian_pointwise(torch.cat(pairs, 1), (rank, rank, 0))
        found["canonical_ksg"] = (ksg_pointwise(list(pairs), k, scaled=True), gaussian)
    return {name: (seen, seen - model) for name, (seen, model) in found.items()}


def _residual(base: Estimate, seen: Tensor, gap: Tensor, control: Tensor, correct: bool, n: int) -> _Residual:
    """C + Delta from what neighbours see on the samples, and its gap to the model there and on the control."""
    noise = float(control.std()) / len(control) ** 0.5
    bias = float(control.mean())
    if not correct or abs(bias) < 2 * noise:
        bias = noise = 0.0
    delta = float(gap.mean()) - bias
    error = math.hypot(float(gap.std()) / len(gap) ** 0.5, noise)
    return _Residual(Estimate(base.value + delta, seen, n, noise), delta, error)
