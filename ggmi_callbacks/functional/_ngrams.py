"""n-grams of many short texts at once, as integers.

Notation:
    t           tokens of all samples, which stand one after another
    ids         [t] the token at each position, not negative
    sample      [t] the sample that it belongs to, never falling
    gram        [t] a number for the n-gram at each position: equal numbers, equal n-grams
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np

from ggmi_callbacks.functional._siblings import Ints

_TOKEN = re.compile(r"\w+|[^\w\s]")  # words, numbers, single marks: without its marks, "6*7=42" says little
_BOUND = 2**31  # of ids and of numbers of n-grams, so that a pair of them fits into 63 bits


def tokenize(samples: Sequence[Any]) -> tuple[Ints, Ints]:
    """Tokens of strings or of sequences of ids, one sample after another, [t], and how many each has, [n].

    Raises:
        TypeError: If a sample is neither a string nor a sequence of ids, or only some are strings.
        ValueError: If an id is negative or too large.
    """
    if all(isinstance(sample, str) for sample in samples):
        words = [_TOKEN.findall(sample) for sample in samples]
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        numbers: defaultdict[str, int] = defaultdict(count().__next__)
        every = chain.from_iterable(words)
        return np.fromiter(map(numbers.__getitem__, every), np.int64, int(lengths.sum())), lengths
    rows = [_as_ids(sample) for sample in samples]
    ids = np.concatenate(rows)
    if ids.size and (ids.min() < 0 or ids.max() >= _BOUND):
        raise ValueError(
            f"Expected argument `samples` to hold token ids in [0, 2^31) but got values from {ids.min()} to {ids.max()}"
            "; drop ignored positions such as -100."
        )
    return ids, np.fromiter(map(len, rows), np.int64, len(rows))


def _as_ids(sample: Any) -> Ints:
    try:
        row = np.asarray(sample)
    except ValueError:  # nested lists of different length
        row = np.asarray(None)
    if isinstance(sample, str) or row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
        raise TypeError(
            "Expected argument `samples` to hold strings only, or sequences of token ids only, but got "
            f"{type(sample).__name__} {str(sample)[:40]!r}; decode or tokenize every sample."
        )
    return row.astype(np.int64)


def ranks(key: Ints) -> tuple[Ints, Ints]:
    """Dense numbers of keys, in their order, [t]; and the stable order that sorts them."""
    order = np.argsort(key, kind="stable")
    number = np.empty_like(order)
    number[order] = np.cumsum(np.diff(key[order], prepend=key[order[:1]]) != 0)
    return number, order


def in_common(gram: Ints, sample: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Pairs of samples that share an n-gram: both samples, and how many copies of it both have.

    Args:
        gram: [t] an n-gram, never falling.
        sample: [t] where it occurs, never falling within the places of one n-gram.
    """
    first = np.flatnonzero((np.diff(gram, prepend=-1) != 0) | (np.diff(sample, prepend=-1) != 0))
    copies = np.diff(first, append=len(gram))
    gram, sample = gram[first], sample[first]  # now once for each sample that has it
    left = np.arange(len(gram))
    for step in count(1):
        left = left[left + step < len(gram)]
        left = left[gram[left] == gram[left + step]]
        if not left.size:
            return
        yield sample[left], sample[left + step], np.minimum(copies[left], copies[left + step])


class Corpus(NamedTuple):
    """Samples as one row of tokens.

    Attributes:
        ids: [t] tokens, with an end mark after each sample.
        sample: [t] the sample at each position.
        lengths: [n] tokens of each sample, the mark included.
    """

    ids: Ints
    sample: Ints
    lengths: Ints

    @classmethod
    def read(cls, samples: Sequence[Any]) -> Corpus:
        """Tokenize all samples and mark their ends."""
        words, lengths = tokenize(samples)
        ids = np.full(len(words) + len(lengths), words.max(initial=-1) + 1)
        ids[np.arange(len(words)) + np.repeat(np.arange(len(lengths)), lengths)] = words
        return cls(ids, np.repeat(np.arange(len(lengths)), lengths + 1), lengths + 1)

    def before(self, x: Ints, start: Ints | int) -> Ints:
        """What x, [t], is one position earlier, and ``start``, one number or [n], at the start of a sample."""
        earlier = np.roll(x, 1)
        earlier[np.cumsum(self.lengths) - self.lengths] = start
        return earlier

    def grams(self, order: int) -> Iterator[Ints]:
        """The n-gram that ends at each position, [t], for n = 1 .. order; the start of a sample counts as a token."""
        history = np.zeros_like(self.ids)
        for _ in range(order):
            gram, _ = ranks(history * (self.ids.max() + 1) + self.ids)
            yield gram
            history = self.before(gram + 1, 0)


def occurrences(gram: Ints, owner: Ints, asked: Ints) -> Ints:
    """How often the n-gram at each position occurs where ``owner`` is what is asked for at that position, [t]."""
    base = max(owner.max(), asked.max()) + 1
    keys = gram * base + owner
    if not np.array_equal(owner, asked):
        keys = np.concatenate([keys, gram * base + asked])
    cell, _ = ranks(keys)
    return np.bincount(cell[: len(gram)], minlength=len(keys))[cell[-len(gram) :]]
