"""Nearest neighbours, exact: by trees where they win, else by brute force in cache-sized pieces, on any device.

Notation:
    n, d      samples, dimensions
    D2        squared Euclidean distances [rows, n] of a few rows to all samples
    k         which neighbour; the sample itself is number zero
    radius    squared distance to the k-th neighbour, in the largest of several spaces at once
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ggmi_callbacks.functional._trees import (
    nearest_by_tree,
    tree_counts,
    trees_count_faster,
    trees_search_faster,
)

_CPU_BLOCK = 2**19  # numbers in a block of distances: with the few made from it, what stays in cache
_GPU_BLOCK = 2**25
_BLOCKS = 16
_PROBE = 64
_SHELL = 1 + 2e-5  # squared distances within this ratio are equal: single precision tells no more


def standardise(x: Tensor) -> Tensor:
    """Centre the columns of x [n, d] and scale them to unit variance; a constant column becomes zero."""
    x = x - x.mean(0)
    scale = x.square().mean(0).sqrt()
    return x / torch.where(scale > 0, scale, torch.ones_like(scale))


class SquaredDistances:
    """Rows of the matrix of squared distances: differences in one dimension, else |a|^2 - 2ab + |b|^2 as one product.

    Args:
        x: [n, d], centred, so that little cancels; its precision is that of the distances.

    Attributes:
        noise: [n] what rounding may make of a zero: points at or below this distance coincide.
        clear: [n] from here on rounding moves a distance by less than a hundredth.
    """

    def __init__(self, x: Tensor) -> None:
        (n, d), limits = x.shape, torch.finfo(x.dtype)
        norm = x.square().sum(1, keepdim=True)  # [n, 1]
        if d == 1:
            self._left, self._right = x, x.T.contiguous()
            self.noise = (4 * limits.eps) ** 2 * norm[:, 0] + limits.tiny
            self.clear = 100**2 * self.noise
        else:
            one = torch.ones_like(norm)
            self._left = torch.cat((-2 * x, norm, one), 1)  # [n, d + 2]
            self._right = torch.cat((x, one, norm), 1).T.contiguous()  # [d + 2, n]
            self.noise = 4 * (d + 4) * limits.eps * norm[:, 0] + limits.tiny
            self.clear = 100 * self.noise
        self._block = x.new_empty(0, n)
        # Products may be coarser than their dtype (TF32, once a user has allowed it): a sample is then off itself.
        own = self[slice(0, _PROBE)].diagonal().abs() <= self.noise[:_PROBE]
        self.clear = torch.where(own.all(), self.clear, torch.inf)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """[rows, n] squared distances, valid until the next call: memory is used again, as getting it takes time."""
        left = self._left[rows]
        self._block = block = at_least(self._block, len(left))
        if left.shape[1] == 1:
            return torch.sub(left, self._right, out=block[: len(left)]).square_()
        return torch.mm(left, self._right, out=block[: len(left)])


def at_least(block: Tensor, rows: int) -> Tensor:
    """The block [m, n] itself, or a new one if it has fewer rows."""
    return block if len(block) >= rows else block.new_empty(rows, block.shape[1])


def over_rows(make: Callable[[], Callable[[slice], Tensor]], rows: int, n: int, device: torch.device) -> Tensor:
    """What ``make()`` finds for pieces of ``range(rows)``, put together along the last dimension.

    A piece's distances to n samples stay in cache, or keep the GPU busy. On a CPU each thread takes pieces of its own:
    operations this small would spend more time in waiting for each other's threads.
    """
    size = max(1, (_CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK) // n)
    starts = range(0, rows, size)
    threads = torch.get_num_threads()
    workers = min(threads, len(starts)) if device.type == "cpu" else 1

    @torch.no_grad()
    def work(share: range) -> list[Tensor]:
        find = make()
        return [find(slice(start, min(start + size, rows))) for start in share]

    if workers == 1:
        return torch.cat(work(starts), -1)
    per = -(-len(starts) // workers)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            shares = pool.map(work, [starts[w * per : (w + 1) * per] for w in range(workers)])
            return torch.cat([piece for share in shares for piece in share], -1)
    finally:
        torch.set_num_threads(threads)  # what the workers set for themselves is also what new threads start with


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
def neighbour_counts(spaces: list[Tensor], groups: list[tuple[int, ...]], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours of each sample within its k-th joint neighbour's distance, counted in subspaces.

    The joint distance is the largest of the Euclidean distances in ``spaces``. Where the k-th neighbour
    coincides with the sample (ties: discrete or mixed data), all coinciding samples are its neighbours.

    Args:
        spaces: tensors [n, d_s] in float64, centred.
        groups: for each count the spaces in which a neighbour must be near.
        k: number of neighbours, less than n.

    Returns:
        [n] number of joint neighbours (k, or the number of coinciding samples with the sample itself), [groups, n]
        counts strictly within the radius, the sample itself included, and [n] one where others tie with the k-th
        neighbour at a distance above zero.

    Source:
        Kraskov et al. (2004), algorithm 1; for ties Gao et al. (2017), algorithm 1.
    """
    n, device = spaces[0].shape[0], spaces[0].device
    # Trees, or single precision, twice as fast, tell nearly all distances apart; the rest, of data that coincide or
    # lie on a thin sheet, is done again.
    if k < n - 1 and trees_count_faster(spaces, groups):
        found = tree_counts(spaces, groups, k)
    else:
        quick = [x.float() for x in spaces]
        found = over_rows(lambda: _Search(quick, groups, k), n, n, device)
    again = (found[0] == 0).nonzero()[:, 0]
    if len(again):
        found[:, again] = over_rows(lambda: _Search(spaces, groups, k, again), len(again), n, device)
    return found[2], found[3:], found[1]


