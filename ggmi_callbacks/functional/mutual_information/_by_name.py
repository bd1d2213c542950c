"""The estimators of mutual information by their names."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._samples import check_neighbours
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


def estimate_by_name(
    variables: list[Tensor], estimator: str, k: int, seed: int, progress: bool, pointwise: bool
) -> Estimate:
    """Estimate I of [x, y] or [x, y, z] by name."""
    if estimator == "gaussian":
        return gaussian_information(torch.cat(variables, 1), _dims(variables), pointwise)
    if estimator == "matrix":
        return matrix_information(variables, pointwise)
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
