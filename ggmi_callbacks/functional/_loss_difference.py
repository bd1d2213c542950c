"""Counting pairs of twins by their loss difference, and the information such counts hold.

Notation:
    D           loss of the held-out twin minus loss of the held-in one; its sign tells, if anything does, who
                was in
    counts      [CELLS, 2] pairs by cell of |D| and by sign of D: fixed in size, added up over batches and
                ranks
    bins        [bins, 2] the same in fewer, equally filled bins of |D|; k_s pairs of sign s and k in all in a
                bin
    psi         the digamma function: psi(k) in place of log(k) takes the plug-in bias out of an entropy
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# |D| is counted on a fixed logarithmic grid (ratio 2^(1/16)), so counts add across batches and ranks.
_PER_OCTAVE, _OCTAVES = 16, 32  # from 2^-32 to 2^32 nats
CELLS = 2 * _OCTAVES * _PER_OCTAVE + 1  # cell 0 holds the pairs without any difference
_MAX_BINS, _MIN_PER_BIN = 64, 16


def cells(difference: Tensor) -> Tensor:
    """Grid cell of each |D|; zero differences have a cell of their own."""
    size = difference.abs()
    cell = torch.floor((size.log2() + _OCTAVES) * _PER_OCTAVE).nan_to_num(nan=0.0)
    return torch.where(size > 0, cell.clamp(0, CELLS - 2).long() + 1, 0)


def count_pairs(held_in: Tensor, held_out: Tensor) -> Tensor:
    """Count the pairs [CELLS, 2] by size and sign of their difference (column 1: the held-in twin won)."""
    difference = (held_out.double() - held_in.double()).detach()
    slot = 2 * cells(difference) + (difference > 0)
    one = torch.where(difference.isnan(), torch.nan, 1.0).double()  # a NaN loss must not vanish in a count
    return torch.zeros(2 * CELLS, dtype=torch.float64, device=one.device).index_add_(0, slot, one).view(CELLS, 2)


def merge_cells(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the cells into about n^(1/3) bins of equal mass: the bin of each cell, the counts [bins, 2].

    The bins depend on |D| alone, so given them the signs of a bin are independent coins.
    """
    mass = counts[1:].sum(-1)
    n = mass.sum()
    bins = torch.minimum(n.pow(1 / 3), n / _MIN_PER_BIN).round().clamp(1, _MAX_BINS)
    middle = (mass.cumsum(0) - mass / 2) / n.clamp_min(1)
    which = (middle * bins).long().clamp(0, _MAX_BINS - 1)
    return which, counts.new_zeros(_MAX_BINS, 2).index_add_(0, which, counts[1:])


def bin_information(bins: Tensor) -> Tensor:
    """Information [bins, 2] of a pair about its coin, log 2 + psi(k_s) - psi(k); zero where no pair fell."""
    seen = bins > 0
    k = bins.sum(-1, keepdim=True)
    return torch.where(seen, math.log(2) + bins.clamp_min(1).digamma() - k.clamp_min(1).digamma(), 0.0)


def pair_mean(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean information per pair, the variance of that mean, and its degrees of freedom."""
    n = counts.sum()
    _, bins = merge_cells(counts)
    k = bins.sum(-1, keepdim=True)
    mean = (bins * bin_information(bins)).sum() / n
    # Half a pair more in each slot keeps a bin in which all coins agree from claiming certainty.
    share = (bins + 0.5) / (k + 1)
    told = math.log(2) + share.log()
    first, second = ((k * share * x).sum() / n for x in (told, told.square()))
    slope = (second - first.square()).clamp_min(0.0) / (n - 1)
    # Where half of a bin's coins agree the slope is zero, and the curvature is all there is: k (log 2 - h) of a bin is
    # half of a chi-square with one degree of freedom there, of variance 1/2.
    curvature = (k > 0).sum() / (2 * n.square())
    variance = slope + curvature
    return mean, torch.where(n > 1, variance, torch.inf), n - 1


def relabel(counts: Tensor, seed: int) -> Tensor:
    """The same pairs with every coin tossed anew: the truth is zero."""
    generator = torch.Generator(device=counts.device).manual_seed(seed)
    mass = counts.sum(-1)
    heads = torch.binomial(mass, torch.full_like(mass, 0.5), generator=generator)
    return torch.stack((mass - heads, heads), dim=-1)
