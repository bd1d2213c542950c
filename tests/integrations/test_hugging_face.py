"""What holds for ``Trainer`` and ``SFTTrainer`` alike."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from ggmi_callbacks import Filter, GradientScorer, LikelihoodScorer, LookaheadScorer, Monitor, Reweight

from .._loop import Pattern
from .._sums import sums
from ._jobs import (
    BOTH,
    EqualGains,
    callback_class,
    gradients_of_first_step,
    handwritten_gradients,
    losses,
    tokenised,
    weights,
)

ACCUMULATION = pytest.mark.parametrize("accumulation", [1, 4])


@BOTH
@pytest.mark.parametrize("scorer", [LikelihoodScorer, GradientScorer, LookaheadScorer])
def test_monitor_is_bit_equal_to_no_callback(kind, scorer, make_trainer, make_model):
    settings = {"model": None, "num_train_epochs": 2}
    plain, _ = make_trainer(kind, **{**settings, "model": make_model(attention_dropout=0.1)})
    plain.train()
    watched, callback = make_trainer(
        kind,
        Monitor(),
        callback={"scorer": scorer(), "overhead": 0.9, "source": "source"},
        **{**settings, "model": make_model(attention_dropout=0.1)},
    )
    watched.train()
    assert losses(watched) == losses(plain)
    assert torch.equal(weights(watched), weights(plain))
    assert callback.results()["ggmi/coverage"] > 0.3


@BOTH
@ACCUMULATION
def test_equal_gains_give_bit_equal_gradients(kind, accumulation, make_trainer):
    args = {"gradient_accumulation_steps": accumulation, "max_grad_norm": 0}
    plain = gradients_of_first_step(make_trainer(kind, **args)[0])
    trainer, callback = make_trainer(kind, Reweight(), callback={"scorer": EqualGains()}, **args)
    assert torch.equal(gradients_of_first_step(trainer), plain)
    assert set(callback.ledger.table["weight"].to_pylist()) == {1.0}


@BOTH
@ACCUMULATION
@pytest.mark.parametrize("pattern", [(0.5, 2.0, 0.0, 1.25), (1.0, 0.0, 0.0, 1.0)])
def test_weighted_gradients_equal_a_handwritten_weighted_loss(kind, accumulation, pattern, make_trainer, make_model):
    args = {"gradient_accumulation_steps": accumulation, "max_grad_norm": 0}
    drops = set(pattern) == {0.0, 1.0}
    trainer, _ = make_trainer(kind, Pattern(*pattern, drops=drops), **args)
    wanted = handwritten_gradients(make_trainer(kind, **args)[0], make_model(), pattern, accumulation)
    got = gradients_of_first_step(trainer)
    assert (got - wanted).norm() <= 1e-6 * wanted.norm()


@BOTH
def test_logged_loss_is_the_weighted_loss(kind, make_trainer):
    plain, _ = make_trainer(kind, max_steps=1)
    plain.train()
    halved, _ = make_trainer(kind, Pattern(0.5), max_steps=1)
    halved.train()
    assert losses(halved)[0] == pytest.approx(losses(plain)[0] / 2, rel=1e-3)  # the log rounds to 4 digits


@pytest.mark.filterwarnings("ignore:the policy kept none")
@BOTH
@pytest.mark.parametrize("counted", [True, False])
def test_an_emptied_batch_trains_on_nothing(kind, counted, make_trainer, make_model):
    trainer, callback = make_trainer(kind, Pattern(0.0, drops=True), max_steps=2)
    trainer.model_accepts_loss_kwargs = counted
    trainer.train()
    assert losses(trainer) == [0.0, 0.0]
    assert torch.equal(weights(trainer), torch.cat([p.flatten() for p in make_model().parameters()]))
    assert not any(callback.ledger.table["kept"].to_pylist())


@BOTH
def test_gain_tells_right_from_wrong_and_filter_drops_the_wrong(kind, make_trainer):
    trainer, callback = make_trainer(
        kind,
        Filter(keep=0.5, refill=False),
        callback={"source": "source", "shadow_learning_rate": 1e-2, "shadow_epochs": 8},
    )
    trainer.train()
    table = callback.ledger.to_dataset()
    kept = {name: [r["kept"] for r in table if r["source"] == name] for name in ("right", "wrong")}
    assert sum(kept["right"]) >= 14  # of 16; the first batches meet a short memory of gains
    assert sum(kept["wrong"]) <= 4
    assert len(table) == 32
    assert sorted(table["id"]) == list(range(32))
    right = {i for i, source in enumerate(trainer.train_dataset["source"]) if source == "right"}
    assert {row["id"] for row in table if row["source"] == "right"} == right


@BOTH
def test_logs_reach_history_and_tensorboard(kind, make_trainer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer, callback = make_trainer(
        kind, Filter(), callback={"source": "source"}, report_to="tensorboard", logging_steps=2
    )
    trainer.train()
    keys = {key for entry in trainer.state.log_history for key in entry}
    names = {
        *("gain", "gain_low", "gain_high", "gain/right", "gain/wrong", "kept/right", "kept/wrong", "anchor_nll"),
        *("synthetic_nll", "weight_information", "information_gain", "coverage", "overhead"),
        *("ggmi_mixture", "anchor_information_mixture", "synthetic_information_mixture", "anchor_gap"),
    }
    assert {f"ggmi/{name}" for name in names} <= keys
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    board = EventAccumulator(str(events)).Reload().Tags()["scalars"]
    assert {f"train/ggmi/{name}" for name in names} <= set(board)
    results = callback.results()
    assert results["ggmi/ggmi_mixture"] == pytest.approx(
        results["ggmi/anchor_information_mixture"] - results["ggmi/synthetic_information_mixture"], abs=1e-3
    )
    assert "matrix" in results["estimators"]["information_gain"]


@BOTH
def test_samples_held_out_are_twins_in_every_epoch(kind, make_trainer, tokenizer):
    held = Dataset.from_list(sums(16, seed=2)).remove_columns("source")
    held = tokenised(held, tokenizer) if kind == "trainer" else held
    trainer, callback = make_trainer(kind, Monitor(), callback={"heldout": held}, num_train_epochs=2)
    trainer.train()
    results = callback.results()
    assert results["ggmi/generalization_gap_low"] < results["ggmi/generalization_gap"]
    assert results["ggmi/ggmi"] == pytest.approx(
        results["ggmi/anchor_information"] - results["ggmi/synthetic_information"], abs=1e-3
    )
    assert "memorised" in results["verdict"]


@BOTH
def test_evaluation_is_left_alone(kind, make_trainer):
    plain, _ = make_trainer(kind)
    wanted = plain.evaluate(plain.train_dataset)["eval_loss"]
    trainer, _ = make_trainer(kind, Filter(keep=0.25), max_steps=1)
    found = []

    class Evaluate(TrainerCallback):
        def on_train_begin(self, *args, **kwargs):
            found.append(trainer.evaluate(plain.train_dataset)["eval_loss"])

    trainer.add_callback(Evaluate())
    trainer.train()
    assert found == [wanted]


@BOTH
def test_resumed_run_is_bit_equal_to_one_never_stopped(kind, make_trainer, tmp_path):
    args = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 2, "logging_steps": 2}
    callback = {"source": "source"}
    whole, first = make_trainer(kind, Reweight(), callback=callback, output=tmp_path / "a", **args)
    whole.train()
    again, second = make_trainer(kind, Reweight(), callback=callback, output=tmp_path / "a", **args)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-5"))
    assert torch.equal(weights(again), weights(whole))
    assert second.ledger.table.equals(first.ledger.table)
    timed = {"ggmi/overhead", "shadow"}
    results = [{k: v for k, v in c.results().items() if k not in timed} for c in (first, second)]
    assert results[0] == results[1]


@BOTH
def test_later_epochs_remember_the_gains_of_the_first(kind, make_trainer):
    scorer, scored = LikelihoodScorer(), []
    trainer, callback = make_trainer(kind, Filter(keep=0.5), callback={"scorer": scorer}, num_train_epochs=3)
    score = scorer.token_gain
    scorer.token_gain = lambda inputs, layout: scored.append(layout.n) or score(inputs, layout)
    trainer.train()
    assert sum(scored) == 32
    gains = {}
    for row in callback.ledger.table.to_pylist():
        gains.setdefault(row["id"], set()).add(row["gain"])
    assert len(gains) == 32
    assert all(len(values) == 1 for values in gains.values())


@BOTH
def test_a_second_train_starts_anew(kind, make_trainer):
    trainer, callback = make_trainer(kind, Reweight(), max_steps=2)
    trainer.train()
    trainer.train()
    assert set(callback.ledger.table["step"].to_pylist()) == {0, 1}


@BOTH
def test_callback_made_but_not_added_is_an_error(kind, make_trainer):
    trainer, _ = make_trainer(kind)
    callback_class(kind)(trainer, trainer.train_dataset.select(range(8)))
    with pytest.raises(RuntimeError, match="add_callback"):
        trainer.train()


@BOTH
def test_dropped_tensors_of_a_mean_reduced_loss_count(kind, make_trainer, make_model):
    """A model that takes no loss kwargs averages over what is left; the weighted loss still divides by all."""
    pattern = (1.0, 0.0, 1.0, 0.0)
    trainer, _ = make_trainer(kind, Pattern(*pattern, drops=True), max_grad_norm=0, max_steps=1)
    trainer.model_accepts_loss_kwargs = False
    wanted = handwritten_gradients(make_trainer(kind)[0], make_model(), pattern, 1)
    got = gradients_of_first_step(trainer)
    assert (got - wanted).norm() <= 1e-6 * wanted.norm()
