"""Nearest neighbours from k-d trees: faster than brute force on a CPU, in few dimensions, from some thousand samples.

Notation:
    n, d      samples, dimensions
    S         spaces, each with a Euclidean distance of its own
    M         the largest of these S distances; radius is that to the k-th neighbour
    E         Euclidean distance in all spaces together: M <= E <= sqrt(S) M

A tree knows E and, where each space has one dimension, M itself. Else as many neighbours by E are drawn as should hold
all within sqrt(S) radius, which is seen afterwards: a row where they do not is left to brute force.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FROM = {2: 500, 3: 4000, 4: 8000, 5: 16000, 6: 32000}
"""Samples from which counting in trees is faster, by the dimensions of all spaces together."""
_NEAREST_FROM = {**dict.fromkeys(range(1, 7), 500), 7: 1000, 8: 2000}
"""The same for the nearest alone, by dimensions."""
_SPARE = 2.0  # candidates drawn, of those expected
_ROWS = 2**14  # whose candidates are in memory at once
_INSIDE = 1 - 1e-9  # strictly within a radius, however a distance was rounded
_CLEAR = 1e-6  # of a sample's size: the radius above which no rounding is larger than that
_SHELL = 1 + 1e-5  # distances within this ratio are equal


def trees_count_faster(spaces: list[Tensor], groups: list[tuple[int, ...]]) -> bool:
    """Whether trees know the distances that counts need, and are the faster way to them."""
    n, d = len(spaces[0]), sum(x.shape[1] for x in spaces)
    known = d == len(spaces) or all(len(group) == 1 for group in groups)
    return known and spaces[0].device.type == "cpu" and n >= _FROM.get(d, math.inf)


def trees_search_faster(x: Tensor) -> bool:
    """Whether trees are the faster way to the nearest samples."""
    return x.device.type == "cpu" and len(x) >= _NEAREST_FROM.get(x.shape[1], math.inf)


def tree_counts(spaces: list[Tensor], groups: list[tuple[int, ...]], k: int) -> Tensor:
    """What :func:`neighbour_counts` finds, [3 + groups, n]: whether a row is sure, ties, joint neighbours, and counts.

    Args:
        spaces: tensors [n, d_s] in float64, centred.
        groups: for each count the spaces in which a neighbour must be near.
        k: number of neighbours, less than n - 1.

    """
    found = [x.numpy() for x in spaces]
    near, beyond = _radii(found, k)
    sure = np.isfinite(beyond) & (near > _CLEAR * np.abs(np.concatenate(found, 1)).max(1))
    answer = np.zeros((3 + len(groups), len(near)))
    counts = [_count([found[s] for s in group], sure, near[sure] * _INSIDE) for group in groups]
    answer[:, sure] = np.stack([sure[sure], (beyond <= _SHELL * near)[sure], np.full(sure.sum(), k), *counts])
    return torch.from_numpy(answer)


def _radii(spaces: list[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """M to the k-th and the next neighbour of each sample, [n] each; infinite where candidates may not hold them."""
    joint = np.concatenate(spaces, 1)
    n, d = joint.shape
    tree, workers = _tree(joint), torch.get_num_threads()
    if d == len(spaces):
        distance, _ = tree.query(joint, [k + 1, k + 2], p=math.inf, workers=workers)  # number one is the sample itself
        return distance[:, 0], distance[:, 1]
    stretch = math.sqrt(len(spaces))
    volumes = _ball(d) * stretch**d / math.prod(_ball(x.shape[1]) for x in spaces)  # of what is drawn and what counts
    candidates = min(n, math.ceil(_SPARE * volumes * (k + 2)))
    found = []
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        far, which = tree.query(joint[rows], candidates, workers=workers)
        each = [np.linalg.norm(x[which] - x[rows, None], axis=2) for x in spaces]
        largest = np.partition(np.maximum.reduce(each), (k, k + 1), axis=1)[:, k : k + 2]
        largest[stretch * largest[:, 1] > far[:, -1]] = np.inf
        found.append(largest)
    return tuple(np.concatenate(found).T)


def _tree(points: np.ndarray) -> Any:
    from scipy.spatial import cKDTree  # takes longer to import than all of this package

    return cKDTree(points)


def _ball(d: int) -> float:
    """Volume of the unit ball."""
    return math.pi ** (d / 2) / math.gamma(d / 2 + 1)


def _count(spaces: list[np.ndarray], which: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Samples within ``radius`` [m] of those of ``which`` [n] in all of ``spaces``, themselves included."""
    x = np.concatenate(spaces, 1)
    if x.shape[1] == 1:
        order, own = np.sort(x[:, 0]), x[which, 0]
        return np.searchsorted(order, own + radius, "right") - np.searchsorted(order, own - radius, "left")
    p, workers = 2 if len(spaces) == 1 else math.inf, torch.get_num_threads()
    return _tree(x).query_ball_point(x[which], radius, p=p, return_length=True, workers=workers)


def nearest_by_tree(x: Tensor, k: int) -> Tensor:
    """[n] index of the k-th nearest other sample of each row of x [n, d]."""
    points = x.double().numpy()
    _, which = _tree(points).query(points, [k, k + 1], workers=torch.get_num_threads())
    own = which[:, 1] == np.arange(len(points))  # where copies of a sample come before it
    return torch.from_numpy(np.where(own, which[:, 0], which[:, 1]))
