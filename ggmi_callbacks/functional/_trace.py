"""Trace of a function of a large positive semi-definite matrix, without its eigenvalues.

Notation:
    A         [n, n] symmetric, eigenvalues in [0, 1], trace one
    Q         [n, q] orthonormal leading eigenvectors, those that a few subspace iterations bring to convergence;
              P = 1 - Q Q^T
    B         P A P on the span of P, the rest of the spectrum
    p         the parabola nearest to f on the rest of the spectrum
    tr f(A)   = sum of f over the eigenvalues on Q + tr p(B) + tr (f - p)(B); the second term is exact, since
              tr 1, tr B and tr B^2 cost n^2, and the third is the mean of v^T (f - p)(B) v over random signs w,
              v = P w, by Lanczos quadrature

The leading eigenvalues and the parabola carry nearly all of the variance of the random signs. Without them sixteen
probes do.

Source: Meyer et al., Hutch++ (2021), for the deflation; Ubaru, Chen and Saad (2017) for the quadrature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_LEADING = 96
_POWER_STEPS = 3
_CONVERGED = 3e-3  # residual of an eigenvector relative to its eigenvalue; f feels the square of it
_LANCZOS_STEPS = 24
_FEWER_STEPS = 18
_PROBES = 16
_RESOLVED = 1e-6  # below this, differences of traces are rounding


@torch.no_grad()
def trace_of_function(a: Tensor, function: Callable[[Tensor], Tensor], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Estimate tr f(A), and the error of the estimate.

    Args:
        a: [n, n] in float64, symmetric positive semi-definite.
        function: f, elementwise, with f(0) = 0.
        seed: seed of the probes; no global random state moves.

    Returns:
        The trace, and its error: the standard error of the probes and, squares added, three times the change that
        the last quarter of the Lanczos steps made (what is left if they converge as slowly as 1 / steps).
    """
    generator = torch.Generator().manual_seed(seed)
    values, basis, residuals = _leading(a, generator)
    signs = torch.randint(0, 2, (a.shape[0], _PROBES), generator=generator).to(a) * 2 - 1
    alphas, betas, squared = _lanczos(a, basis, signs)
    fine = _gauss(alphas, betas[:, :-1])
    coarse = _gauss(alphas[:, :_FEWER_STEPS], betas[:, : _FEWER_STEPS - 1])
    rest = torch.stack(
        [
            a.new_tensor(a.shape[0] - basis.shape[1]),
            a.diagonal().sum() - values.sum(),
            torch.linalg.vector_norm(a).square() - values.square().sum() - 2 * residuals.square().sum(),
        ]
    )  # tr 1, tr B, tr B^2
    traces = [a.new_empty(0), a.new_empty(0)]
    for half in (slice(0, _PROBES // 2), slice(_PROBES // 2, None)):
        fit = _fit(fine[0][half], fine[1][half], function)
        other = slice(_PROBES // 2, None) if half.start == 0 else slice(0, _PROBES // 2)
        for g, (nodes, weights) in enumerate((fine, coarse)):
            # The parabola of one half serves the other: on its own probes it would look better than it is.
            gap = (weights * (function(nodes) - _powers(nodes) @ fit))[other].sum(1)
            traces[g] = torch.cat((traces[g], rest @ fit + squared[other] * gap))
    error = torch.hypot(traces[0].std() / _PROBES**0.5, 3 * (traces[0] - traces[1]).mean())
    return function(values).sum() + traces[0].mean(), error


def _powers(x: Tensor) -> Tensor:
    return torch.stack((torch.ones_like(x), x, x.square()), -1)


def _fit(nodes: Tensor, weights: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Coefficients [3] of the parabola nearest to f on the spectrum."""
    scale = nodes.max()
    if scale < _RESOLVED:
        return nodes.new_zeros(3)
    root = weights.sqrt().reshape(-1, 1)
    basis = root * _powers(nodes.reshape(-1) / scale)
    fit = torch.linalg.lstsq(basis, root * function(nodes.reshape(-1, 1))).solution[:, 0]
    return fit / _powers(scale)


@torch.no_grad()
def largest_eigenvalue(a: Tensor, seed: int = 0) -> Tensor:
    """The largest eigenvalue of A from 128 Lanczos steps; a lower bound."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(a.shape[0], 1, dtype=a.dtype, generator=generator).to(a.device)
    alphas, betas, _ = _lanczos(a, start[:, :0], start, steps=128)
    return torch.linalg.eigvalsh(_tridiagonal(alphas, betas[:, :-1]))[0, -1]


def _leading(a: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The converged leading eigenvalues [q] and eigenvectors [n, q] of A, and the norms [q] of their residuals."""
    n = a.shape[0]
    q = torch.randn(n, min(_LEADING, n), dtype=a.dtype, generator=generator).to(a.device)
    for _ in range(_POWER_STEPS):
        q = torch.linalg.qr(a @ q).Q
    image = a @ q
    values, rotation = torch.linalg.eigh(q.T @ image)
    q = q @ rotation
    residual = (image @ rotation - q * values).norm(dim=0)
    converged = residual <= _CONVERGED * values
    return values[converged], q[:, converged], residual[converged]


def _lanczos(a: Tensor, basis: Tensor, start: Tensor, steps: int = _LANCZOS_STEPS) -> tuple[Tensor, Tensor, Tensor]:
    """Lanczos with full reorthogonalisation on P A P from m starts [n, m]: alphas and betas [m, s], |P start|^2."""

    def project(v: Tensor) -> Tensor:
        return v - basis @ (basis.T @ v)

    v = project(start)
    length = v.norm(dim=0)  # [m]
    past = a.new_zeros(steps + 1, *start.shape)  # [s + 1, n, m]
    past[0] = v / length
    alphas, betas = [], []
    for s in range(steps):
        w = project(a @ past[s])
        alphas.append((w * past[s]).sum(0))
        for _ in range(2):  # once is not enough in floating point
            w = w - (past[: s + 1] * (past[: s + 1] * w).sum(1, keepdim=True)).sum(0)
        betas.append(w.norm(dim=0))
        past[s + 1] = w / betas[-1].clamp_min(torch.finfo(a.dtype).tiny)
    return torch.stack(alphas, 1), torch.stack(betas, 1), length.square()


def _tridiagonal(alphas: Tensor, betas: Tensor) -> Tensor:
    lower = torch.diag_embed(betas, offset=-1)
    return torch.diag_embed(alphas) + lower + lower.mT


def _gauss(alphas: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights [m, s] of the Gauss quadrature that each tridiagonal matrix stands for."""
    nodes, vectors = torch.linalg.eigh(_tridiagonal(alphas, betas))  # [m, s], [m, s, s]
    return nodes.clamp_min(0), vectors[:, 0].square()
