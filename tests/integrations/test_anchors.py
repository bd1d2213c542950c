"""Anchors by one door: whatever people have gets the trainer's own preprocessing."""

from __future__ import annotations

import json
from itertools import count

import datasets
import pytest
import torch
from datasets import Dataset, DatasetDict

from ggmi_callbacks import Filter, Monitor

from .._sums import sums
from ._jobs import BOTH, callback_class, tokenised

PACKED = {"packing": True, "max_length": 64, "per_device_train_batch_size": 2}


def tokens(callback) -> list[list[int]]:
    """Targets of each anchor that the engine was given."""
    return sorted(row[row != -100].tolist() for batch in callback._make_engine().anchors for row in batch["labels"])


def as_json_lines(rows, path):
    (path / "anchors.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path / "anchors.jsonl"


def as_json(rows, path):
    (path / "anchors.json").write_text(json.dumps(list(rows)))
    return path / "anchors.json"


def as_parquet(rows, path):
    Dataset.from_list(list(rows)).to_parquet(path / "anchors.parquet")
    return str(path / "anchors.parquet")


def as_folder(rows, path):
    """What a name on the hub is to ``load_dataset`` once it has been fetched."""
    (path / "folder").mkdir()
    as_json_lines(rows, path / "folder")
    return str(path / "folder")


class Rows(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


FORMS = {
    "list": lambda rows, path: list(rows),
    "tuple": lambda rows, path: tuple(rows),
    "torch data set": lambda rows, path: Rows(rows),
    "json lines": as_json_lines,
    "json": as_json,
    "parquet": as_parquet,
    "name": as_folder,
    "one split": lambda rows, path: DatasetDict({"train": Dataset.from_list(list(rows))}),
    "dictionary": lambda rows, path: {"test": Dataset.from_list(list(rows))},
    "stream": lambda rows, path: Dataset.from_list(list(rows)).to_iterable_dataset(num_shards=2),
    "endless, taken": lambda rows, path: Dataset.from_list(list(rows)).to_iterable_dataset().repeat(None).take(12),
}


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_anchors_in_any_form_are_those_of_a_data_set(kind, form, make_trainer, tokenizer, anchors, tmp_path):
    trainer, callback = make_trainer(kind, Monitor())
    wanted = tokens(callback)
    trainer.remove_callback(callback)
    rows = anchors if kind == "sft" else tokenised(anchors, tokenizer)
    assert tokens(callback_class(kind)(trainer, FORMS[form](rows, tmp_path))) == wanted


@pytest.mark.parametrize("form", ["texts", "messages", "conversations", "prompt and completion", "formatted"])
def test_what_sft_trains_on_is_what_its_anchors_may_be(form, make_trainer, tokenizer):
    """A list of texts or of lists of messages will do; ``formatting_func`` and chat template are the trainer's."""
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"

    def talk(row):
        return [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]

    columns, one = {
        "texts": (
            lambda row: {"text": row["prompt"] + row["completion"]},
            lambda row: row["prompt"] + row["completion"],
        ),
        "messages": (lambda row: {"messages": talk(row)}, talk),
        "conversations": (
            lambda row: {"conversations": [{"from": m["role"], "value": m["content"]} for m in talk(row)]},
            lambda row: {"messages": talk(row)},
        ),
        "prompt and completion": (
            lambda row: {"prompt": row["prompt"], "completion": row["completion"]},
            lambda row: {"prompt": row["prompt"], "completion": row["completion"]},
        ),
        "formatted": (
            lambda row: {"question": row["prompt"], "answer": row["completion"]},
            lambda row: {"question": row["prompt"], "answer": row["completion"]},
        ),
    }[form]
    given = {"formatting_func": lambda row: row["question"] + row["answer"]} if form == "formatted" else {}
    human = sums(6, seed=1, bad=False)
    trainer, callback = make_trainer(
        "sft",
        Filter(),
        train=Dataset.from_list([columns(row) for row in sums(16)]),
        callback={"anchors": [one(row) for row in human]},
        trainer_kwargs=given,
        max_steps=1,
    )
    got = tokens(callback)
    trainer.remove_callback(callback)
    again = callback_class("sft")(trainer, Dataset.from_list([columns(row) for row in human]))
    assert got == tokens(again)
    assert len(got) == 6
    tokenizer.chat_template = None


@BOTH
def test_a_collator_of_ones_own_makes_the_anchors_batches(kind, make_trainer, tokenizer, anchors):
    """It makes labels of all tokens, the prompts' too."""

    def collate(rows):
        batch = tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, return_tensors="pt")
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    trainer, _ = make_trainer(kind)
    trainer.data_collator = collate
    callback = callback_class(kind)(trainer, anchors if kind == "sft" else tokenised(anchors, tokenizer))
    assert tokens(callback) == sorted(tokenised(anchors, tokenizer)["input_ids"])
    trainer.add_callback(callback)
    trainer.train()
    assert len(callback.ledger) == 32


@pytest.mark.parametrize("tokenised_already", [True, False])
def test_a_collator_that_tokenises_needs_no_tokenised_anchors(tokenised_already, make_trainer, tokenizer, anchors):
    from transformers import Trainer

    def collate(rows):
        batch = tokenizer([row["prompt"] + row["completion"] for row in rows], padding=True, return_tensors="pt")
        batch = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    base, _ = make_trainer("trainer", remove_unused_columns=False)
    trainer = Trainer(base.model, base.args, train_dataset=Dataset.from_list(sums(8)), data_collator=collate)
    if tokenised_already:
        with pytest.raises(
            ValueError, match=r"`anchors` lack the column 'prompt' .*; they have \['input_ids', 'labels'\]"
        ):
            callback_class("trainer")(trainer, tokenised(anchors, tokenizer))
        return
    callback = callback_class("trainer")(trainer, anchors)
    trainer.add_callback(callback)
    trainer.train()
    assert len(callback.ledger) == 8


def test_anchors_that_were_packed_are_split_into_their_samples(make_trainer, tokenizer):
    """``trainer.eval_dataset`` of a packing trainer: rows of several samples, each of which is one anchor."""
    human = Dataset.from_list(sums(16, seed=1, bad=False)).remove_columns("source")
    trainer, _ = make_trainer("sft", trainer_kwargs={"eval_dataset": human}, **PACKED)
    assert len(trainer.eval_dataset) < 16
    packed = callback_class("sft")(trainer, trainer.eval_dataset)
    assert tokens(packed) == tokens(callback_class("sft")(trainer, human))
    assert len(tokens(packed)) == 16


def test_wrong_columns_name_what_is_missing_and_what_is_there(make_trainer, tokenizer):
    rows = [{"question": "How many ?", "answer": "He has 3"}] * 4
    with pytest.raises(ValueError, match=r"lack the column 'text' .*; they have \['question', 'answer'\]"):
        make_trainer("sft", Monitor(), callback={"anchors": rows})
    with pytest.raises(ValueError, match=r"lack the column 'completion' .*; they have \['prompt'\]"):
        make_trainer("sft", Monitor(), callback={"anchors": [{"prompt": "How many ?"}] * 4})
    with pytest.raises(ValueError, match=r"column 'input_ids' is missing, they have \['question', 'answer'\]"):
        make_trainer("trainer", Monitor(), callback={"anchors": rows})
    bare = [{"input_ids": [3, 4, 5]}] * 4
    with pytest.raises(ValueError, match=r"the batch has no `labels`.*it holds \['attention_mask', 'input_ids'"):
        make_trainer("trainer", Monitor(), callback={"anchors": bare})


def endless():
    for i in count():
        yield {"text": f"Tom has {i % 50} balls"}


REFUSED = {
    "several splits": (
        lambda rows, path: DatasetDict({"train": rows, "test": rows}),
        ValueError,
        r"a DatasetDict with \['test', 'train'\]: give one of them",
    ),
    "columns": (
        lambda rows, path: {"text": ["a", "b"]},
        ValueError,
        r"must be one data set, got a dict with \['text'\]",
    ),
    "endless": (
        lambda rows, path: datasets.IterableDataset.from_generator(endless),
        ValueError,
        r"more than 10000 rows, or without an end.*stream\.take\(128\)",
    ),
    "no file": (lambda rows, path: path / "nowhere.jsonl", FileNotFoundError, r"`anchors`: there is no file .*nowhere"),
    "no data set": (lambda rows, path: str(path / "nowhere"), ValueError, r"`anchors` '.*nowhere' is neither a .jsonl"),
    "numbers": (lambda rows, path: [1, 2, 3], TypeError, r"`anchors\[0\]` must be a row .* got int"),
    "generator": (lambda rows, path: (row for row in rows), TypeError, r"`anchors` must be a data set.*got generator"),
    "nothing": (lambda rows, path: None, ValueError, r"`anchors` are missing: give a few dozen real examples"),
    "one": (lambda rows, path: [rows[0]], ValueError, r"at least two real examples of the task, got 1"),
}


@BOTH
@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_set_of_anchors_is_refused_by_name(kind, what, make_trainer, anchors, tmp_path):
    trainer, _ = make_trainer(kind)
    make, error, match = REFUSED[what]
    with pytest.raises(error, match=match):
        callback_class(kind)(trainer, make(anchors, tmp_path))


def test_an_empty_file_of_anchors_is_refused_by_name(make_trainer, tmp_path):
    trainer, callback = make_trainer("sft", Monitor())
    trainer.remove_callback(callback)
    (tmp_path / "human.jsonl").touch()
    with pytest.raises(ValueError, match=r"`anchors` '.*human.jsonl' is empty: give at least two real examples"):
        callback_class("sft")(trainer, tmp_path / "human.jsonl")
