"""Trace of a function of a large positive semi-definite matrix, without its eigenvalues.

Notation:
    A         [n, n] symmetric, eigenvalues in [0, 1], trace one
    Q         [n, q] orthonormal leading eigenvectors, those that a few subspace iterations bring to convergence;
              P = 1 - Q Q^T
    tr f(A)   = sum of f over the eigenvalues on Q + tr f(P A P), and the second term is the mean of
              v^T f(P A P) v over random signs w, v = P w, by Lanczos quadrature

The leading eigenvalues carry most of the variance of the random signs; with them out of the way some dozens of
probes do.

Source: Meyer et al., Hutch++ (2021), for the deflation; Ubaru, Chen and Saad (2017) for the quadrature.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_LEADING = 96
_POWER_STEPS = 2
_CONVERGED = 1e-2  # residual of an eigenvector relative to its eigenvalue; f feels the square of it
_LANCZOS_STEPS = 32
_PROBES = 16
_MOST_PROBES = 512


@torch.no_grad()
def trace_of_function(
    a: Tensor, function: Callable[[Tensor], Tensor], tolerance: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Estimate tr f(A), and the error of the estimate.

    Args:
        a: [n, n] in float64, symmetric positive semi-definite with trace one.
        function: f, elementwise, with f(0) = 0.
        tolerance: probes are added, 16 at a time, until their standard error is at most this share of the trace.
        seed: seed of the probes; no global random state moves.

    Returns:
        The trace, and the root of the squared standard error of the probes plus the squared change that the last
        quarter of the Lanczos steps made.

    Raises:
        RuntimeError: If 512 probes do not reach the tolerance.
    """
    generator = torch.Generator().manual_seed(seed)
    values, basis = _leading(a, generator)
    head = function(values.clamp_min(0)).sum()
    forms = torch.empty(2, 0, dtype=a.dtype, device=a.device)
    while forms.shape[1] < _MOST_PROBES:
        signs = torch.randint(0, 2, (a.shape[0], _PROBES), generator=generator).to(a) * 2 - 1
        alphas, betas, squared = _lanczos(a, basis, signs)
        steps = (_LANCZOS_STEPS, 3 * _LANCZOS_STEPS // 4)
        new = [squared * _quadrature(alphas[:, :s], betas[:, : s - 1], function) for s in steps]
        forms = torch.cat((forms, torch.stack(new)), 1)
        trace = head + forms[0].mean()
        error = forms[0].std() / forms.shape[1] ** 0.5
        if error <= tolerance * trace:
            return trace, torch.hypot(error, (forms[0] - forms[1]).mean())
    raise RuntimeError(
        f"{_MOST_PROBES} random probes left a standard error of {float(error):.3g} in the trace of a kernel matrix; "
        "raise `max_exact` to the number of samples, or take fewer samples."
    )


@torch.no_grad()
def largest_eigenvalue(a: Tensor, seed: int = 0) -> Tensor:
    """The largest eigenvalue of A from 128 Lanczos steps; a lower bound."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(a.shape[0], 1, dtype=a.dtype, generator=generator).to(a.device)
    alphas, betas, _ = _lanczos(a, start[:, :0], start, steps=128)
    return torch.linalg.eigvalsh(_tridiagonal(alphas, betas[:, :-1]))[0, -1]


def _leading(a: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The converged leading eigenvalues [q] and eigenvectors [n, q] of A."""
    n = a.shape[0]
    q = torch.randn(n, min(_LEADING, n), dtype=a.dtype, generator=generator).to(a.device)
    for _ in range(_POWER_STEPS):
        q = torch.linalg.qr(a @ q).Q
    image = a @ q
    values, rotation = torch.linalg.eigh(q.T @ image)
    q = q @ rotation
    residual = (image @ rotation - q * values).norm(dim=0)
    converged = residual <= _CONVERGED * values
    return values[converged], q[:, converged]


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


def _quadrature(alphas: Tensor, betas: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """First entry of f(T) for each tridiagonal T: Gauss quadrature of v^T f(P A P) v with |v| = 1."""
    nodes, vectors = torch.linalg.eigh(_tridiagonal(alphas, betas))  # [m, s], [m, s, s]
    return (vectors[:, 0].square() * function(nodes.clamp_min(0))).sum(1)
