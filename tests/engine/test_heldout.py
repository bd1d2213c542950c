"""Samples that are never trained on: judged by the policy as others are, drawn by no loader, the same on a resume."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Subset

from ggmi_callbacks import CarryIds, ColumnScorer, Filter, GainEngine, Monitor, Numbered, Refill, Reweight
from ggmi_callbacks.tasks import SAMPLE_KEY
from tests._batches import VOCABULARY
from tests._loop import ANCHORS, SIZE, builder
from tests.engine._answers import PER, REWARD, ROWS, N, Rewards, best, collate

HELD = [0, 1, 3, 6, 8, 11, 13, 14, 16, 19, 20, 21, 26, 28, 30, 31]
LEFT = [i for i in range(N) if i not in HELD]


def batches(ids: list[int]) -> list[dict]:
    chunks = [ids[i : i + SIZE] for i in range(0, len(ids), SIZE)]
    return [{**collate([ROWS[i] for i in chunk]), SAMPLE_KEY: torch.tensor(chunk)} for chunk in chunks]


@pytest.fixture
def build(make_model):
    make = builder(make_model)
    common = {"sources": None, "data": ROWS, "heldout": batches(HELD)}

    def build(policy, scorer, **settings):
        loop = make(policy, scorer=scorer, **{**common, **settings})
        if settings.get("prepare", True):
            loop.engine.schedule.looks_back = lambda step: True
        return loop

    return build


def refill(loop) -> Refill:
    data = Subset(Numbered(ROWS), LEFT)
    return Refill(loop.engine, DataLoader(data, SIZE, shuffle=True, collate_fn=CarryIds(collate)), seed=1)


def trained(loop) -> set[int]:
    loop.engine.log()
    return {row["id"] for row in loop.engine.ledger.table.to_pylist() if row["nll"] is not None}


def twins_outside(loop) -> set[int]:
    loop.engine.finish()
    return set(loop.engine.recorder.live.twins.pairs().sample[1].int().tolist())


KNOWN, STATIC, LIVE = ColumnScorer("reward"), Rewards(static=True), Rewards()


@pytest.mark.parametrize(
    ("policy", "scorer", "passing"),
    [
        (Filter(threshold=1.5), KNOWN, {i for i in range(N) if REWARD[i] > 1.5}),
        (Filter(threshold=1.5), STATIC, {i for i in range(N) if REWARD[i] > 1.5}),
        (Filter(threshold=1.5), LIVE, {i for i in range(N) if REWARD[i] > 1.5}),
        (Filter(keep=0.5), KNOWN, best(REWARD, [0] * N, 0.5)),
        (Filter(per_group=1), STATIC, {4 * p + int(REWARD[4 * p : 4 * p + 4].argmax()) for p in range(N // PER)}),
        (Reweight(), STATIC, set(range(N))),
        (Monitor(), STATIC, set(range(N))),
    ],
    ids=["threshold, known", "threshold, found", "threshold, live", "share", "best of a prompt", "weights", "monitor"],
)
def test_twins_are_those_that_the_policy_would_train_on(build, policy, scorer, passing: set[int]) -> None:
    loop = build(policy, scorer, overhead=0.9)
    loader = refill(loop) if policy.drops else batches(LEFT)
    for _ in range(2):
        for batch in loader:
            loop.step(batch)
            loop.engine.log()
    assert trained(loop) <= set(LEFT) & passing
    assert twins_outside(loop) == set(HELD) & passing
    assert loop.engine.results()["heldout"] == len(HELD)


def test_a_refilled_run_ends_with_ggmi_and_its_gap(build) -> None:
    loop = build(Filter(threshold=0.0), STATIC)
    for _ in range(3):
        for batch in refill(loop):
            loop.step(batch)
    loop.engine.log()
    numbers = loop.engine.finish()
    assert {"ggmi/ggmi", "ggmi/ggmi_low", "ggmi/generalization_gap", "ggmi/twins"} <= numbers.keys()
    assert "held out" in loop.engine.results()["estimators"]["ggmi"]


def test_without_any_a_refilled_run_says_that_there_is_no_ggmi_and_the_way_out(build, caplog) -> None:
    loop = build(Filter(threshold=0.0), Rewards(static=True), heldout=())
    loader = DataLoader(Numbered(ROWS), SIZE, shuffle=True, collate_fn=CarryIds(collate))
    again = Refill(loop.engine, loader, seed=1)
    for _ in range(2):
        for batch in again:
            loop.step(batch)
            loop.engine.log()
    loop.engine.finish()
    results = loop.engine.results()
    assert "ggmi/ggmi" not in results
    assert "heldout=0.02" in results["estimators"]["ggmi"]
    assert "heldout=0.02" in results["verdict"]
    assert sum("heldout=0.02" in record.getMessage() for record in caplog.records) == 1


def test_gains_are_remembered_though_some_never_come(build) -> None:
    scorer = Rewards(static=True)
    loop = build(Reweight(), scorer, overhead=None)
    for epoch in range(3):
        loop.engine.begin_epoch(epoch)
        for batch in batches(LEFT):
            loop.step(batch)
    assert scorer.scored == len(LEFT)


def test_a_restart_in_a_refilled_run_draws_what_the_uninterrupted_one_does(build) -> None:
    loop = build(Filter(keep=0.5), Rewards(static=True))
    iterator = iter(first := refill(loop))
    for _ in range(3):
        loop.step(next(iterator))
    states = loop.engine.state_dict(), first.state_dict()
    wanted = [next(iterator)[SAMPLE_KEY].tolist() for _ in range(1)]
    scorer = Rewards(static=True)
    again = build(Filter(keep=0.5), scorer, prepare=False)
    again.engine.load_state_dict(states[0])
    other = refill(again)
    other.load_state_dict(states[1])
    assert [next(iter(other))[SAMPLE_KEY].tolist()] == wanted
    assert scorer.scored <= SIZE * 2  # candidates of one batch, and none of those held out


def test_a_batch_with_a_sample_that_is_held_out_is_an_error(build) -> None:
    loop = build(Monitor(), STATIC)
    loop.step(batches([LEFT[0], HELD[0], *LEFT[1:3]])[0])
    with pytest.raises(ValueError, match="samples that are held out, by their ids"):
        loop.engine.log()


def test_a_loader_of_other_rows_than_those_left_is_refused(build) -> None:
    loop = build(Filter(keep=0.5), STATIC)
    whole = DataLoader(Numbered(ROWS), SIZE, shuffle=True, collate_fn=CarryIds(collate))
    with pytest.raises(ValueError, match="16 of 32 samples are held out, and the data set has 32 rows"):
        Refill(loop.engine, whole)


def test_a_run_that_holds_out_others_is_not_resumed(build) -> None:
    state = build(Monitor(), STATIC).engine.state_dict()
    other = build(Monitor(), STATIC, prepare=False, heldout=batches(LEFT))
    with pytest.raises(ValueError, match="held out other samples"):
        other.engine.load_state_dict(state)


def test_what_cannot_be_judged_is_refused_with_the_way_out(build, make_model) -> None:
    nameless = [{k: v for k, v in batch.items() if k != SAMPLE_KEY} for batch in batches(HELD)]
    with pytest.raises(ValueError, match=r"ColumnScorer looks samples up by id.*heldout=0\.02"):
        build(Filter(), KNOWN, heldout=nameless)
    with pytest.raises(ValueError, match=r"Filter\(.*per_group=1.*looks samples up by id"):
        build(Filter(per_group=1), Rewards(static=True), heldout=nameless)
    build(Monitor(), KNOWN, heldout=nameless)
    with pytest.raises(TypeError, match=r"`heldout` must be samples.*got 0\.02.*random_split"):
        GainEngine(make_model(vocab_size=VOCABULARY), ANCHORS, heldout=0.02)
