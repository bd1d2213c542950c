"""The estimators of mutual information by their names."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._samples import check_copies, check_neighbours
from ggmi_callbacks.functional.mutual_information._auto import choose
from ggmi_callbacks.functional.mutual_information._canonical import canonical_ksg_information
from ggmi_callbacks.functional.mutual_information._copula import fit_copula, information_of_copula
from ggmi_callbacks.functional.mutual_information._gaussian import gaussian_information
from ggmi_callbacks.functional.mutual_information._infonce import infonce_information
from ggmi_callbacks.functional.mutual_information._ksg import ksg_information
from ggmi_callbacks.functional.mutual_information._matrix import matrix_information

MutualInformationEstimator = Literal["auto", "copula", "ksg", "canonical_ksg", "infonce", "gaussian", "matrix"]
ESTIMATORS = ("auto", "copula", "ksg", "canonical_ksg", "infonce", "gaussian", "matrix")
CONDITIONAL_ESTIMATORS = tuple(name for name in ESTIMATORS if name != "canonical_ksg")

# Of Gaussian pairs of 2 nats, at n = 2000, KSG finds 1.93 in two dimensions each, 1.46 in five, 0.57 in twenty.
_MOST_DIMENSIONS = 5
# In one dimension it is right to 3 % up to 1.5 nats below the most that it can find, and 10 % too low at 0.9.
_FROM_THE_MOST = 1.0


def estimate_by_name(
    variables: list[Tensor], estimator: str, k: int, seed: int, progress: bool, pointwise: bool
) -> Estimate:
    """Estimate I of [x, y] or [x, y, z] by name."""
    if estimator == "gaussian":
        return gaussian_information(torch.cat(variables, 1), _dims(variables), pointwise)
    if estimator == "matrix":
        _warn(
            'estimator="matrix" gives the matrix-based information, a relative measure in [0, log n], and not I(x; y): '
            "compare it at one n and one kernel alone."
        )
        return matrix_information(variables, pointwise)
    check_neighbours(k, len(variables[0]))
    variables = [v.detach() for v in variables]
    if estimator == "copula":
        data = torch.cat(variables, 1)
        return information_of_copula(data, fit_copula(data), _dims(variables))[0]
    check_copies(k, **dict(zip("xyz", variables, strict=False)))
    if estimator == "auto":
        return choose(variables, k, seed, progress)[0]
    if estimator == "infonce":
        return infonce_information(variables, seed, progress)
    if estimator == "ksg":
        estimate = ksg_information(variables, k)
    else:
        estimate = canonical_ksg_information(variables[0], variables[1], k, torch.Generator().manual_seed(seed))
    for doubt in _doubts(estimate, estimator, max(_dims(variables)), k):
        _warn(doubt)
    return estimate


def _doubts(estimate: Estimate, estimator: str, d: int, k: int) -> list[str]:
    """Why an estimate from nearest neighbours may be too low."""
    doubts = []
    if estimator == "ksg" and d > _MOST_DIMENSIONS:
        doubts.append(
            f'estimator="ksg" is too low in more than {_MOST_DIMENSIONS} dimensions but got {d}; use "auto", "copula" '
            'or "infonce".'
        )
    most = float(torch.digamma(torch.tensor([estimate.n, k], dtype=torch.float64)).diff().neg())
    if estimate.value > most - _FROM_THE_MOST:
        doubts.append(
            f'estimator="{estimator}" finds {float(estimate.value):.2f} nats, near the {most:.2f} that it can find in '
            f'{estimate.n} samples, so it is too low; use more samples, "auto" or "copula".'
        )
    return doubts


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)  # where the public function was called


def _dims(variables: list[Tensor]) -> tuple[int, ...]:
    """Dimensions of x, y and z; zero for no z."""
    return (*(v.shape[1] for v in variables), 0)[:3]
