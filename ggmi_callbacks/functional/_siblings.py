"""Siblings, the answers to the same prompt: who they are, and who stands in for them in a null control."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def as_rows(samples: Sequence[Any], group: Iterable[Hashable]) -> tuple[list[Any], Ints]:
    """Samples as a list, and a number for the group of each, [n].

    Raises:
        ValueError: If there is no sample, the lengths differ, or a group is missing.
        TypeError: If ``samples`` is one string or table, or a group is not hashable.
    """
    if isinstance(samples, (str, bytes)):
        raise TypeError(
            f"Expected argument `samples` to be a sequence of samples but got one string, {samples[:40]!r}; "
            "pass a list of strings."
        )
    if isinstance(samples, (Tensor, np.ndarray)) and samples.ndim != 1:
        raise TypeError(
            f"Expected argument `samples` to have one entry per sample but got a table of shape {list(samples.shape)}; "
            "pass a list of lists of token ids, without padding."
        )
    rows = list(samples)
    names = group.tolist() if isinstance(group, (Tensor, np.ndarray)) else list(group)
    if not rows or len(rows) != len(names):
        raise ValueError(
            f"Expected arguments `samples` and `group` to have one entry per sample each but got {len(rows)} and "
            f"{len(names)}; entry i of `group` names the prompt that sample i answers."
        )
    groups, named = number(names, "group", "pass each prompt as a string or as a tuple of token ids")
    if not named.all():
        raise ValueError(
            f"Expected argument `group` to name the group of each sample but got {names[named.argmin()]!r} at position "
            f"{named.argmin()}; give a sample without siblings a name of its own."
        )
    return rows, groups


def number(names: Sequence[Hashable | None], argument: str, cure: str) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """A number for each name, equal for equal names, [n]; and whether it is one, neither None nor NaN.

    Raises:
        TypeError: If a name is not hashable, or a tensor, which is hashable but equals only itself.
    """
    numbers: dict[Hashable, int] = {}
    result = np.empty(len(names), np.int64)
    for row, name in enumerate(names):
        try:
            result[row] = numbers.setdefault(name, len(numbers))
            hashable = not isinstance(name, Tensor)
        except TypeError:
            hashable = False
        if not hashable:
            kind = type(name).__name__
            raise TypeError(f"Expected argument `{argument}` to give hashable values but got a {kind}; {cure}.")
    return result, np.fromiter((name is not None and name == name for name in names), bool, len(names))


def chunks(group: Ints, cost: Ints, limit: int) -> Iterator[Ints]:
    """Samples [m] of whole groups, group by group, that cost about ``limit`` together."""
    order = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[order], prepend=-1))  # sample of each group
    spent = np.cumsum(cost[order])[first] // limit
    yield from np.split(order, first[1:][np.diff(spent) != 0])


def strangers(group: Ints, seed: int) -> Ints:
    """For each sample one from another group, of about the same size, which has its place there, [n].

    A sample alone in its group keeps itself.

    Raises:
        ValueError: If there are no two groups with siblings.
    """
    size = np.bincount(group)
    ranked = np.random.default_rng(seed).permutation(len(size))
    ranked = ranked[np.argsort(size[ranked], kind="stable")]
    ranked = ranked[size[ranked] > 1]
    if len(ranked) < 2:
        raise ValueError(
            f"Expected argument `group` to have at least two groups with siblings but got {len(ranked)}; "
            "without another prompt there is no null control."
        )
    other = np.arange(len(size))
    other[ranked] = np.roll(ranked, 1)
    order = np.argsort(group, kind="stable")
    start = np.cumsum(size) - size
    place = np.empty_like(group)
    place[order] = np.arange(len(group)) - start[group[order]]
    return order[start[other[group]] + place % size[other[group]]]


def warn_if_unknown(value: Floats) -> None:
    """Warn the caller's caller where no sample has a sibling."""
    if np.isnan(value).all():
        warnings.warn(
            f"None of {len(value)} samples has a sibling to compare with, so all values are NaN; check that `group` "
            "is the same for all answers to a prompt, and that `answer`, if given, finds answers.",
            stacklevel=3,
        )
