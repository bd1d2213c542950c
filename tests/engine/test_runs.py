"""A whole run of GainEngine: its overhead, its epochs, its restart, and what it refuses."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ggmi_callbacks import Filter, GainEngine, GradientScorer, LikelihoodScorer, Monitor, Reweight
from ggmi_callbacks.tasks import SAMPLE_KEY
from tests._batches import VOCABULARY, padded, samples
from tests._loop import ANCHORS, SIZE, TASK, Fixed, Loop, builder, stream


@pytest.fixture
def build(make_model):
    return builder(make_model)


def train_a_little(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=draw))


class Slow(Fixed):
    """Scores in one second of a clock that the test turns."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__(1.0, 1.0, 1.0, 1.0)
        self.clock, self.calls = clock, 0

    def gain(self, inputs, layout) -> Tensor:
        self.clock[0] += 1
        self.calls += 1
        return super().gain(inputs, layout)


@pytest.mark.filterwarnings("ignore:all of .* samples have the score")
@pytest.mark.parametrize("overhead", [0.05, 0.2])
def test_the_overhead_is_kept_and_coverage_says_what_it_cost(build, monkeypatch, overhead: float) -> None:
    clock = [0.0]
    monkeypatch.setattr("ggmi_callbacks.engine.budget.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    loop, steps = build(Monitor(), scorer=Slow(clock), overhead=overhead), 800
    engine, data = loop.engine, stream(1)[0]
    for _ in range(steps):  # the bare calls: no model is needed to tell the time
        inputs = engine.observe(data)
        clock[0] += 1
        if engine.wants_log_probs:
            engine.record_log_probs(torch.zeros(TASK.layout(inputs).target.shape))
        engine.end_step()
    logs = engine.log()
    assert logs["ggmi/overhead"] <= overhead
    assert logs["ggmi/overhead"] > overhead - 0.005
    assert logs["ggmi/coverage"] == pytest.approx(engine.scorer.calls / steps)
    rows = engine.ledger.table
    assert rows["gain"].null_count == 4 * (steps - engine.scorer.calls)
    assert set(rows["weight"].to_pylist()) == {1.0}
    assert rows["nll"].null_count == 0  # the losses of sources are those of every sample


def test_looks_back_are_rare_in_a_run_without_a_budget(build) -> None:
    loop, batch, seen = build(Reweight(), sources=None), stream(1)[0], []
    for step in range(250):
        loop.engine.observe({**batch, SAMPLE_KEY: torch.arange(4 * step, 4 * step + 4)})
        loop.engine.record_log_probs(torch.zeros(TASK.layout(batch).target.shape))
        loop.engine.end_step()
        if step % 10 == 9:
            seen.append("ggmi/anchor_nll" in loop.engine.log())
    assert [10 * (i + 1) for i, looked in enumerate(seen) if looked] == [10, 110, 210]
    assert {"ggmi/anchor_nll", "ggmi/weight_information"} <= set(
        loop.engine.finish()
    )  # those at the end are of the end


def test_short_runs_are_scored_whatever_the_overhead(build) -> None:
    loop = build(Monitor(), overhead=1e-9)
    for batch in stream(20):
        loop.step(batch)
    assert loop.engine.log()["ggmi/coverage"] == pytest.approx(64 / 80)


def test_weight_information_adds_up_over_all_samples_though_some_were_not_watched(build) -> None:
    # I(S; W) is a sum over S: seeing a share of it must not make it smaller.
    loop = build(Monitor(), overhead=1e-9, sources=None)
    engine, data = loop.engine, stream(1)[0]
    loop.model.eval()
    for i in range(32):
        inputs = engine.observe({**data, SAMPLE_KEY: torch.arange(4 * i, 4 * i + 4)})
        if engine.wants_log_probs:
            engine.record_log_probs(TASK.log_probs(loop.model, inputs))
        engine.end_step()
    train_a_little(loop.model)
    now = engine.log()["ggmi/weight_information"]  # from two visits of one batch, all of which are alike
    final = engine.finish()
    assert final["ggmi/synthetic_samples"] == 32 * SIZE
    assert now == pytest.approx(final["ggmi/synthetic_information_mixture"], rel=1e-5)


def test_weight_information_is_what_training_shortened(build) -> None:
    loop = build(Monitor(), overhead=0.9)
    loop.model.eval()
    data = stream(8)
    first = 0.0
    for batch in data:
        with torch.no_grad():
            first -= float(TASK.log_probs(loop.model, batch).sum())
        loop.step(batch)
    with torch.no_grad():
        now = -sum(float(TASK.log_probs(loop.model, batch).sum()) for batch in data)
    loop.engine.log()
    assert loop.engine.finish()["ggmi/synthetic_information_mixture"] == pytest.approx(first - now, rel=1e-4)


def test_later_epochs_are_no_first_visits(build) -> None:
    loop = build()
    for batch in stream(2):
        loop.step(batch)
    for batch in stream(2):  # nobody says that an epoch has begun
        loop.step(batch)
    loop.engine.log()
    assert loop.engine.finish()["ggmi/synthetic_samples"] == 8
    first = [visit.first_nll.isfinite().tolist() for visit in loop.engine.recorder.reservoir.visits]
    assert first == [[True] * 4] * 2 + [[False] * 4] * 2
    assert len(loop.engine.ledger) == 16


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_is_left_out_counted_and_named(build, value: str) -> None:
    loop = build(scorer=Fixed(1.0, 1.0, 1.0, 1.0))
    for batch in stream(2):
        inputs = loop.engine.observe(batch)
        log_probs = torch.zeros(TASK.layout(inputs).target.shape)
        log_probs[2] = -float(value)
        loop.engine.record_log_probs(log_probs)
        loop.engine.end_step()
    with pytest.warns(UserWarning, match=r"the loss of samples \[2, 6\] is not finite"):
        logs = loop.engine.log()
    assert logs["ggmi/nonfinite"] == 2
    assert logs["ggmi/synthetic_nll"] == 0  # of the six others
    assert loop.engine.finish()["ggmi/synthetic_samples"] == 8


@pytest.mark.parametrize(
    ("anchors", "words"),
    [
        ([], "at least two samples, in two batches .*, got 0 in 0"),
        ([padded(samples(1))], "at least two samples, in two batches .*, got 1 in 1"),
        ([padded(samples(8))], "at least two samples, in two batches .*, got 8 in 1"),
        ([{**b, "labels": torch.full_like(b["labels"], -100)} for b in ANCHORS], "12 of 12 `anchors` have no target"),
    ],
    ids=["none", "one", "one batch", "no targets"],
)
def test_anchors_that_cannot_be_scored_are_refused_by_name(build, anchors: list, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        build(anchors=anchors, prepare=False)
    assert "`anchors`" in str(error.value)


def test_a_classification_model_is_refused_at_the_start(make_model) -> None:
    from transformers import LlamaForSequenceClassification

    with pytest.raises(ValueError, match="no language-model head"):
        GainEngine(LlamaForSequenceClassification(make_model().config), ANCHORS)


@pytest.mark.parametrize("settings", [{"overhead": 1.5}, {"shadow_epochs": 0}, {"learning_rate": -1.0}], ids=str)
def test_settings_that_mean_nothing_are_refused_by_name(build, settings: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(settings)).removeprefix('shadow_')}`"):
        build(**settings)


@pytest.mark.parametrize("reference", ["initial", "current"])
def test_gains_that_cannot_change_are_found_once(build, reference: str) -> None:
    data = stream(3)
    loop = build(Reweight(), scorer=LikelihoodScorer(reference), num_samples=12)
    calls, found = [], loop.engine.scorer.token_gain
    loop.engine.scorer.token_gain = lambda *args: calls.append(0) or found(*args)
    for epoch in range(3):
        loop.engine.begin_epoch(epoch)
        for batch in data:
            loop.step(batch)
    loop.engine.log()
    gain = loop.engine.ledger.table["gain"].to_pylist()
    assert len(calls) == (3 if reference == "initial" else 9)
    assert (gain[:12] == gain[12:24] == gain[24:]) is (reference == "initial")


def test_gains_are_remembered_only_if_every_sample_has_one(build) -> None:
    loop = build(num_samples=13)
    for epoch in range(2):
        loop.engine.begin_epoch(epoch)
        for batch in stream(3):
            loop.step(batch)
    loop.engine.log()
    gain = loop.engine.ledger.table["gain"].to_pylist()
    assert gain[:12] == gain[12:]
    assert not loop.engine.intake.table.complete()


def save(engine: GainEngine) -> dict[str, Any]:
    """The state as a checkpoint holds it."""
    buffer = io.BytesIO()
    torch.save(engine.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("policy", [Filter(keep=0.5), Reweight()], ids=repr)
@pytest.mark.parametrize("scorer", [LikelihoodScorer, lambda: GradientScorer(every=3)], ids=["likelihood", "gradient"])
@pytest.mark.parametrize("through", [save, GainEngine.state_dict], ids=["a file", "memory"])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(build, make_model, policy, scorer, through) -> None:
    import copy

    def run(loop: Loop, steps: range) -> list[dict[str, float]]:
        logs = []
        for step in steps:
            loop.step(data[step])
            if step % 3 == 2:  # the checkpoint, after step 3, falls between two logs
                logs.append(loop.engine.log())
        return logs

    data = stream(8)
    whole = build(copy.deepcopy(policy), scorer=scorer(), num_samples=32)
    run(whole, range(4))
    state = through(whole.engine)
    tensors = copy.deepcopy((whole.model.state_dict(), whole.optimiser.state_dict(), torch.get_rng_state()))
    expected = run(whole, range(4, 8))

    for _ in range(2):  # twice from one state: nobody may have written into it
        resumed = build(
            copy.deepcopy(policy),
            scorer=scorer(),
            num_samples=32,
            prepare=False,
            model=make_model(7, vocab_size=VOCABULARY, attention_dropout=0.2),
        )
        resumed.model.load_state_dict(tensors[0])
        resumed.optimiser.load_state_dict(copy.deepcopy(tensors[1]))
        resumed.engine.load_state_dict(state)
        torch.set_rng_state(tensors[2])
        found = run(resumed, range(4, 8))
        assert torch.equal(whole.weights(), resumed.weights())
        for a, b in zip(expected, found, strict=True):
            assert {**a, "ggmi/overhead": 0} == {**b, "ggmi/overhead": 0}

    whole.engine.log(), resumed.engine.log()
    assert resumed.engine.ledger.table.equals(whole.engine.ledger.table)
    assert resumed.engine.finish() == whole.engine.finish()


def test_a_resumed_run_remembers_the_gains_that_it_had_found(build) -> None:
    loop, resumed = build(num_samples=16), build(num_samples=16, prepare=False)
    for batch in stream(2):
        loop.step(batch)
    state = loop.engine.state_dict()
    for batch in stream(4)[2:]:
        loop.step(batch)
    resumed.engine.load_state_dict(state)
    assert not resumed.engine.intake.table.complete()
    for batch in stream(4)[2:]:
        resumed.step(batch)
    assert resumed.engine.intake.table.complete()
    assert torch.equal(resumed.engine.intake.table.values, loop.engine.intake.table.values)


@pytest.mark.parametrize("make", [LikelihoodScorer, lambda: GradientScorer(every=50)], ids=["likelihood", "gradient"])
def test_a_second_run_with_the_same_scorer_and_policy_begins_anew(build, make_model, make) -> None:
    scorer, policy = make(), Reweight()
    for seed in (0, 1):
        again = build(policy, scorer=scorer, model=make_model(seed, vocab_size=VOCABULARY))
        fresh = build(Reweight(), scorer=make(), model=make_model(seed, vocab_size=VOCABULARY))
        tables = []
        for loop in (again, fresh):
            for batch in stream(3):
                loop.step(batch)
            loop.engine.log()
            tables.append(loop.engine.ledger.table)
        assert tables[0].equals(tables[1])
