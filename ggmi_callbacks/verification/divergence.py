r"""Divergences between Gaussian mixtures: Monte Carlo on exact densities, and histograms to see what bins do.

Notation
    p, q    mixtures, B of each; every estimate is [B], in nats
    KL      KL(p, q) = E_p[log p - log q] >= 0
    JS      E_p[log p - log m] / 2 + E_q[log q - log m] / 2 with m = (p + q) / 2, in [0, log 2]

Expectations are stratified: each component gives the same number of draws, weighted by the component's weight, so no
variance comes from which component a draw fell into. The error is the standard error of that estimate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ggmi_callbacks.verification.mixtures import Mixture


class Estimate(NamedTuple):
    """Monte Carlo values [B] (nats) with their standard errors [B]."""

    value: Tensor
    error: Tensor

    def minus(self, other: Estimate) -> Estimate:
        """Difference of two independent estimates."""
        return Estimate(self.value - other.value, torch.hypot(self.error, other.error))


class Divergences(NamedTuple):
    """Three divergences between mixtures p and q."""

    forward: Estimate  # KL(p, q)
    reverse: Estimate  # KL(q, p)
    jensen_shannon: Estimate


def divergences(p: Mixture, q: Mixture, draws: int, generator: torch.Generator) -> Divergences:
    """KL in both directions and Jensen-Shannon, from about ``draws`` draws of each mixture.

    Example:
        >>> import torch
        >>> standard = Mixture(torch.ones(1, 1), torch.zeros(1, 1, 2), torch.eye(2).expand(1, 1, 2, 2)).double()
        >>> shifted = Mixture(standard.weights, standard.means + 1, standard.cholesky)
        >>> value, error = divergences(standard, shifted, 10_000, torch.Generator().manual_seed(0)).forward
        >>> bool((value - 1).abs() < 4 * error)  # |shift|^2 / 2 = 1
        True
    """
    log_p, cross = _log_ratios(p, q, draws, generator)
    log_q, back = _log_ratios(q, p, draws, generator)
    halves = [
        _mean(mix, log - torch.logaddexp(log, other) + math.log(2))
        for mix, log, other in ((p, log_p, cross), (q, log_q, back))
    ]
    js = Estimate((halves[0].value + halves[1].value) / 2, torch.hypot(halves[0].error, halves[1].error) / 2)
    return Divergences(_mean(p, log_p - cross), _mean(q, log_q - back), js)


def entropy(p: Mixture, draws: int, generator: torch.Generator) -> Estimate:
    """Differential entropy of each mixture, by Monte Carlo on its own density."""
    log_p, _ = _log_ratios(p, p, draws, generator)
    return _mean(p, -log_p)


def _log_ratios(p: Mixture, q: Mixture, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Log-densities [B, C, n] of both mixtures at strata of the first."""
    x = p.strata(max(2, math.ceil(draws / p.weights.shape[1])), generator)
    flat = x.flatten(1, 2)
    return p.log_prob(flat).view(x.shape[:3]), q.log_prob(flat).view(x.shape[:3])


def _mean(p: Mixture, values: Tensor) -> Estimate:
    """Weighted mean over the strata of p of values [B, C, n], with its standard error."""
    variance = values.var(-1) / values.shape[-1]
    return Estimate((p.weights * values.mean(-1)).sum(-1), (p.weights.square() * variance).sum(-1).sqrt())


def histogram_kl(p: Tensor, q: Tensor, *, bins: int = 50, shared: bool = True) -> Tensor:
    r"""KL [B] between histograms of samples p and q [B, n, 2], ``bins`` to the side.

    With ``shared=False``, as the paper's script has it: each histogram spans its own sample's range, so that cells of
    the same index are different places, and KL(p, p) from two samples of one law reads 7 to 10 nats. With
    ``shared=True`` both span the union of the two ranges. In either case densities are clipped at 1e-10 from below
    (the script's floor), so empty cells dominate wherever the samples are fewer than the cells.

    Raises:
        ValueError: if the samples are not in two dimensions (fifty bins to the side in d dimensions are 50^d cells).
    """
    if p.shape[-1] != 2 or q.shape[-1] != 2:
        raise ValueError(
            f"Expected `p` and `q` to be samples [B, n, 2], but got {tuple(p.shape)} and {tuple(q.shape)}; "
            "use `divergences` in other dimensions."
        )
    both = torch.cat([p, q], dim=1)
    p_cells = _histogram(p, both if shared else p, bins)
    q_cells = _histogram(q, both if shared else q, bins)
    return (p_cells * (p_cells / q_cells).log()).sum(-1)


def _histogram(x: Tensor, span: Tensor, bins: int) -> Tensor:
    """Probability [B, bins^2] of the cells of a grid over the range of ``span``, none below the clip."""
    low, high = span.amin(1, keepdim=True), span.amax(1, keepdim=True)
    cell = ((x - low) / (high - low) * bins).long().clamp(max=bins - 1)
    index = cell[..., 0] * bins + cell[..., 1]
    counts = x.new_zeros(len(x), bins * bins).scatter_add_(1, index, torch.ones_like(x[..., 0]))
    volume = ((high - low) / bins).prod(-1)  # [B, 1]
    density = (counts / (x.shape[1] * volume)).clamp(min=1e-10)
    return density / density.sum(-1, keepdim=True)
