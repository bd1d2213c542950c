"""GainEngine in a loop written by hand: the five calls, and what stands in ledger and log after them."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ggmi_callbacks import Filter, GainEngine, GradientScorer, LikelihoodScorer, Monitor, Reweight, Scorer
from ggmi_callbacks.tasks import SAMPLE_KEY, CausalLM
from tests._batches import VOCABULARY, packed, padded, samples

TASK = CausalLM()
SIZE = 4
SOURCES = ["good", "bad", "good", None] * 20
POLICIES = [Monitor(), Filter(), Filter(keep=0.5), Reweight()]


def runs(n: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Samples that have something in common: one token after another, the first two without a label."""
    ids = [torch.arange(8) + 3 + (start + i) % 7 for i in range(n)]
    return [(x, torch.cat([torch.tensor([-100, -100]), x[2:]])) for x in ids]


ANCHORS = [padded(runs(2, start)) for start in range(6)]


def stream(n: int, form: str = "rows") -> list[dict[str, Any]]:
    """Batches of four samples, every second sample like the anchors and the others noise, with their ids."""
    mixed = [pair for both in zip(runs(2 * n), samples(2 * n, seed=9), strict=True) for pair in both]
    pack = packed if form == "packed" else padded
    return [{**pack(mixed[i : i + SIZE]), SAMPLE_KEY: torch.arange(i, i + SIZE)} for i in range(0, len(mixed), SIZE)]


class Fixed(Scorer):
    """The gains that it is told, whatever the samples."""

    def __init__(self, *gains: float) -> None:
        super().__init__()
        self.gains = torch.tensor(gains)

    def gain(self, inputs, layout) -> Tensor:
        return self.gains[: layout.n].clone()


class Loop:
    """A training loop as a user would write it: sum_i w_i sum_t nll_it / N, N of the whole batch."""

    def __init__(self, model: nn.Module, engine: GainEngine | None, lr: float = 1e-3) -> None:
        self.model, self.engine = model.train(), engine
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=lr)
        self.losses: list[float] = []

    def step(self, batch: dict[str, Any]) -> None:
        count = batch["labels"][:, 1:].ne(-100).sum()
        inputs = self.engine.observe(batch) if self.engine else {k: v for k, v in batch.items() if k != SAMPLE_KEY}
        log_probs = TASK.log_probs(self.model, inputs)
        weights = None
        if self.engine:
            self.engine.watch(log_probs)
            weights = self.engine.weights
        loss = -(log_probs if weights is None else log_probs * weights).sum() / count
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.losses.append(loss.item())
        if self.engine:
            self.engine.end_step()

    def weights(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


def train_a_little(model: nn.Module) -> None:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=draw))


@pytest.fixture
def build(make_model):
    def make(policy=None, *, prepare: bool = True, model: nn.Module | None = None, **settings) -> Loop:
        model = model or make_model(vocab_size=VOCABULARY, attention_dropout=0.2)
        settings = {"learning_rate": 3e-3, "progress": False, "sources": SOURCES, **settings}
        engine = GainEngine(model, settings.pop("anchors", ANCHORS), policy=policy, **settings)
        if prepare:
            engine.prepare()
        torch.manual_seed(1)
        return Loop(model, engine)

    return make


def test_a_run_has_every_number_that_the_log_promises(build) -> None:
    loop = build()
    for batch in stream(6):
        loop.step(batch)
    logs = loop.engine.log()
    promised = {"gain", "gain_low", "gain_high", "gain/good", "gain/bad", "kept/good", "kept/bad", "anchor_nll"}
    promised |= {"synthetic_nll", "weight_information", "information_gain", "coverage", "overhead"}
    assert {f"ggmi/{name}" for name in promised} == logs.keys()
    assert all(type(value) is float and math.isfinite(value) for value in logs.values())
    assert logs["ggmi/gain_low"] < logs["ggmi/gain"] < logs["ggmi/gain_high"]
    final = loop.engine.finish()
    assert {"ggmi/ggmi", "ggmi/anchor_information", "ggmi/synthetic_information"} <= final.keys()
    difference = final["ggmi/anchor_information"] - final["ggmi/synthetic_information"]
    assert final["ggmi/ggmi"] == pytest.approx(difference, rel=1e-6)
    results = loop.engine.results()
    assert results["estimators"]["weight_information"] == "mixture"
    assert results["estimators"]["ggmi"].startswith("mixture")
    assert "matrix" in results["estimators"]["information_gain"]
    assert results["shadow"]["seconds"] > 0


def test_results_know_all_that_was_logged(build) -> None:
    loop = build()
    loop.step(stream(1)[0])
    logs = loop.engine.log() | loop.engine.finish()
    results = loop.engine.results()
    assert {name: results[name] for name in logs} == logs


