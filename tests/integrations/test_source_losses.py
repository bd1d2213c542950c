"""Losses by source: exact, of training and of evaluation, with anchors and without, on the real trainers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from ggmi_callbacks import ColumnScorer, Filter, LikelihoodScorer, Monitor, Reweight

from .._sums import sums
from ._jobs import BOTH, callback_class, losses, tokenised, weights
from ._losses import by_hand, logged, mean

JOB = str(Path(__file__).with_name("source_losses_job.py"))


def rows(n: int, seed: int = 0) -> list[dict[str, str]]:
    """Sums of two sources, and every fifth of none."""
    return [{**row, "source": None if i % 5 == 4 else row["source"]} for i, row in enumerate(sums(n, seed))]


def add_callback(kind, trainer, **settings):
    callback = callback_class(kind)(trainer, source="source", **settings)
    trainer.add_callback(callback)
    return callback


@BOTH
@pytest.mark.parametrize("accumulation", [1, 4])
def test_without_anchors_the_losses_of_all_sources_make_the_trainers_own(
    kind, accumulation, make_trainer, make_model, tokenizer
):
    data = Dataset.from_list(rows(16))
    settings = {"per_device_train_batch_size": 16 // accumulation, "gradient_accumulation_steps": accumulation}
    plain, _ = make_trainer(kind, train=data, num_train_epochs=3, **settings)
    plain.train()
    trainer, _ = make_trainer(kind, train=data, num_train_epochs=3, **settings)
    callback = add_callback(kind, trainer)
    trainer.train()
    assert torch.equal(weights(trainer), weights(plain))
    assert losses(trainer) == losses(plain)
    expected = by_hand(make_model(), tokenised(data, tokenizer))
    counts = {name: tokens for name, (_, tokens) in expected.items()}
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == 3
    for entry in entries:
        assert {key for key in entry if key.startswith("ggmi/")} == {f"ggmi/nll/{name}" for name in counts}
        assert mean(logged(entry), counts) == pytest.approx(entry["loss"], rel=1e-6)
    assert logged(entries[0]) == pytest.approx(
        {name: nll / tokens for name, (nll, tokens) in expected.items()}, rel=1e-5
    )
    table = callback.ledger.table
    assert table["gain"].null_count == len(table) == 48
    assert table["nll"].null_count == 0


@BOTH
def test_each_evaluation_set_has_the_losses_of_its_sources(kind, make_trainer, tokenizer):
    sets = {"one": Dataset.from_list(rows(9, 3)), "two": Dataset.from_list(rows(12, 4))}
    ready = sets if kind == "sft" else {name: tokenised(data, tokenizer) for name, data in sets.items()}
    settings = {"eval_strategy": "epoch", "per_device_eval_batch_size": 4, "trainer_kwargs": {"eval_dataset": ready}}
    trainer, _ = make_trainer(kind, train=Dataset.from_list(rows(8)), **settings)
    add_callback(kind, trainer)
    trainer.train()
    returned = trainer.evaluate()  # outside of a run too
    for name, data in sets.items():
        expected = {s: nll / n for s, (nll, n) in by_hand(trainer.model, tokenised(data, tokenizer)).items()}
        entry = next(e for e in trainer.state.log_history if f"eval_{name}_loss" in e)
        assert logged(entry, f"eval_{name}_") == pytest.approx(expected, rel=1e-5)
        assert logged(returned, f"eval_{name}_") == pytest.approx(expected, rel=1e-5)


@BOTH
def test_the_losses_of_an_evaluation_in_one_batch_make_the_trainers_own(kind, make_trainer, tokenizer):
    data = Dataset.from_list(rows(10, 3))
    ready = data if kind == "sft" else tokenised(data, tokenizer)
    settings = {"per_device_eval_batch_size": 10, "trainer_kwargs": {"eval_dataset": ready}}
    trainer, callback = make_trainer(kind, Monitor(), callback={"source": "source"}, **settings)
    found = trainer.evaluate()
    counts = {s: n for s, (_, n) in by_hand(trainer.model, tokenised(data, tokenizer)).items()}
    assert mean(logged(found, "eval_"), counts) == pytest.approx(found["eval_loss"], rel=1e-6)
    trainer.remove_callback(callback)
    assert not logged(trainer.evaluate(), "eval_")


@pytest.mark.parametrize("padding_free", [False, True])
def test_packed_sets_have_the_losses_of_their_sources(padding_free, make_trainer, make_model, tokenizer):
    data, held = Dataset.from_list(rows(24)), Dataset.from_list(rows(10, 3))
    packing = {"packing": True, "max_length": 60} if not padding_free else {"padding_free": True, "max_length": None}
    settings = {"trainer_kwargs": {"eval_dataset": held}, "per_device_train_batch_size": 24}
    trainer, _ = make_trainer("sft", train=data, **packing, **settings)
    given = {} if padding_free else {"train_dataset": data, "eval_dataset": held}
    add_callback("sft", trainer, **given)
    trainer.train()
    expected = {s: nll / n for s, (nll, n) in by_hand(make_model(), tokenised(data, tokenizer)).items()}
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    assert logged(entry) == pytest.approx(expected, rel=1e-5)
    found = trainer.evaluate()
    expected = {s: nll / n for s, (nll, n) in by_hand(trainer.model, tokenised(held, tokenizer)).items()}
    assert logged(found, "eval_") == pytest.approx(expected, rel=1e-5)


def test_packed_evaluation_sets_that_are_not_given_have_none(make_trainer):
    held = Dataset.from_list(rows(10, 3))
    data = Dataset.from_list(rows(8))
    packing = {"packing": True, "max_length": 60, "trainer_kwargs": {"eval_dataset": held}}
    trainer, _ = make_trainer("sft", train=data, **packing)
    add_callback("sft", trainer, train_dataset=data)
    assert not logged(trainer.evaluate(), "eval_")


@BOTH
@pytest.mark.parametrize("policy", [Monitor, Filter, Reweight])
def test_with_anchors_losses_by_source_stand_beside_gains(kind, policy, make_trainer):
    data = Dataset.from_list(rows(16))
    trainer, _ = make_trainer(kind, policy(), train=data, callback={"source": "source", "overhead": 0.99})
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    found = logged(entry)
    assert found
    assert "ggmi/gain" in entry
    whole = [e["ggmi/loss_per_trained_token"] for e in trainer.state.log_history if "loss" in e]
    assert min(found.values()) <= whole[0] <= max(found.values())


@BOTH
def test_a_filter_acts_on_a_column_without_anchors(kind, make_trainer):
    data = Dataset.from_list([{**row, "reward": float(row["source"] == "right")} for row in sums(16)])
    trainer, _ = make_trainer(kind, train=data, remove_unused_columns=True)
    callback = add_callback(kind, trainer, policy=Filter(), scorer=ColumnScorer("reward"))
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "loss" in e)
    assert logged(entry).keys() == {"right"}
    assert entry["ggmi/kept/wrong"] == 0.0
    assert entry["ggmi/kept/right"] == 1.0
    assert entry["ggmi/coverage"] == 1.0
    kept = {row["source"] for row in callback.ledger.table.to_pylist() if row["kept"]}
    assert kept == {"right"}
    found = callback.results()
    assert found["scorer"] == "ColumnScorer"
    assert "shadow" not in found


@BOTH
def test_a_run_without_anchors_resumes_bit_for_bit(kind, make_trainer, tmp_path):
    data = Dataset.from_list(rows(16))
    settings = {"train": data, "save_strategy": "steps", "save_steps": 2, "output": tmp_path / "run"}
    whole, _ = make_trainer(kind, **settings)
    first = add_callback(kind, whole)
    whole.train()
    again, _ = make_trainer(kind, **{**settings, "save_strategy": "no"})
    second = add_callback(kind, again)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert second.ledger.table == first.ledger.table
    assert second.results() == first.results()


@BOTH
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": None}, "`anchors` are missing: give a few dozen real examples"),
        ({"policy": Filter()}, "`anchors` are missing: Filter acts on gains"),
        ({"scorer": LikelihoodScorer()}, "`anchors` are missing: LikelihoodScorer compares samples with them"),
        ({"heldout": [{"prompt": "Tom", "completion": "7"}] * 2}, "`heldout` samples serve comparisons with `anchors`"),
        ({"source": "origin"}, "`source` 'origin' is not a column of `train_dataset`"),
    ],
)
def test_what_needs_anchors_is_refused_by_name(kind, settings, message, make_trainer):
    trainer, _ = make_trainer(kind, train=Dataset.from_list(rows(8)))
    with pytest.raises(ValueError, match=message):
        callback_class(kind)(trainer, **{"source": "source", **settings})


@pytest.mark.slow
def test_two_processes_log_the_losses_by_source_of_one(tmp_path, tokenizer, make_model):
    """The held-out set has an odd number of samples, so a sampler fills its last batch up with one met before."""
    tokenizer.save_pretrained(tmp_path)
    make_model().save_pretrained(tmp_path)
    Dataset.from_list(rows(16)).save_to_disk(tmp_path / "data")
    Dataset.from_list(rows(9, 3)).save_to_disk(tmp_path / "held")
    logs = []
    for processes in (1, 2):
        output = tmp_path / f"{processes}.json"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"] if processes == 2 else []
        command = [sys.executable, *launch, JOB, str(tmp_path), str(4 // processes), str(output)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        logs.append(json.loads(output.read_text()))
    one, two = logs
    assert any("eval_ggmi/nll/unknown" in entry for entry in one)
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
