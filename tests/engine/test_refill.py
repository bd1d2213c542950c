"""A filter that spends what it saves: full batches, as many steps, dropped rows drawn no more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ggmi_callbacks import CarryIds, ColumnScorer, Filter, Monitor, Numbered, Scorer
from ggmi_callbacks.engine.refill import Refill
from tests._batches import padded
from tests._loop import builder, runs

SIZE = 4


def rows(n: int) -> Numbered:
    return Numbered([{"pair": pair} for pair in runs(n)])


def loader(n: int, **settings) -> DataLoader:
    collate = CarryIds(lambda features: padded([f["pair"] for f in features]))
    return DataLoader(rows(n), SIZE, collate_fn=collate, **{"shuffle": True, **settings})


class ById(Scorer):
    """Gains by content: the first label of each row, so that some rows pass and others do not."""

    def __init__(self, static: bool = False) -> None:
        super().__init__()
        self.static = static
        self.scored = 0

    def gain(self, inputs, layout) -> Tensor:
        self.scored += layout.n
        return (inputs["input_ids"][:, 0] % 2).float() - 0.5  # half of them pass, three of seven starts do not


@pytest.fixture
def build(make_model):
    return builder(make_model)


def run(loop, refill, epochs: int = 1) -> list[dict]:
    seen = []
    for _ in range(epochs):
        for batch in refill:
            seen.append(batch)
            loop.step(batch)
    return seen


def make(build, n: int = 28, scorer=None, policy=None, **settings):
    loop = build(
        policy or Filter(margin=0),
        scorer=scorer or ById(),
        sources=None,
        **{"num_samples": n, "capacity": 8, **settings},
    )
    return loop, Refill(loop.engine, loader(n), seed=1)


def test_every_batch_is_full_of_samples_that_passed(build) -> None:
    loop, refill = make(build)
    batches = run(loop, refill)
    assert len(batches) == len(refill) == 7
    for batch in batches:
        assert len(batch["input_ids"]) == SIZE
        assert (batch["input_ids"][:, 0] % 2 == 1).all()


def test_a_run_takes_as_many_steps_as_without_a_filter_and_passes_over_the_data_more_often(build) -> None:
    loop, refill = make(build)
    batches = run(loop, refill, epochs=2)
    assert len(batches) == 14
    loop.engine.log()
    trained = [row for row in loop.engine.ledger.table.to_pylist() if row["nll"] is not None]
    assert len(trained) == 14 * SIZE
    assert len({row["id"] for row in trained}) < len(trained)  # the same samples again
    assert loop.engine.finish()["ggmi/synthetic_samples"] == len({row["id"] for row in trained})


def test_dropped_rows_are_drawn_no_more_once_gains_are_known(build) -> None:
    scorer = ById(static=True)
    loop, refill = make(build, scorer=scorer)
    for _ in range(4):
        run(loop, refill)
        loop.engine.log()
    assert scorer.scored <= 28 + 8  # each once, and those of the pass that was under way
    table = loop.engine.ledger.table.to_pylist()
    assert {row["id"] for row in table if not row["kept"]} == {i for i in range(28) if i % 7 % 2}  # and accounted for


def test_no_sample_is_trained_on_twice_before_every_kept_one_was_once(build) -> None:
    loop, refill = make(build)
    ids = torch.cat([batch["ggmi_sample"] for batch in run(loop, refill)]).tolist()
    first = ids[: len(set(ids))]
    assert len(set(first)) == len(first)


def test_a_filter_that_keeps_nothing_ends_with_the_way_out(build) -> None:
    loop, refill = make(build, policy=Filter(threshold=10.0))
    with pytest.raises(ValueError, match=r"kept none of 28 samples in a whole pass.*`threshold`"):
        run(loop, refill)


def test_it_goes_on_after_a_restart_as_if_never_stopped(build) -> None:
    loop, refill = make(build)
    iterator = iter(refill)
    for _ in range(3):
        loop.step(next(iterator))
    state, engine = refill.state_dict(), loop.engine.state_dict()
    wanted = [batch["ggmi_sample"].tolist() for batch in (next(iterator) for _ in range(4))]
    again, other = make(build, prepare=False)
    again.engine.load_state_dict(engine)
    other.load_state_dict(state)
    fresh = iter(other)
    assert [next(fresh)["ggmi_sample"].tolist() for _ in range(4)] == wanted


def test_global_random_streams_are_left_alone(build) -> None:
    loop, refill = make(build)
    before = torch.get_rng_state()
    next(iter(refill))
    assert torch.equal(torch.get_rng_state(), before)
    assert loop.engine.ledger is not None


def test_what_cannot_be_refilled_is_refused(build) -> None:
    loop, _ = make(build)
    weighted = torch.utils.data.WeightedRandomSampler(torch.ones(28), 28)
    with pytest.raises(ValueError, match=r"sampler of its own.*Filter\(refill=False\)"):
        Refill(loop.engine, loader(28, shuffle=False, sampler=weighted))
    with pytest.raises(TypeError, match="`loader` must be a DataLoader"):
        Refill(loop.engine, [1, 2])
    watching = build(Monitor(), sources=None, num_samples=28)
    with pytest.raises(ValueError, match=r"Monitor\(\) drops nothing"):
        Refill(watching.engine, loader(28))


def test_a_share_of_known_scores_is_that_share_in_every_pass(build) -> None:
    """The bar does not creep upwards as passes go by: what passes once is kept, exactly half of it."""
    scorer = ColumnScorer("reward", threshold=0.0)
    data = [{"pair": pair, "reward": float(i)} for i, pair in enumerate(runs(28))]
    loop = build(Filter(keep=0.5), scorer=scorer, sources=None, data=data)
    collate = CarryIds(lambda features: padded([f["pair"] for f in features]))
    refill = Refill(loop.engine, DataLoader(Numbered(data), SIZE, shuffle=True, collate_fn=collate))
    ids = torch.cat([batch["ggmi_sample"] for batch in run(loop, refill, epochs=3)])
    assert set(ids.tolist()) == set(range(14, 28))
    assert ids.bincount(minlength=28)[14:].tolist() == [6] * 14
    assert loop.engine.log()["ggmi/kept"] == pytest.approx(0.5, abs=0.02)


def test_remembered_gains_keep_their_share_too(build) -> None:
    loop, refill = make(build, scorer=ById(static=True), policy=Filter(keep=0.5))
    late = []
    for _ in range(4):
        late = torch.cat([batch["ggmi_sample"] for batch in run(loop, refill)]).tolist()
    keeps = loop.engine.keeps()
    assert set(late) <= set(keeps.nonzero().flatten().tolist())


def test_a_sample_stands_once_in_a_batch(build) -> None:
    loop, refill = make(build, n=14, scorer=ById(static=True))
    for batch in run(loop, refill, epochs=6):
        assert len(set(batch["ggmi_sample"].tolist())) == SIZE


def test_fewer_kept_samples_than_a_batch_holds_fill_it_all_the_same(build) -> None:
    data = [{"pair": pair, "reward": float(i < 2)} for i, pair in enumerate(runs(8))]
    loop = build(Filter(), scorer=ColumnScorer("reward"), sources=None, data=data)
    collate = CarryIds(lambda features: padded([f["pair"] for f in features]))
    refill = Refill(loop.engine, DataLoader(Numbered(data), SIZE, collate_fn=collate))
    for batch in run(loop, refill):
        assert sorted(set(batch["ggmi_sample"].tolist())) == [0, 1]
        assert len(batch["ggmi_sample"]) == SIZE


def test_a_loader_without_ids_is_refused_with_the_way_out(build) -> None:
    loop, _ = make(build)
    bare = DataLoader([{"pair": p} for p in runs(28)], SIZE, collate_fn=lambda f: padded([x["pair"] for x in f]))
    with pytest.raises(ValueError, match=r"carry no ids under 'ggmi_sample'.*Numbered"):
        next(iter(Refill(loop.engine, bare)))