def test_numbers_of_a_window_are_those_of_its_samples(build) -> None:
    loop = build(scorer=Fixed(1.0, 2.0, 3.0, 4.0))
    for batch in stream(3):
        loop.step(batch)
    logs = loop.engine.log()
    assert logs["ggmi/gain"] == pytest.approx(2.5)
    assert logs["ggmi/gain/good"] == pytest.approx(2.0)  # samples 0 and 2 of four
    assert logs["ggmi/gain/bad"] == pytest.approx(2.0)
    rows = loop.engine.ledger.table.to_pylist()
    assert logs["ggmi/synthetic_nll"] == pytest.approx(sum(row["nll"] for row in rows) / 12, rel=1e-6)
    loop.engine.scorer.gains += 10
    loop.step(stream(1)[0])
    logs = loop.engine.log()
    assert logs["ggmi/gain"] == pytest.approx(12.5)  # the window has begun anew
    rows = loop.engine.ledger.table.to_pylist()[12:]
    assert logs["ggmi/synthetic_nll"] == pytest.approx(sum(row["nll"] for row in rows) / 4, rel=1e-6)


def test_a_window_without_samples_logs_nothing_of_them(build) -> None:
    logs = build().engine.log()
    assert not {"ggmi/gain", "ggmi/coverage", "ggmi/synthetic_nll", "ggmi/weight_information"} & logs.keys()
    assert "ggmi/anchor_nll" in logs


def test_data_without_prompts_have_no_information_gain(build) -> None:
    loop = build()
    for start in range(3):
        loop.step(padded(samples(4, seed=start, prompt=0)))
    assert "ggmi/information_gain" not in loop.engine.log()


def test_without_sources_the_share_kept_is_one_number(build) -> None:
    loop = build(Filter(), scorer=Fixed(1.0, -1.0, 2.0, 3.0), sources=None)
    loop.step(stream(1)[0])
    logs = loop.engine.log()
    assert logs["ggmi/kept"] == 0.75
    assert not [name for name in logs if name.startswith(("ggmi/gain/", "ggmi/kept/"))]
    assert loop.engine.ledger.table["source"].to_pylist() == [None] * 4


