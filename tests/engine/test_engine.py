"""GainEngine in a loop written by hand: the five calls, and what stands in ledger and log after them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ggmi_callbacks import Filter, Monitor, Reweight
from ggmi_callbacks.tasks import SAMPLE_KEY
from tests._batches import VOCABULARY, padded, samples
from tests._loop import SIZE, SOURCES, TASK, Fixed, Loop, builder, stream


@pytest.fixture
def build(make_model):
    return builder(make_model)


def test_a_run_has_every_number_that_the_log_promises(build) -> None:
    loop = build()
    for batch in stream(6):
        loop.step(batch)
    logs = loop.engine.log()
    promised = {"gain", "gain_low", "gain_high", "gain/good", "gain/bad", "kept/good", "kept/bad", "anchor_nll"}
    promised |= {"synthetic_nll", "loss_per_trained_token", "weight_information", "information_gain", "coverage"}
    promised |= {f"nll/{source}" for source in ("good", "bad", "unknown")}
    promised |= {f"anchor_{name}{end}" for name in ("advantage", "gap") for end in ("", "_low", "_high")} | {"overhead"}
    assert {f"ggmi/{name}" for name in promised} == logs.keys()
    assert all(type(value) is float and math.isfinite(value) for value in logs.values())
    assert logs["ggmi/gain_low"] < logs["ggmi/gain"] < logs["ggmi/gain_high"]
    final = loop.engine.finish()
    assert {"ggmi/ggmi_mixture", "ggmi/anchor_information_mixture"} <= final.keys()
    difference = final["ggmi/anchor_information_mixture"] - final["ggmi/synthetic_information_mixture"]
    assert final["ggmi/ggmi_mixture"] == pytest.approx(difference, rel=1e-6)
    results = loop.engine.results()
    assert results["estimators"]["weight_information"] == "mixture"
    assert results["estimators"]["ggmi_mixture"].startswith("mixture")
    assert results["estimators"]["ggmi"].startswith("loss_difference")
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
    loop = build(sources=None)
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
    with pytest.warns(UserWarning, match="the policy kept none of the samples since the last log"):
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
