"""Scores known before training: nothing is scored in the step, and dropped rows are never drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from ggmi_callbacks import CarryIds, ColumnScorer, Filter, Numbered, Refill
from ggmi_callbacks.data import SampleData
from tests._batches import padded
from tests._loop import SIZE, builder, runs, stream

ROWS = [{"pair": pair, "reward": float(i % 2)} for i, pair in enumerate(runs(16))]


@pytest.fixture
def build(make_model):
    return builder(make_model)


def test_a_column_decides_and_no_forward_is_spent_on_it(build) -> None:
    loop = build(Filter(), scorer=ColumnScorer("reward"), sources=None, data=ROWS)
    for batch in stream(4):
        loop.step(batch)
    logs = loop.engine.log()
    assert logs["ggmi/coverage"] == 1.0
    assert logs["ggmi/kept"] == 0.5
    table = loop.engine.ledger.table.to_pylist()
    assert {row["id"] for row in table if row["kept"]} == {i for i in range(16) if i % 2}
    assert loop.engine.schedule.scored == 0


def test_rows_dropped_beforehand_are_accounted_for_and_never_drawn(build) -> None:
    drawn = []

    def collate(features):
        drawn.extend(f["reward"] for f in features)
        return padded([f["pair"] for f in features])

    loop = build(Filter(), scorer=ColumnScorer("reward"), sources=None, data=ROWS)
    refill = Refill(loop.engine, DataLoader(Numbered(ROWS), SIZE, shuffle=True, collate_fn=CarryIds(collate)))
    for batch in refill:
        loop.step(batch)
    assert set(drawn) == {1.0}
    logs = loop.engine.log()
    assert logs["ggmi/kept"] == 0.5
    kept = {row["id"]: row["kept"] for row in loop.engine.ledger.table.to_pylist()}
    assert kept == {i: i % 2 == 1 for i in range(16)}


def test_a_scorer_that_reads_data_is_refused_without_any(build) -> None:
    with pytest.raises(ValueError, match=r"ColumnScorer reads the training set"):
        build(Filter(), scorer=ColumnScorer("reward"), sources=None, num_samples=16)


def test_answers_are_read_off_the_labels() -> None:
    data = SampleData([{"input_ids": [5, 6, 7, 2], "labels": [-100, -100, 7, 2]}, {"input_ids": [9], "labels": [9]}])
    assert data.answers == [[7, 2], [9]]
    with pytest.raises(ValueError, match=r"read from `input_ids` and `labels`.*\['text'\]"):
        SampleData([{"text": "a"}]).groups  # noqa: B018


@pytest.mark.parametrize("form", ["rows", "tensors", "data set"])
def test_equal_prompts_make_a_group_and_no_prompt_makes_none(form: str) -> None:
    texts = [([5, 6], [7]), ([5, 6], [8, 9]), ([5], [6, 7]), ([], [7]), ([], [7])]
    rows: Any = [{"input_ids": p + a, "labels": [-100] * len(p) + a, "x": 1} for p, a in texts]
    if form == "tensors":
        rows = [{k: torch.tensor(v) for k, v in row.items()} for row in rows]
    if form == "data set":
        rows = pytest.importorskip("datasets").Dataset.from_list(rows)
    data = SampleData(rows)
    assert data.groups == [0, 0, 1, 2, 3]
    assert not data.has_siblings  # of one prompt only


def test_a_resumed_run_keeps_to_the_scores_it_was_given(build) -> None:
    make = {"scorer": ColumnScorer("reward"), "sources": None, "data": ROWS}
    loop = build(Filter(), **make)
    loop.step(stream(1)[0])
    again = build(Filter(), prepare=False, **{**make, "scorer": ColumnScorer("reward")})
    again.engine.load_state_dict(loop.engine.state_dict())
    assert torch.equal(again.engine.keeps(), loop.engine.keeps())