@pytest.mark.parametrize("form", ["rows", "packed"])
def test_the_ledger_has_a_row_for_each_sample_met(build, form: str) -> None:
    loop, data = build(Reweight()), stream(3, form)
    loop.model.eval()  # without dropout the first code lengths are known
    inputs = {k: v for k, v in data[0].items() if k != SAMPLE_KEY}
    first = (-TASK.layout(inputs, SIZE).total(TASK.log_probs(loop.model, inputs))).tolist()
    for batch in data:
        loop.step(batch)
    loop.engine.log()
    rows = loop.engine.ledger.table.to_pylist()
    assert [row["step"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
    assert [row["id"] for row in rows] == list(range(12))
    assert [row["source"] for row in rows] == SOURCES[:12]
    assert [row["nll"] for row in rows[:4]] == pytest.approx(first, rel=1e-5)
    assert all(row["kept"] and row["gain"] is not None for row in rows)


def test_samples_are_numbered_as_they_come_if_nobody_says(build) -> None:
    loop = build(sources=None)
    for batch in stream(2):
        loop.step({k: v for k, v in batch.items() if k != SAMPLE_KEY})
    loop.engine.log()
    assert loop.engine.ledger.table["id"].to_pylist() == list(range(8))


def test_sample_ids_are_taken_out_of_the_batch_and_the_callers_is_left(build) -> None:
    loop, batch = build(), stream(1)[0]
    inputs = loop.engine.observe(batch)
    assert SAMPLE_KEY not in inputs
    assert SAMPLE_KEY in batch


def test_what_is_like_the_anchors_gains_more(build) -> None:
    loop = build()
    for batch in stream(4):
        loop.step(batch)
    loop.engine.log()
    gain = torch.tensor(loop.engine.ledger.table["gain"].to_pylist())
    assert gain[0::2].min() > gain[1::2].max()


def test_monitor_changes_no_bit_of_the_run(build, make_model) -> None:
    watched = build(Monitor(), overhead=0.9)
    plain = Loop(make_model(vocab_size=VOCABULARY, attention_dropout=0.2), None)
    torch.manual_seed(1)
    for batch in stream(4):
        plain.step(batch)
    torch.manual_seed(1)
    for batch in stream(4):
        watched.step(batch)
        watched.engine.log()
    watched.engine.finish()
    assert plain.losses == watched.losses
    assert torch.equal(plain.weights(), watched.weights())


def test_an_embedding_hook_that_draws_is_not_called_by_the_engine(build, make_model) -> None:
    # NEFTune is such a hook: noise on the embeddings in training mode, from the global stream.
    def noisy() -> nn.Module:
        model = make_model(vocab_size=VOCABULARY)
        model.get_input_embeddings().register_forward_hook(
            lambda module, args, out: out + 0.01 * torch.randn_like(out) if module.training else out
        )
        return model

    plain, watched = Loop(noisy(), None), build(Monitor(), model=noisy(), overhead=0.9)
    for loop in (plain, watched):
        torch.manual_seed(1)
        for batch in stream(2):
            loop.step(batch)
    assert torch.equal(plain.weights(), watched.weights())


def test_equal_gains_reweigh_no_bit_of_the_run(build, make_model) -> None:
    plain, weighed = (
        Loop(make_model(vocab_size=VOCABULARY), None),
        build(Reweight(), scorer=Fixed(0.1, 0.1, 0.1, 0.1), model=make_model(vocab_size=VOCABULARY)),
    )
    for loop in (plain, weighed):
        for batch in stream(3):
            loop.step(batch)
    assert torch.equal(plain.weights(), weighed.weights())


@pytest.mark.parametrize("form", ["rows", "packed"])
def test_weights_reach_every_target_of_their_sample(build, form: str) -> None:
    engine = build(Reweight(), scorer=Fixed(-1.0, 0.0, 1.0, 2.0), sources=None).engine
    inputs = engine.observe(stream(1, form)[0])
    expected = Reweight()(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    layout = TASK.layout(inputs, SIZE)
    total = layout.total(engine.weights.expand(layout.target.shape) * layout.target)
    assert torch.allclose(total, expected * layout.tokens)


@pytest.mark.parametrize("policy", [Monitor(), Filter()], ids=repr)
def test_only_a_policy_that_weighs_hands_out_weights(build, policy) -> None:
    engine = build(policy, scorer=Fixed(1.0, 2.0, 3.0, 4.0)).engine
    assert engine.weights is None
    engine.observe(stream(1)[0])
    assert engine.weights is None


@pytest.mark.parametrize("form", ["rows", "packed"])
def test_filter_hands_on_what_it_keeps_and_accounts_for_the_rest(build, form: str) -> None:
    loop = build(Filter(), scorer=Fixed(1.0, -1.0, float("nan"), 0.0))
    for batch in stream(2, form):
        inputs = loop.engine.observe(batch)
        assert TASK.layout(inputs, 2).tokens.tolist() == TASK.layout(batch, SIZE).tokens[[0, 2]].tolist()
        loop.step(batch)
    logs = loop.engine.log()
    rows = loop.engine.ledger.table.to_pylist()[4:8]
    assert [row["kept"] for row in rows] == [True, False, True, False]
    assert [row["weight"] for row in rows] == [1, 0, 1, 0]
    assert [row["gain"] for row in rows] == [1.0, -1.0, None, 0.0]
    assert [row["nll"] is None for row in rows] == [False, True, False, True]
    assert logs["ggmi/kept/good"] == 1
    assert logs["ggmi/kept/bad"] == 0


def test_filter_equals_training_with_zero_weights(build, make_model) -> None:
    filtered = build(Filter(), scorer=Fixed(1.0, -1.0, 1.0, -1.0), model=make_model(vocab_size=VOCABULARY))
    weighted = Loop(make_model(vocab_size=VOCABULARY), None)
    for batch in stream(3):
        filtered.step(batch)
        labels = batch["labels"].clone()
        labels[1::2] = -100
        # Adam's first steps are of the sign of the gradient: compare gradients through one step of plain descent.
        inputs = {k: v for k, v in batch.items() if k != SAMPLE_KEY}
        count = batch["labels"][:, 1:].ne(-100).sum()
        loss = -TASK.log_probs(weighted.model, {**inputs, "labels": labels}).sum() / count
        weighted.optimiser.zero_grad()
        loss.backward()
        ours = torch.cat([p.grad.flatten() for p in filtered.model.parameters()])
        theirs = torch.cat([p.grad.flatten() for p in weighted.model.parameters()])
        assert torch.linalg.norm(ours - theirs) < 1e-6 * torch.linalg.norm(theirs)
        weighted.model.load_state_dict(filtered.model.state_dict())


def test_a_batch_that_loses_every_sample_moves_nothing_and_is_accounted_for(build) -> None:
    loop = build(Filter(), scorer=Fixed(-1.0, -1.0, -1.0, -1.0))
    loop.optimiser = torch.optim.SGD(loop.model.parameters(), lr=1.0)
    before = loop.weights()
    loop.step(stream(1)[0])
    assert torch.equal(loop.weights(), before)
    logs = loop.engine.log()
    assert logs["ggmi/kept/good"] == 0
    assert "ggmi/synthetic_nll" not in logs
    assert loop.engine.ledger.table["nll"].null_count == 4


def test_a_sample_without_targets_has_no_gain_and_is_kept(build) -> None:
    batch = stream(1)[0]
    batch["labels"][1] = -100
    loop = build(Filter(threshold=1e9), scorer=Fixed(1.0, 2.0, float("inf"), 4.0))
    loop.step(batch)
    loop.engine.log()
    rows = loop.engine.ledger.table.to_pylist()
    assert [row["gain"] for row in rows] == [1.0, None, None, 4.0]
    assert [row["kept"] for row in rows] == [False, True, True, False]


class Slow(Fixed):
    """Scores in one second of a clock that the test turns."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__(1.0, 1.0, 1.0, 1.0)
        self.clock, self.calls = clock, 0

    def gain(self, inputs, layout) -> Tensor:
        self.clock[0] += 1
        self.calls += 1
        return super().gain(inputs, layout)


@pytest.mark.parametrize("overhead", [0.05, 0.2])
def test_the_overhead_is_kept_and_coverage_says_what_it_cost(build, monkeypatch, overhead: float) -> None:
    clock = [0.0]
    monkeypatch.setattr("ggmi_callbacks.budget.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    loop, steps = build(Monitor(), scorer=Slow(clock), overhead=overhead), 800
    engine, data = loop.engine, stream(1)[0]
    for _ in range(steps):  # the bare calls: no model is needed to tell the time
        inputs = engine.observe(data)
        clock[0] += 1
        if engine.wants_log_probs:
            engine.watch(torch.zeros(TASK.layout(inputs).target.shape))
        engine.end_step()
    logs = engine.log()
    assert logs["ggmi/overhead"] <= overhead
    assert logs["ggmi/overhead"] > overhead - 0.005
    assert logs["ggmi/coverage"] == pytest.approx(engine.scorer.calls / steps)
    rows = engine.ledger.table
    assert rows["gain"].null_count == 4 * (steps - engine.scorer.calls)
    assert set(rows["weight"].to_pylist()) == {1.0}
    assert rows["gain"].null_count == rows["nll"].null_count


def test_short_runs_are_scored_whatever_the_overhead(build) -> None:
    loop = build(Monitor(), overhead=1e-9)
    for batch in stream(20):
        loop.step(batch)
    assert loop.engine.log()["ggmi/coverage"] == pytest.approx(64 / 80)


def test_weight_information_adds_up_over_all_samples_though_some_were_not_watched(build) -> None:
    # I(S; W) is a sum over S: seeing a share of it must not make it smaller.
    loop = build(Monitor(), overhead=1e-9)
    engine, data = loop.engine, stream(1)[0]
    loop.model.eval()
    for _ in range(32):
        inputs = engine.observe(data)
        if engine.wants_log_probs:
            engine.watch(TASK.log_probs(loop.model, inputs))
        engine.end_step()
    train_a_little(loop.model)
    now = engine.log()["ggmi/weight_information"]  # from two visits of one batch, all of which are alike
    final = engine.finish()
    assert final["ggmi/synthetic_samples"] == 32 * SIZE
    assert now == pytest.approx(final["ggmi/synthetic_information"], rel=1e-5)


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
    assert loop.engine.finish()["ggmi/synthetic_information"] == pytest.approx(first - now, rel=1e-4)


def test_later_epochs_are_no_first_visits(build) -> None:
    loop = build()
    for batch in stream(2):
        loop.step(batch)
    loop.engine.first_epoch = False
    for batch in stream(2):
        loop.step(batch)
    loop.engine.log()
    assert loop.engine.finish()["ggmi/synthetic_samples"] == 8
    assert len(loop.engine.recorder.reservoir.visits) == 2
    assert len(loop.engine.ledger) == 16


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_names_its_samples(build, value: str) -> None:
    loop = build(scorer=Fixed(1.0, 1.0, 1.0, 1.0))
    for batch in stream(2):
        inputs = loop.engine.observe(batch)
        log_probs = torch.zeros(TASK.layout(inputs).target.shape)
        log_probs[2] = -float(value)
        loop.engine.watch(log_probs)
        loop.engine.end_step()
    with pytest.raises(ValueError, match=r"the loss of samples \[2, 6\] is not finite"):
        loop.engine.log()


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
    calls, found = [], loop.engine.scorer.gain
    loop.engine.scorer.gain = lambda *args: calls.append(0) or found(*args)
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
    assert not loop.engine._cache.complete()


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
    assert not resumed.engine._cache.complete()
    for batch in stream(4)[2:]:
        resumed.step(batch)
    assert resumed.engine._cache.complete()
    assert torch.equal(resumed.engine._cache.gain, loop.engine._cache.gain)


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
