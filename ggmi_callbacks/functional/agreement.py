r"""Agreement of an answer with its siblings, the other answers to the same prompt.

Notation:
    y_i, y_j    two of the k answers in a group
    c(g; y)     how often the n-gram g occurs in y; |y|_n all n-grams of y, copies included
    F_n         2 sum_g min(c(g; y_i), c(g; y_j)) / (|y_i|_n + |y_j|_n), in [0, 1]: the F1 of two multisets

Two draws of one generator for one prompt share what it knows and not its noise. An answer that nothing else speaks for
is likely to be noise.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ggmi_callbacks.functional._checks import check_positive
from ggmi_callbacks.functional._ngrams import in_common, ranks, tokenize
from ggmi_callbacks.functional._siblings import Floats, Ints, as_rows, chunks, number, warn_if_unknown

_CHUNK = 2**21  # characters or ids held at once; a larger group is held whole


def agreement(
    samples: Sequence[Any],
    group: Iterable[Hashable],
    *,
    answer: Callable[[Any], Hashable | None] | None = None,
    order: int = 4,
) -> Tensor:
    r"""Agreement of each sample with its siblings: of their n-grams, or of their final answers.

    .. math::
        a_i = \frac{1}{k - 1} \sum_{j \ne i} \frac1N \sum_{n=1}^N F_n(y_i, y_j)

    A mean over pairs, so that its expectation is the same in groups of any size. Orders at which neither sample of a
    pair has an n-gram do not count, two empty samples agree fully, and copies count as they are. With ``answer``, a_i
    is the share of siblings with the same final answer.

    Args:
        samples: n strings, or n sequences of token ids; with ``answer``, whatever it takes. A string is read as words,
            numbers and single marks, so pass ids in languages that set no spaces between words.
        group: [n] what each sample answers, any hashables; equal prompts make siblings.
        answer: maps a sample to its final answer, or to None (or NaN) where it has none: then nothing is known of the
            sample, and it is no sibling of others.
        order: N, the length of the longest n-grams. Four told right solutions of word problems from wrong ones as well
            as three or better; in short programs two did.

    Returns:
        [n] in [0, 1]; NaN for a sample without siblings, of which nothing is known. Time grows with the sum of the
        squares of the sizes of groups.

    Raises:
        ValueError: If there is no sample, the lengths differ, a group is missing, ``order`` is not positive, or an id
            is negative.
        TypeError: If the samples are neither strings nor ids, or a group or an answer is not hashable.

    Source:
        Lin (2004), ROUGE, for the overlap of n-grams; Wang et al. (ICLR 2023), self-consistency, for final answers.

    Example:
        >>> samples = ["6*7 = 42", "6 * 7 = 42", "6+7 = 13", "Paris"]
        >>> agreement(samples, ["sum", "sum", "sum", "city"])
        tensor([0.6062, 0.6062, 0.2125,    nan])
        >>> agreement(samples, ["sum", "sum", "sum", "city"], answer=lambda sample: sample.split()[-1])
        tensor([0.5000, 0.5000, 0.0000,    nan])
    """
    check_positive(order=order)
    rows, groups = as_rows(samples, group)
    value = _overlap(rows, groups, order) if answer is None else _votes([answer(row) for row in rows], groups)
    warn_if_unknown(value)
    return torch.from_numpy(value).float()


def _votes(answers: list[Hashable | None], group: Ints) -> Floats:
    """Share of siblings with the same answer, [n]."""
    numbers, known = number(answers, "answer", "let it return a string or a number")
    vote, _ = ranks(group * (numbers.max() + 1) + numbers)
    same = np.bincount(vote)[vote] - 1
    siblings = np.bincount(group, known)[group] - 1
    return np.where(known & (siblings > 0), same / siblings.clip(1), np.nan)


def _overlap(samples: list[Any], group: Ints, order: int) -> Floats:
    """Mean over siblings and orders of the F1 of n-grams, [n]."""
    siblings = np.bincount(group)[group] - 1
    cost = np.fromiter(map(_length, samples), np.int64, len(samples))
    total = np.empty(len(samples))
    for members in chunks(group, cost, _CHUNK):
        ids, lengths = tokenize([samples[i] for i in members])
        total[members] = _total_overlap(ids, lengths, ranks(group[members])[0], order)
    return np.where(siblings > 0, total / siblings.clip(1), np.nan)


def _length(sample: Any) -> int:
    return len(sample) if hasattr(sample, "__len__") else 1  # without one it is no sample, which `tokenize` says


def _total_overlap(ids: Ints, lengths: Ints, group: Ints, order: int) -> Floats:
    """Sum over siblings of the mean F1, [m], of samples that stand group by group."""
    end = np.cumsum(lengths)
    sample = np.repeat(np.arange(len(lengths)), lengths)
    empty = lengths == 0
    total = empty * (np.bincount(group, empty)[group] - 1.0)  # empty samples agree with each other
    start, gram = np.arange(len(ids)), group[sample]  # where n-grams start, and a number within groups; at first n = 0
    for n in range(1, order + 1):
        inside = start + n <= end[sample[start]]
        start, gram = start[inside], gram[inside]
        gram, by_gram = ranks(gram * (ids.max(initial=0) + 1) + ids[start + n - 1])
        for i, j, both in in_common(gram[by_gram], sample[start[by_gram]]):
            f1 = 2 * both / (lengths[i] + lengths[j] - 2 * (n - 1))
            share = f1 / np.maximum(lengths[i], lengths[j]).clip(max=order)  # of the orders that count for the pair
            total += np.bincount(i, share, len(total)) + np.bincount(j, share, len(total))
    return total
