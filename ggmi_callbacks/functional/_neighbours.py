"""Nearest neighbours by brute force in cache-sized pieces: exact in any dimension, on any device.

Notation:
    n, d      samples, dimensions
    D2        squared Euclidean distances [rows, n] of a few rows to all samples
    k         which neighbour; the sample itself is number zero
    radius    squared distance to the k-th neighbour, in the largest of several spaces at once
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CPU_ROWS = 32  # a [32, 10000] float64 block stays in cache; larger ones cost a third more
_GPU_ELEMENTS = 2**25
_BLOCKS = 16
# Distances in many dimensions are all alike and large: there float32, twice as fast, tells them apart, and where it
# does not, because data lie on a thin sheet or coincide, float64 does.
_HIGH_DIMENSION = 10
_CLEAR = 100.0


def standardise(x: Tensor) -> Tensor:
    """Centre the columns of x [n, d] and scale them to unit variance; a constant column becomes zero."""
    x = x - x.mean(0)
    scale = x.square().mean(0).sqrt()
    return x / torch.where(scale > 0, scale, torch.ones_like(scale))


class SquaredDistances:
    """Rows of the matrix of squared distances, |a|^2 - 2ab + |b|^2 as one matrix product.

    Args:
        x: [n, d] in float64, centred, so that little cancels.
    """

    def __init__(self, x: Tensor) -> None:
        norm = x.square().sum(1, keepdim=True)  # [n, 1]
        one = torch.ones_like(norm)
        self._left = torch.cat((-2 * x, norm, one), 1)  # [n, d + 2]
        self._right = torch.cat((x, one, norm), 1).T.contiguous()  # [d + 2, n]
        # Distances at or below this are rounding: the two points coincide.
        self.noise = 4 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps * norm[:, 0]  # [n]
        self._block = x.new_empty(0)

    def __getitem__(self, rows: slice) -> Tensor:
        """[rows, n] squared distances, valid until the next call: memory is used again, as getting it takes time."""
        left = self._left[rows]
        if len(self._block) < len(left):
            self._block = left.new_empty(len(left), self._right.shape[1])
        return torch.mm(left, self._right, out=self._block[: len(left)])


def row_slices(n: int, device: torch.device) -> Iterator[slice]:
    """Pieces of ``range(n)`` that keep a block of distances in cache, or the GPU busy."""
    rows = _CPU_ROWS if device.type == "cpu" else max(1, _GPU_ELEMENTS // n)
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def kth_smallest(z: Tensor, k: int) -> Tensor:
    """The k-th smallest number of each row of z [rows, n], as [rows, 1].

    The k smallest lie in the k blocks with the smallest minima, and those minima are one vectorised pass:
    ten times faster on a CPU than selecting from whole rows.
    """
    rows, n = z.shape
    width = n // _BLOCKS
    if width > 4 * k:
        blocks = z[:, : _BLOCKS * width].reshape(rows, _BLOCKS, width)
        best = blocks.amin(1).topk(k, largest=False, sorted=False).indices  # [rows, k]
        inside = blocks.gather(2, best[:, None].expand(-1, _BLOCKS, -1)).reshape(rows, -1)
        z = torch.cat((inside, z[:, _BLOCKS * width :]), 1)
    return z.topk(k, largest=False).values[:, -1:]


@torch.no_grad()
def neighbour_counts(spaces: list[Tensor], groups: list[tuple[int, ...]], k: int) -> tuple[Tensor, Tensor]:
    """Neighbours of each sample within its k-th joint neighbour's distance, counted in subspaces.

    The joint distance is the largest of the Euclidean distances in ``spaces``. Where the k-th neighbour
    coincides with the sample (ties: discrete or mixed data), all coinciding samples are its neighbours.

    Args:
        spaces: tensors [n, d_s] in float64, centred.
        groups: for each count the spaces in which a neighbour must be near.
        k: number of neighbours, less than n.

    Returns:
        [n] number of joint neighbours (k, or the number of coinciding samples with the sample itself), and
        [groups, n] counts strictly within the radius, the sample itself included.

    Source:
        Kraskov et al. (2004), algorithm 1; for ties Gao et al. (2017), algorithm 1.
    """
    if min(x.shape[1] for x in spaces) >= _HIGH_DIMENSION:
        found = _counts([x.float() for x in spaces], groups, k, least=_CLEAR)
        if found is not None:
            return found
    found = _counts(spaces, groups, k)
    assert found is not None
    return found


def _counts(
    spaces: list[Tensor], groups: list[tuple[int, ...]], k: int, least: float = 0.0
) -> tuple[Tensor, Tensor] | None:
    """As :func:`neighbour_counts`, or None once a radius is not ``least`` times as large as rounding may be."""
    n, device = spaces[0].shape[0], spaces[0].device
    distances = [SquaredDistances(x) for x in spaces]
    noise = torch.stack([d.noise for d in distances]).amax(0)
    joint = torch.full((n,), float(k), dtype=torch.float64, device=device)
    counts = torch.empty(len(groups), n, dtype=torch.float64, device=device)
    buffer = spaces[0].new_empty(0)
    for rows in row_slices(n, device):
        blocks = [d[rows] for d in distances]
        if len(buffer) < len(blocks[0]):
            buffer = torch.empty_like(blocks[0])
        largest = _largest(blocks, out=buffer[: len(blocks[0])])
        radius = kth_smallest(largest, k + 1)
        floor = noise[rows, None] + torch.finfo(radius.dtype).tiny
        if least and (radius < least * floor).any():
            return None
        tied = (radius <= floor)[:, 0]
        radius = torch.maximum(radius, 2 * floor)
        if tied.any():
            joint[rows] = torch.where(tied, (largest < radius).sum(1).double(), joint[rows])
        for g, group in enumerate(groups):
            counts[g, rows] = (_largest([blocks[s] for s in group]) < radius).sum(1).double()
    return joint, counts


def _largest(blocks: list[Tensor], out: Tensor | None = None) -> Tensor:
    largest = blocks[0]
    for block in blocks[1:]:
        largest = torch.maximum(largest, block, out=out)
    return largest


@torch.no_grad()
def nearest(x: Tensor, k: int) -> Tensor:
    """[n] index of the k-th nearest other sample of each row of x [n, d]."""
    distances = SquaredDistances(x - x.mean(0))
    found = []
    for rows in row_slices(x.shape[0], x.device):
        block = distances[rows]
        at = torch.arange(rows.start, rows.stop, device=x.device)
        block[at - rows.start, at] = -torch.inf  # itself first, whatever rounding says
        radius = kth_smallest(block, k + 1)
        found.append((block == radius).int().argmax(1))
    return torch.cat(found)
