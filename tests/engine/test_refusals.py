"""What a run says of itself: numbers of the run, windows that keep nothing, states of another run."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import Filter, GainEngine, LikelihoodScorer, Reweight
from ggmi_callbacks.tasks import GAIN_KEY, SAMPLE_KEY
from tests._batches import padded
from tests._loop import ANCHORS, SIZE, TASK, Fixed, builder, runs, stream


@pytest.fixture
def build(make_model):
    return builder(make_model)


def test_results_speak_of_the_run_and_the_log_of_its_window(build) -> None:
    loop = build(Filter(), scorer=Fixed(1.0, -1.0, -1.0, -1.0))
    loop.step(stream(1)[0])
    loop.engine.log()
    loop.engine.scorer.gains = torch.ones(SIZE)
    loop.step(stream(2)[1])
    window = loop.engine.log()
    results = loop.engine.results()
    assert window["ggmi/kept"] == 1.0
    assert window["ggmi/gain"] == 1.0
    assert results["ggmi/kept"] == 0.625
    assert results["ggmi/kept/bad"] == 0.5
    assert results["ggmi/gain"] == pytest.approx(0.25)


@pytest.mark.parametrize("known", [True, False], ids=["known ids", "by content"])
def test_a_second_pass_narrows_no_interval(build, known) -> None:
    sources = {} if known else {"sources": None}
    loop = build(scorer=Fixed(1.0, -1.0, 0.5, 2.0), overhead=0.9, **sources)
    found = []
    for _ in range(3):
        for batch in stream(4):
            loop.step(batch if known else {k: v for k, v in batch.items() if k != "ggmi_sample"})
        loop.engine.log()
        found.append(loop.engine.results())
    ends = [[r[f"ggmi/gain{end}"] for end in ("", "_low", "_high")] for r in found]
    assert ends[0] == ends[1] == ends[2]
    assert found[0]["sources"] == found[2]["sources"]
    assert found[2]["ggmi/coverage"] == 1.0


def test_a_sample_that_was_not_scored_at_first_counts_when_it_is(build) -> None:
    loop = build(scorer=Fixed(float("nan"), -1.0, 0.5, 2.0), overhead=0.9)
    loop.step(stream(1)[0])
    loop.engine.scorer.gains = torch.ones(SIZE)
    loop.step(stream(1)[0])
    loop.engine.log()
    results = loop.engine.results()
    assert results["ggmi/gain"] == pytest.approx((1.0 - 1.0 + 0.5 + 2.0) / 4)
    assert results["ggmi/coverage"] == 7 / 8


def test_a_window_that_keeps_nothing_is_told_once_with_the_numbers(build, recwarn) -> None:
    loop = build(Filter(), scorer=Fixed(-1.0, -2.0, -3.0, -4.0))
    for _ in range(2):
        loop.step(stream(1)[0])
        loop.engine.log()
    told = [str(w.message) for w in recwarn if "kept none" in str(w.message)]
    assert len(told) == 1
    assert "mean gain -2.5 nats" in told[0]


def test_an_acting_policy_without_a_single_gain_is_refused(build) -> None:
    loop = build(Filter(keep=0.5), scorer=LikelihoodScorer(stride=50), sources=None)
    for batch in stream(16):
        loop.step(batch)
    with pytest.raises(ValueError, match=r"LikelihoodScorer gave no gain for any of 64 samples.*`stride`"):
        loop.engine.log()


@pytest.mark.parametrize("call", ["log", "finish", "results", "state_dict"])
def test_numbers_before_a_run_say_what_to_do(build, call) -> None:
    engine = build(prepare=False).engine
    with pytest.raises(RuntimeError, match=f"call `prepare` before `{call}`"):
        getattr(engine, call)()


@pytest.mark.parametrize("policy", ["filter", Filter, 3], ids=repr)
def test_a_policy_that_is_none_is_refused(make_model, policy) -> None:
    with pytest.raises(TypeError, match=r"`policy` must be a policy such as Monitor\(\)"):
        GainEngine(make_model(), ANCHORS, policy=policy)


def test_a_scorer_that_is_none_is_refused(make_model) -> None:
    with pytest.raises(TypeError, match="`scorer` must be a scorer"):
        GainEngine(make_model(), ANCHORS, scorer="likelihood")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", 1, "of format 1, this version reads format 5"),
        ("world_size", 2, "on 2 ranks, and this one has 1"),
        ("rank", 1, "that of rank 1, and this is rank 0"),
        ("anchors", "ab", "with other anchors"),
        ("kind", "GradientScorer", "with GradientScorer, and this one has LikelihoodScorer"),
        ("step", 3, "of step 3, and the run is at 1"),
    ],
)
def test_the_state_of_another_run_is_refused_by_what_differs(build, key, value, words) -> None:
    loop = build()
    loop.step(stream(1)[0])
    state = loop.engine.state_dict()
    build(prepare=False).engine.load_state_dict(state, step=1)
    with pytest.raises(ValueError, match=words):
        build(prepare=False).engine.load_state_dict({**state, key: value}, step=1)


def test_a_file_that_is_no_state_is_refused(build) -> None:
    with pytest.raises(ValueError, match="format Tensor"):
        build(prepare=False).engine.load_state_dict(torch.zeros(3))


def test_resuming_with_other_anchors_is_noticed(build) -> None:
    loop = build()
    loop.step(stream(1)[0])
    other = [{**batch, "labels": batch["labels"].roll(1, 0)} for batch in ANCHORS]
    with pytest.raises(ValueError, match="with other anchors"):
        build(prepare=False, anchors=other).engine.load_state_dict(loop.engine.state_dict())


def test_loss_per_trained_token_is_of_what_was_trained_on(build) -> None:
    loop = build(Filter(), scorer=Fixed(1.0, -1.0, 2.0, -2.0))
    loop.step(stream(1)[0])
    logs = loop.engine.log()
    rows = [row["nll"] for row in loop.engine.ledger.table.to_pylist() if row["kept"]]
    tokens = TASK.layout(stream(1)[0]).tokens[[0, 2]].sum()
    assert logs["ggmi/loss_per_trained_token"] == pytest.approx(sum(rows) / float(tokens), rel=1e-5)
    assert "ggmi/loss_per_trained_token" not in loop.engine.log()


def test_the_ledger_is_whole_whenever_it_is_read(build) -> None:
    """Also after an exception, when nothing was logged."""
    loop = build()
    loop.step(stream(1)[0])
    assert loop.engine.ledger.table["id"].to_pylist() == [0, 1, 2, 3]


def test_looks_back_draw_from_all_of_the_past(build) -> None:
    """Early batches have the longest codes: looking at them alone made weight information more than twice too large."""
    loop = build(sources=None)
    for i in range(12):
        loop.step({**stream(1)[0], SAMPLE_KEY: torch.arange(4 * i, 4 * i + 4)})
    visits = loop.engine.recorder.reservoir.visits
    drawn = [id(v) for _ in range(60) for v in loop.engine.recorder.reservoir.draw(2)]
    assert {id(v) for v in visits} == set(drawn)


def test_one_number_for_a_batch_is_no_loss_of_its_samples(build) -> None:
    loop = build()
    loop.engine.observe(stream(1)[0])
    with pytest.raises(ValueError, match=r"`losses` must be \[n\], one for each of 4 samples, got \[\]"):
        loop.engine.mean(torch.tensor(1.0))


def test_anchors_of_another_tokenizer_are_refused(build) -> None:
    other = [{**batch, "input_ids": batch["input_ids"] + 1000} for batch in ANCHORS]
    with pytest.raises(ValueError, match=r"`anchors` hold token id 10\d\d.*another tokenizer"):
        build(prepare=False, anchors=other)


def test_screened_samples_are_decided_once_and_trained_on_later(build) -> None:
    loop = build(Filter(), scorer=Fixed(1.0, -1.0, 2.0, -2.0))
    first, second = stream(2)
    kept, gains = loop.engine.screen(first)
    assert kept == [True, False, True, False]
    assert gains[:, 0].tolist() == [1.0, -1.0, 2.0, -2.0]
    loop.engine.screen(second)
    rows = torch.tensor([0, 2])
    texts = [pair for batch in (runs(4), runs(4, start=4)) for pair in batch]
    both = padded([texts[i] for i in (0, 1, 2, 3)])
    loop.step({**both, SAMPLE_KEY: torch.tensor([0, 2, 4, 6]), GAIN_KEY: torch.cat([gains[rows]] * 2)})
    logs = loop.engine.log()
    assert logs["ggmi/kept"] == 0.5
    table = loop.engine.ledger.table.to_pylist()
    assert sorted(row["id"] for row in table) == list(range(8))
    for row in table:
        assert row["kept"] == (row["id"] % 2 == 0)
        assert (row["nll"] is not None) == row["kept"]
    assert {row["id"]: row["gain"] for row in table}[6] == 2.0
    assert loop.engine.finish()["ggmi/synthetic_samples"] == 4


def test_infinite_and_whole_gains_do_not_poison_a_policy() -> None:
    policy = Reweight()
    assert policy(torch.tensor([1.0, float("inf"), float("-inf")])).tolist() == [1.0, 1.0, 1.0]
    assert policy(torch.tensor([1, 3])).isfinite().all()
    assert Filter(keep=0.5)(torch.tensor([1, 2, 3, 4])).tolist() == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(TypeError, match="`gain` must be a tensor"):
        policy([1.0])


@pytest.mark.parametrize("settings", [{"threshold": "a"}, {"keep": "half"}, {"margin": "x"}, {"window": "long"}])
def test_settings_of_a_filter_that_are_no_numbers_are_refused(settings) -> None:
    name = next(iter(settings))
    with pytest.raises(TypeError, match=f"`{name}` must be a number"):
        Filter(**settings)


def test_ids_ride_through_a_screened_batch(build) -> None:
    loop = build(Filter(), scorer=Fixed(1.0, 1.0, 1.0, 1.0))
    batch = stream(1)[0]
    _, gains = loop.engine.screen(batch)
    inputs = loop.engine.observe({**batch, GAIN_KEY: gains})
    assert not {GAIN_KEY, SAMPLE_KEY} & inputs.keys()
    assert TASK.layout(inputs).n == SIZE


def test_several_ranks_without_capacity_are_refused_before_the_shadow(build, monkeypatch) -> None:
    engine = build(Reweight(), prepare=False).engine
    monkeypatch.setattr("ggmi_callbacks.engine.sample_engine.is_distributed", lambda: True)
    with pytest.raises(ValueError, match=r"`capacity` is missing: with several ranks Reweight compares"):
        engine.prepare()
    assert engine.shadow is None
