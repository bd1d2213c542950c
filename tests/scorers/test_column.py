"""Scores that the training set brings."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from ggmi_callbacks import ColumnScorer
from ggmi_callbacks.data import SampleData


def gains(values: list, **settings) -> list:
    scorer = ColumnScorer("reward", **settings)
    scorer.read(SampleData(Dataset.from_dict({"reward": values})))
    return scorer.known().gain.tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], [0.5, -0.5]),
        ([0.25, 1.0], [-0.25, 0.5]),
        ([-2.0, 3.0], [-2.0, 3.0]),
        ([1, 0], [0.5, -0.5]),
    ],
    ids=["booleans", "probabilities", "rewards", "whole numbers"],
)
def test_values_speak_for_a_sample_from_their_own_middle_upwards(values, expected) -> None:
    assert gains(values) == expected


def test_a_threshold_may_be_named() -> None:
    assert gains([0.25, 1.0], threshold=0.9) == pytest.approx([-0.65, 0.1])


def test_a_missing_value_is_not_known() -> None:
    found = torch.tensor(gains([1.0, None, 0.0]))
    assert found.isnan().tolist() == [False, True, False]


def test_a_missing_column_names_those_that_are_there() -> None:
    with pytest.raises(ValueError, match=r"no column 'judge'; it has \['reward'\]"):
        ColumnScorer("judge").read(SampleData(Dataset.from_dict({"reward": [1.0]})))


def test_an_empty_column_and_words_are_refused() -> None:
    with pytest.raises(ValueError, match="has no value in any of 2 samples"):
        gains([None, None])
    with pytest.raises(ValueError, match="must hold numbers or booleans, sample 1 has 'good'"):
        ColumnScorer("reward").read(SampleData([{"reward": 1.0}, {"reward": "good"}]))


def test_it_says_so_where_there_is_nothing_to_read() -> None:
    with pytest.raises(ValueError, match=r"reads the training set.*data=rows"):
        ColumnScorer("reward").known()
