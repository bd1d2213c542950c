r"""Mutual information of Gaussian variables, unbiased.

Notation:
    n, D   samples, dimensions of all variables together
    W      scatter matrix of the samples; Wishart with n - 1 degrees of freedom
    I      I(x; y | z) = sum of log det W / 2 over the blocks (x, z) and (y, z), minus those of z and (x, y, z)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ggmi_callbacks.functional._estimate import Estimate
from ggmi_callbacks.functional._samples import covariance_factor

NAMES = "x`, `y` and `z"  # of the arguments, in errors


def wishart_bias(n: int, dims: list[int], signs: list[int]) -> float:
    """Expected sum of signs * log det W / 2 minus that of the true covariances, over blocks of ``dims``."""

    def expected(d: int) -> float:
        dof = (n - 1 - torch.arange(d, dtype=torch.float64)) / 2
        return float(torch.digamma(dof).sum()) / 2

    return sum(sign * expected(d) for sign, d in zip(signs, dims, strict=True))


def blocks(dims: tuple[int, ...]) -> tuple[list[list[int]], list[int]]:
    """Column indices of (x, z), (y, z), z and (x, y, z), and their signs in I(x; y | z)."""
    d_x, d_y, d_z = dims
    x, y = list(range(d_x)), list(range(d_x, d_x + d_y))
    z = list(range(d_x + d_y, d_x + d_y + d_z))
    return [x + z, y + z, z, x + y + z], [1, 1, -1, -1]


def gaussian_information(data: Tensor, dims: tuple[int, ...], pointwise: bool) -> Estimate:
    """I(x; y | z) of Gaussian columns [n, D], unbiased; ``dims`` are those of x, y and z."""
    n = len(data)
    groups, signs = blocks(dims)
    value = data.new_tensor(-wishart_bias(n, [len(columns) for columns in groups], signs))
    for columns, sign in zip(groups, signs, strict=True):
        if columns:
            value = value + sign * _factor(data[:, columns]).diagonal().log().sum()
    spread = gaussian_pointwise(data.detach(), dims) if pointwise else None
    return Estimate(value, spread, n, second_order_error(dims, n))


def second_order_error(dims: tuple[int, ...], n: int) -> float:
    """Spread that is left at independence, where the first order vanishes: chi-squared with d_x d_y degrees, / 2n."""
    return math.sqrt(dims[0] * dims[1] / 2) / n


def gaussian_pointwise(data: Tensor, dims: tuple[int, ...]) -> Tensor:
    """[n] pointwise information of Gaussian columns under their sample covariance."""
    n = len(data)
    values = data.new_zeros(n)
    for columns, sign in zip(*blocks(dims), strict=True):
        if columns:
            block = data[:, columns]
            factor = _factor(block)
            white = torch.linalg.solve_triangular(factor, (block - block.mean(0)).T, upper=False)
            values += sign * (factor.diagonal().log().sum() + n * white.square().sum(0) / 2)
    return values


def _factor(block: Tensor) -> Tensor:
    """Cholesky factor of the scatter matrix of columns [n, d]."""
    block = block - block.mean(0)
    return covariance_factor(block.T @ block, len(block), NAMES)
