"""``heldout=0.5``: a share of the training set that is never trained on, in both Hugging Face trainers."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch.utils.data import Dataset as MapStyle

from ggmi_callbacks import AgreementScorer, Filter, LikelihoodScorer, Monitor, Reweight

from .._sums import sums
from ._jobs import BOTH, callback_class, losses, tokenised, weights

HALF = {"heldout": 0.5, "source": "source", "overhead": 0.9}
PACKED = {"packing": True, "max_length": 64, "per_device_train_batch_size": 2}


def left(callback) -> list[int]:
    held = set(callback.engine.reserved.tolist())
    return [i for i in range(32) if i not in held]


def ids(callback) -> set[int]:
    return set(callback.ledger.table["id"].to_pylist())


@BOTH
def test_monitor_with_a_share_is_bit_equal_to_plain_training_on_the_rest(kind, make_trainer, make_model, synthetic):
    watched, callback = make_trainer(
        kind, Monitor(), model=make_model(attention_dropout=0.1), callback=HALF, num_train_epochs=2
    )
    watched.train()
    rest = left(callback)
    assert len(rest) == 16
    plain, _ = make_trainer(
        kind, train=synthetic.select(rest), model=make_model(attention_dropout=0.1), num_train_epochs=2
    )
    plain.train()
    assert watched.state.global_step == plain.state.global_step == 8
    assert losses(watched) == losses(plain)
    assert torch.equal(weights(watched), weights(plain))
    assert ids(callback) == set(rest)
    named = {row["id"]: row["source"] for row in callback.ledger.table.to_pylist()}
    assert named == {i: synthetic["source"][i] for i in rest}
    results = callback.results()
    assert {"ggmi/ggmi", "ggmi/generalization_gap", "ggmi/null_gap"} <= results.keys()
    assert results["heldout"] == 16
    assert results["ggmi/synthetic_samples"] == 16
    assert len(watched.train_dataset) == 32  # and the trainer's own set is left as it is


def test_packed_rows_are_held_out_whole(make_trainer, make_model, synthetic):
    given = {**HALF, "heldout": 0.6, "train_dataset": synthetic}
    watched, callback = make_trainer("sft", Monitor(), callback=given, num_train_epochs=2, **PACKED)
    packed = watched.train_dataset
    watched.train()
    rest = left(callback)
    numbered = callback._samples.numbered
    assert sorted(i for row in numbered["ggmi_sample"] for i in row) == rest
    assert len(numbered) == len(packed) - round(0.6 * len(packed))
    plain, _ = make_trainer("sft", num_train_epochs=2, **PACKED)
    rows = [packed["input_ids"].index(row) if isinstance(packed["input_ids"], list) else
            list(packed["input_ids"]).index(row) for row in numbered["input_ids"]]  # fmt: skip
    plain.train_dataset = packed.select(rows)
    plain.train()
    assert losses(watched) == losses(plain)
    assert torch.equal(weights(watched), weights(plain))
    assert ids(callback) == set(rest)
    assert "ggmi/ggmi" in callback.results()


@BOTH
@pytest.mark.parametrize("policy", [Filter(keep=0.75), Reweight()], ids=["filter", "reweight"])
def test_an_acting_run_ends_with_ggmi_of_what_it_trains_on(kind, policy, make_trainer):
    trainer, callback = make_trainer(kind, policy, callback=HALF, num_train_epochs=4)
    trainer.train()
    assert trainer.state.global_step == 16
    assert ids(callback) == set(left(callback))
    results = callback.results()
    assert {"ggmi/ggmi", "ggmi/ggmi_low", "ggmi/generalization_gap"} <= results.keys()
    outside = callback.engine.recorder.live.twins.pairs().sample[1].int().tolist()
    assert set(outside) <= set(callback.engine.reserved.tolist())
    if policy.drops:
        kept = callback.engine.keeps()[callback.engine.reserved]
        assert set(outside) == set(callback.engine.reserved[kept.cpu()].tolist())
        assert 0 < len(set(outside)) < 16


@pytest.mark.filterwarnings("ignore:the policy keeps 'right' alone")
def test_a_filter_that_keeps_too_few_of_them_says_so(make_trainer, caplog):
    trainer, callback = make_trainer("trainer", Filter(keep=0.25), callback=HALF, num_train_epochs=2)
    trainer.train()
    assert "ggmi/ggmi" not in callback.results()
    assert sum("under a filter only those count that it would keep" in r.getMessage() for r in caplog.records) == 1


@BOTH
def test_a_resumed_run_holds_out_the_same_and_another_share_is_refused(kind, make_trainer, tmp_path):
    args = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 4, "logging_steps": 2}
    runs = []
    for share in (0.5, 0.5, 0.6):
        given = {"heldout": share, "source": "source"}  # without a budget, looks go by steps and not by the clock
        runs.append(make_trainer(kind, Filter(keep=0.75), callback=given, output=tmp_path, **args))
    (whole, first), (again, second), (other, _) = runs
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(weights(again), weights(whole))
    assert second.ledger.table.equals(first.ledger.table)
    for name in ("ggmi/ggmi", "ggmi/generalization_gap", "heldout"):
        assert second.results()[name] == first.results()[name]
    with pytest.raises(ValueError, match="held out other samples"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


@BOTH
def test_a_share_too_small_says_how_many_it_gives_and_how_many_are_needed(kind, make_trainer):
    with pytest.raises(ValueError, match=r"`heldout=0\.02` of 32 samples gives 1, and at least 16 are needed.*0\.5"):
        make_trainer(kind, Monitor(), callback={"heldout": 0.02})
    with pytest.raises(ValueError, match=r"`heldout=0\.99` of 32 samples gives 32.*some left"):
        make_trainer(kind, Monitor(), callback={"heldout": 0.99})
    for wrong in (0.0, 1.0, -0.1, 64):
        with pytest.raises(ValueError, match="a share of the training set between 0 and 1"):
            make_trainer(kind, Monitor(), callback={"heldout": wrong})


@BOTH
def test_a_stream_has_no_share_and_the_way_out_is_named(kind, make_trainer, tokenizer):
    rows = Dataset.from_list(sums(8)).remove_columns("source")
    rows = (tokenised(rows, tokenizer) if kind == "trainer" else rows).to_iterable_dataset()
    with pytest.raises(ValueError, match=r"`heldout=0\.5`.*stream.take.*stream.skip"):
        make_trainer(kind, Monitor(), train=rows, callback={"heldout": 0.5}, max_steps=2)


def test_any_map_style_data_set_has_a_share(make_trainer, synthetic, anchors, tokenizer):
    class Rows(MapStyle):
        def __init__(self, data) -> None:
            self.rows = data.to_list()

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> dict:
            return self.rows[index]

    trainer, _ = make_trainer("trainer")
    trainer.train_dataset = Rows(tokenised(synthetic, tokenizer))
    callback = callback_class("trainer")(trainer, tokenised(anchors, tokenizer), **HALF)
    trainer.add_callback(callback)
    trainer.train()
    assert trainer.state.global_step == 4
    assert ids(callback) == set(left(callback))
    assert "ggmi/ggmi" in callback.results()


@BOTH
def test_a_training_set_is_read_once(kind, make_trainer, tokenizer, monkeypatch):
    calls = []
    values = AgreementScorer.values
    monkeypatch.setattr(AgreementScorer, "values", lambda self, data: calls.append(data) or values(self, data))
    rows = [row for row in sums(12, seed=4, bad=False) for _ in range(3)]
    trainer, callback = make_trainer(kind, Filter(), train=Dataset.from_list(rows), max_steps=2)
    trainer.train()
    assert callback.results()["scorer"].startswith("JointScorer: least of likelihood, agreement")
    assert len(calls) == 1


@BOTH
def test_another_training_set_is_read_anew(kind, make_trainer, synthetic, tokenizer):
    rows = Dataset.from_list([row for row in sums(12, seed=4, bad=False) for _ in range(3)])
    trainer, callback = make_trainer(kind, Filter(), train=rows, max_steps=2)
    other, _ = make_trainer(kind, train=synthetic)
    trainer.train_dataset = other.train_dataset
    trainer.train()
    assert type(callback.engine.scorer) is LikelihoodScorer  # its prompts have one answer each
