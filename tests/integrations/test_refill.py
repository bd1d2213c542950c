"""A filter that spends what it saves, in both Hugging Face trainers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ggmi_callbacks import ColumnScorer, Filter

from ._jobs import BOTH, weights


def trained(callback) -> list[dict]:
    return [row for row in callback.ledger.table.to_pylist() if row["nll"] is not None]


def labelled(synthetic):
    """Rows that bring a score: those of source "right" passed."""
    return synthetic.map(lambda row: {"passed": row["source"] == "right"})


@BOTH
def test_every_step_sees_the_batch_that_was_tuned(kind, make_trainer):
    trainer, callback = make_trainer(kind, Filter(keep=0.5), num_train_epochs=2)
    trainer.train()
    assert trainer.state.global_step == 16  # as without a filter
    assert set(Counter(row["step"] for row in trained(callback)).values()) == {4}


@BOTH
def test_accumulated_micro_batches_are_full_too(kind, make_trainer):
    trainer, callback = make_trainer(kind, Filter(keep=0.5), gradient_accumulation_steps=2)
    trainer.train()
    assert set(Counter(row["step"] for row in trained(callback)).values()) == {8}


@BOTH
@pytest.mark.filterwarnings("ignore:the policy keeps 'right' alone")  # which this column asks for
def test_what_a_column_drops_is_never_drawn(kind, make_trainer, synthetic):
    trainer, callback = make_trainer(
        kind, Filter(), train=labelled(synthetic), callback={"scorer": ColumnScorer("passed"), "source": "source"}
    )
    trainer.train()
    assert trainer.state.global_step == 8
    assert {row["source"] for row in trained(callback)} == {"right"}
    assert len(trained(callback)) == 32  # sixteen of them, twice
    results = callback.results()
    assert results["ggmi/kept/wrong"] == 0.0
    assert results["ggmi/kept/right"] == 1.0


@BOTH
def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(kind, make_trainer, tmp_path):
    args = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 2, "logging_steps": 2}
    whole, first = make_trainer(kind, Filter(keep=0.5), output=tmp_path, **args)
    whole.train()
    again, second = make_trainer(kind, Filter(keep=0.5), output=tmp_path, **args)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(weights(again), weights(whole))
    assert second.ledger.table.equals(first.ledger.table)


@BOTH
def test_without_refill_batches_shrink_and_nobody_is_warned(kind, make_trainer, recwarn):
    trainer, callback = make_trainer(kind, Filter(keep=0.5, refill=False))
    trainer.train()
    assert len(callback.ledger) == 32
    assert len(trained(callback)) < 32
    assert not [w for w in recwarn if "refill" in str(w.message)]


def test_packed_rows_cannot_be_refilled_and_say_so(make_trainer):
    trainer, _ = make_trainer("sft", Filter(keep=0.5), packing=True, max_length=64, max_steps=1)
    with pytest.warns(UserWarning, match=r"cannot refill batches here \(rows are packed\)"):
        trainer.train()


def test_a_sampler_of_ones_own_is_left_alone(make_trainer):
    from transformers import TrainingArguments

    grouped = {"train_sampling_strategy": "group_by_length"}
    if hasattr(TrainingArguments, "group_by_length"):  # of transformers 4
        grouped = {"group_by_length": True}
    trainer, _ = make_trainer("trainer", Filter(keep=0.5), max_steps=1, **grouped)
    with pytest.warns(UserWarning, match="an order of its own"):
        trainer.train()


@BOTH
def test_an_agreeing_answer_is_kept_and_one_that_stands_alone_is_dropped(kind, make_trainer, tokenizer):
    from datasets import Dataset

    from ggmi_callbacks import AgreementScorer

    rows = [
        {"prompt": f"Tom has {a} red balls and finds 3 more . How many ?", "completion": f" He has {b} balls now ."}
        for a in range(8)
        for b in (a + 3, a + 3, 50 + a)
    ]
    scorer = AgreementScorer(group="group", answer=lambda text: text.split()[2], text="text")
    data = Dataset.from_list([{**row, "text": row["completion"], "group": row["prompt"]} for row in rows])
    trainer, callback = make_trainer(kind, Filter(), train=data, callback={"scorer": scorer})
    trainer.train()
    kept = {row["id"] % 3 for row in trained(callback)}
    assert kept == {0, 1}
    assert callback.results()["ggmi/kept"] == pytest.approx(2 / 3, abs=0.03)
