"""Agreement between answers: the definition in plain Python, its invariances, and what is refused."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from random import Random

import numpy as np
import pytest
import torch

from ggmi_callbacks.functional import agreement

WORDS = ["6", "*", "7", "=", "42", "plums", "Tom", "has"]


def draw_answers(groups: int, most: int, seed: int) -> tuple[list[str], list[int]]:
    """Random answers, some empty, some copies, in groups of one to ``most``, shuffled."""
    draw = Random(seed)
    rows = []
    for group in range(groups):
        for _ in range(draw.randint(1, most)):
            rows.append((" ".join(draw.choices(WORDS, k=draw.choice([0, 0, 1, 2, 3, 8, 20]))), group))
            if draw.random() < 0.2:
                rows.append(rows[-1])
    draw.shuffle(rows)
    samples, group = zip(*rows, strict=True)
    return list(samples), list(group)


def plain_agreement(samples: list[str], group: list[int], order: int) -> list[float]:
    """The mean over siblings and orders of the F1 of n-grams, pair by pair."""
    tokens = [re.findall(r"\w+|[^\w\s]", sample) for sample in samples]

    def grams(i: int, n: int) -> Counter:
        return Counter(zip(*(tokens[i][k:] for k in range(n)), strict=False))

    def pair(i: int, j: int) -> float:
        both = [(grams(i, n), grams(j, n)) for n in range(1, order + 1)]
        f1 = [2 * (a & b).total() / (a.total() + b.total()) for a, b in both if a or b]
        return sum(f1) / len(f1) if f1 else 1.0

    values = []
    for i, own in enumerate(group):
        siblings = [j for j, other in enumerate(group) if other == own and j != i]
        values.append(sum(pair(i, j) for j in siblings) / len(siblings) if siblings else math.nan)
    return values


@pytest.mark.parametrize("order", [1, 3, 4])
def test_overlap_is_the_mean_f1_of_ngrams_over_siblings(order: int) -> None:
    samples, group = draw_answers(groups=60, most=6, seed=order)
    value = agreement(samples, group, order=order)
    assert value.shape == (len(samples),)
    assert value.dtype == torch.float32
    np.testing.assert_allclose(value, plain_agreement(samples, group, order), rtol=1e-6)


def test_overlap_does_not_depend_on_how_groups_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, group = draw_answers(groups=40, most=5, seed=0)
    expected = agreement(samples, group)
    monkeypatch.setitem(agreement.__globals__, "_CHUNK", 50)
    torch.testing.assert_close(agreement(samples, group), expected, equal_nan=True)


def test_expected_overlap_does_not_depend_on_the_size_of_the_group() -> None:
    draw = Random(0)

    def means(size: int, groups: int) -> torch.Tensor:
        samples = [" ".join(draw.choices(WORDS, k=10)) for _ in range(size * groups)]
        return agreement(samples, [i // size for i in range(size * groups)]).view(groups, size).mean(1).double()

    pairs, dozens = means(2, 1200), means(12, 200)
    error = math.sqrt(pairs.var() / 1200 + dozens.var() / 200)
    assert abs(pairs.mean() - dozens.mean()) < 4 * error


def test_copies_agree_fully_and_strangers_not_at_all() -> None:
    samples = ["one two three"] * 3 + ["a b c", "d e f", "", "", "42", "42"]
    value = agreement(samples, ["copies"] * 3 + ["strangers"] * 2 + ["empty"] * 2 + ["short"] * 2)
    torch.testing.assert_close(value, torch.tensor([1.0] * 3 + [0.0] * 2 + [1.0] * 4))


def test_a_copy_of_one_of_two_answers_raises_it_and_lowers_the_other_by_nothing() -> None:
    a, b = "two plums and two pens", "two plums and no pens"
    pair = agreement([a, b], [0, 0])
    three = agreement([a, a, b], [0, 0, 0])
    torch.testing.assert_close(three, torch.stack([(1 + pair[0]) / 2, (1 + pair[0]) / 2, pair[1]]))


def test_token_ids_and_strings_of_the_same_tokens_agree_alike() -> None:
    samples, group = draw_answers(groups=20, most=4, seed=1)
    ids = [[WORDS.index(word) for word in sample.split()] for sample in samples]
    expected = agreement(samples, group)
    for kind in (list, np.array, lambda row: torch.tensor(row, dtype=torch.long)):
        torch.testing.assert_close(agreement([kind(row) for row in ids], group), expected, equal_nan=True)


def test_groups_may_have_any_hashable_names() -> None:
    samples, group = draw_answers(groups=10, most=4, seed=2)
    expected = agreement(samples, group)
    tuples = [("prompt", (number, 1)) for number in group]
    for names in (tuples, np.array(group), torch.tensor(group), (str(number) for number in group)):
        torch.testing.assert_close(agreement(samples, names), expected, equal_nan=True)


def test_final_answers_vote_without_the_sample_and_without_those_that_have_none() -> None:
    samples = ["a 4", "b 4", "c 5", "no idea", "d 7", "e 7", "f 8", "no idea"]
    group = [0, 0, 0, 0, 1, 1, 2, 2]
    value = agreement(samples, group, answer=lambda text: int(text[-1]) if text[-1].isdigit() else None)
    expected = torch.tensor([0.5, 0.5, 0.0, math.nan, 1.0, 1.0, math.nan, math.nan])
    torch.testing.assert_close(value, expected, equal_nan=True)


def test_a_final_answer_of_nan_is_not_known() -> None:
    value = agreement([1.0, 1.0, math.nan], [0, 0, 0], answer=lambda number: number)
    torch.testing.assert_close(value, torch.tensor([1.0, 1.0, math.nan]), equal_nan=True)


def test_equal_final_answers_to_different_prompts_do_not_count() -> None:
    assert agreement(["4", "5", "4", "5"], [0, 0, 1, 1], answer=str).tolist() == [0, 0, 0, 0]


def test_where_nobody_has_a_sibling_all_is_nan_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"None of 3 samples has a sibling.*`group`"):
        assert agreement(["a", "b", "c"], [0, 1, 2]).isnan().all()
    with pytest.warns(UserWarning, match="finds answers"):
        assert agreement(["a", "b"], [0, 0], answer=lambda _: None).isnan().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agreement(["a", "b", "c"], [0, 0, 1])


@pytest.mark.parametrize(
    ("samples", "group", "error", "message"),
    [
        ([], [], ValueError, r"`samples` and `group` to have one entry per sample each but got 0 and 0"),
        (["a", "b"], [0], ValueError, "got 2 and 1"),
        (["a", "b"], [0, None], ValueError, r"`group` to name the group of each sample but got None at position 1"),
        (["a", "b"], [math.nan, 0], ValueError, "got nan at position 0"),
        (["a", "b"], [[1], [1]], TypeError, r"`group` to give hashable values but got a list; .* tuple of token ids"),
        (["a", "b"], list(torch.tensor([1, 1])), TypeError, r"hashable values but got a Tensor"),
        ("ab", [0, 0], TypeError, r"`samples` to be a sequence of samples but got one string, 'ab'"),
        (torch.zeros(2, 3), [0, 0], TypeError, r"got a table of shape \[2, 3\]; .* without padding"),
        (["a", [1, 2]], [0, 0], TypeError, r"strings only, or sequences of token ids only, but got str 'a'"),
        ([[1], None], [0, 0], TypeError, "got NoneType 'None'"),
        ([[1], [0.5]], [0, 0], TypeError, r"got list '\[0.5\]'"),
        ([[1], [[1], [1, 2]]], [0, 0], TypeError, r"got list '\[\[1\], \[1, 2\]\]'; decode or tokenize"),
        ([{"role": "user"}, {"role": "user"}], [0, 0], TypeError, "got dict"),
        ([[1], [-100, 1]], [0, 0], ValueError, r"token ids in \[0, 2\^31\) but got values from -100 to 1"),
        ([[1], [2**31]], [0, 0], ValueError, "from 1 to 2147483648"),
    ],
)
def test_what_is_no_sample_or_group_is_refused(samples: object, group: list, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        agreement(samples, group)


def test_answers_that_are_not_hashable_and_orders_that_are_not_positive_are_refused() -> None:
    for answer in (list, lambda _: torch.tensor(1)):
        with pytest.raises(TypeError, match=r"`answer` to give hashable values but got a (list|Tensor); let it return"):
            agreement(["a", "b"], [0, 0], answer=answer)
    with pytest.raises(ValueError, match=r"`order` to be positive but got 0"):
        agreement(["a", "b"], [0, 0], order=0)