class _Search:
    """Neighbours of some rows, or some of the samples ``index``, among all, in the precision of ``spaces``."""

    def __init__(
        self, spaces: list[Tensor], groups: list[tuple[int, ...]], k: int, index: Tensor | None = None
    ) -> None:
        self._distances = [SquaredDistances(x) for x in spaces]
        self._noise = torch.stack([d.noise for d in self._distances]).amax(0)
        self._clear = torch.stack([d.clear for d in self._distances]).amax(0)
        self._groups, self._k, self._index = groups, k, index
        self._largest = self._near = spaces[0].new_empty(0, len(spaces[0]))

    def __call__(self, piece: slice) -> Tensor:
        """[3 + groups, rows]: whether the precision is enough, ties, the joint neighbours, and the counts."""
        rows = piece if self._index is None else self._index[piece]
        blocks = [d[rows] for d in self._distances]
        noise, size = self._noise[rows, None], len(blocks[0])
        self._largest, self._near = at_least(self._largest, size), at_least(self._near, size)
        largest, near = _largest(blocks, self._largest[:size]), self._near[:size]
        radius = kth_smallest(largest, self._k + 1)
        clear = radius >= self._clear[rows, None]
        coincide = radius <= noise
        radius = torch.maximum(radius, 2 * noise)
        joint = torch.full_like(radius, self._k)
        if coincide.any():
            joint = torch.where(coincide, (largest < radius).sum(1, keepdim=True), joint)
        ties = (torch.le(largest, _SHELL * radius, out=near).sum(1, keepdim=True) > self._k + 1) & ~coincide
        # Comparing into numbers, not booleans, is what is fast to sum; up to 2^24 they sum without error.
        counts = [
            torch.lt(_largest([blocks[s] for s in group], near), radius, out=near).sum(1) for group in self._groups
        ]
        return torch.stack((clear[:, 0], ties[:, 0], joint[:, 0], *counts)).double()


def _largest(blocks: list[Tensor], out: Tensor) -> Tensor:
    largest = blocks[0]
    for block in blocks[1:]:
        largest = torch.maximum(largest, block, out=out)
    return largest


@torch.no_grad()
def nearest(x: Tensor, k: int) -> Tensor:
    """[n] index of the k-th nearest other sample of each row of x [n, d]."""
    x = x - x.mean(0)
    if k < len(x) - 1 and trees_search_faster(x):
        return nearest_by_tree(x, k)

    def make() -> Callable[[slice], Tensor]:
        distances = SquaredDistances(x)

        def find(rows: slice) -> Tensor:
            block = distances[rows]
            block.diagonal(rows.start).fill_(-torch.inf)  # itself first, whatever rounding says
            return (block == kth_smallest(block, k + 1)).int().argmax(1)

        return find

    return over_rows(make, len(x), len(x), x.device)
