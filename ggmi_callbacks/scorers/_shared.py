"""Shared information of a training set, as a run's results tell it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.functional.shared_information import grouped_mean, sibling_values
from ggmi_callbacks.scorers._base import Shared

ORDER = 2
"""Longest n-grams: where it was tried, two told right from wrong best, and strangers nothing about each other."""
_MOST = 2**19  # tokens that are looked at, in some 100 MB
_LETTERS = 5  # of a word


def shared_information_of(
    data: SampleData, text: str | None, groups: Sequence[Hashable], seed: int
) -> tuple[dict[str, Any], Shared | None]:
    """What answers to one prompt say about each other, nats per token, with its interval over prompts and a null.

    Beside these numbers, the values of the samples that were looked at.

    Where it cannot be had, the reason stands in place of the estimator's name.

    Args:
        data: the training set; tokens are those of its targets.
        text: column of texts, of which words are taken for tokens where there are none.
        groups: what each sample answers.
        seed: of the draws of prompts, of strangers, and of the bootstrap.

    """
    samples = data.answers if data.has_tokens or text is None else data.column(text, "text")
    if not data.has_tokens and not all(isinstance(sample, str) for sample in samples):
        return _unknown(f"column {text!r} holds something else than texts, and there are no tokens")
    chosen = _some(samples, groups, seed)
    texts, names = [samples[i] for i in chosen], [groups[i] for i in chosen]
    if sum(count > 1 for count in Counter(names).values()) < 2:
        return _unknown("there are no two prompts with two answers each")
    information, null, of_prompt = sibling_values(texts, names, order=ORDER, per_token=True, seed=seed)
    value, low, high = (float(number) for number in grouped_mean(information, of_prompt, 0.95, seed))
    key, some = "ggmi/shared_information", f"{len(chosen)} of {len(samples)} answers"
    token = "token" if data.has_tokens else "word"
    numbers = {
        key: value,
        f"{key}_low": low,
        f"{key}_high": high,
        f"{key}_null": float(grouped_mean(null, of_prompt, 0.95, seed)),
        "estimators": {"shared_information": f"ratio of n-gram models of order {ORDER}, {some}, per {token}"},
    }
    return numbers, Shared(np.asarray(chosen), information, of_prompt)


def _some(samples: Sequence[Any], groups: Sequence[Hashable], seed: int) -> list[int]:
    """Positions of the answers to as many prompts, drawn at random, as are looked at."""
    number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    of_sample = [number[group] for group in groups]
    tokens = [len(sample) // (_LETTERS if isinstance(sample, str) else 1) for sample in samples]
    cost = np.bincount(of_sample, tokens)
    draw = np.random.default_rng(seed).permutation(len(cost))
    looked_at = np.zeros(len(cost), bool)
    looked_at[draw[np.cumsum(cost[draw]) <= max(_MOST, cost[draw[:2]].sum())]] = True
    return np.flatnonzero(looked_at[of_sample]).tolist()


def _unknown(reason: str) -> tuple[dict[str, Any], None]:
    return {"estimators": {"shared_information": f"not measured: {reason}"}}, None
