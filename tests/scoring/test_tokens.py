"""Rows become the very tokens and targets that ``SFTTrainer`` trains on."""

from __future__ import annotations

from array import array

import pytest

from ggmi_callbacks.scoring.tokens import has_targets, tokenise

from .._sums import sums

CHAT = (
    "{% for m in messages %}{{ m['role'] }} = {{ m['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}assistant = {% endif %}"
)


def turns(row):
    user, answer = {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}
    return user, answer


FORMS = {
    "prompt_completion": lambda row: {"prompt": row["prompt"], "completion": row["completion"]},
    "text": lambda row: {"text": row["prompt"] + row["completion"]},
    "ended_text": lambda row: {"text": row["prompt"] + row["completion"] + " <eos>"},
    "messages": lambda row: {"messages": [*turns(row)]},
    "conversations": lambda row: {
        "conversations": [{"from": turn["role"], "value": turn["content"]} for turn in turns(row)]
    },
    "chat_prompt": lambda row: {"prompt": [turns(row)[0]], "completion": [turns(row)[1]]},
}


@pytest.mark.parametrize("max_length", [1024, 12])
@pytest.mark.parametrize("form", FORMS)
def test_tokens_and_targets_are_those_of_the_trainer(form, max_length, tokenizer, make_model, tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    monkeypatch.setattr(tokenizer, "chat_template", CHAT)
    rows = [FORMS[form](row) for row in sums(5)]
    args = trl.SFTConfig(output_dir=str(tmp_path), report_to=[], use_cpu=True, max_length=max_length)
    data = Dataset.from_list(rows)
    trainer = trl.SFTTrainer(make_model(), args=args, train_dataset=data, processing_class=tokenizer)
    found = [row for row in tokenise(rows, tokenizer, "data", max_length) if has_targets(row)]
    assert [(list(row["input_ids"]), list(row["labels"])) for row in found] == [
        (row["input_ids"], row["labels"]) for row in trainer.train_dataset
    ]
    assert all(len(row["input_ids"]) <= max_length for row in found)


def test_rows_with_tokens_are_taken_as_they_are():
    rows = [{"input_ids": [4, 5, 6], "labels": [-100, 5, 6]}, {"input_ids": [7, 8], "labels": [7, 8]}]
    assert tokenise(rows, None, "data", 2) == [
        {"input_ids": array("i", [4, 5]), "labels": array("i", [-100, 5])},
        {"input_ids": array("i", [7, 8]), "labels": array("i", [7, 8])},
    ]
    (row,) = tokenise([{"input_ids": [4, 5]}], None, "data", None)
    assert row["labels"] == array("i", [4, 5])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "Tom has"}, {"prompt": "Tom"}], "`data`: row 1 has None in column 'text', where the first row has"),
        ([{"text": "Tom has"}, {"text": 7}], "`data`: row 1 has 7 in column 'text'"),
        ([{"messages": [{"role": "user", "content": "Tom"}]}], "the tokenizer has no chat template"),
    ],
)
def test_rows_that_cannot_be_tokenised_are_refused_by_name(rows, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        tokenise(rows, tokenizer, "data", None)


def test_texts_without_a_tokenizer_are_refused():
    with pytest.raises(ValueError, match="so a `tokenizer` is needed; rows have text"):
        tokenise([{"text": "Tom"}], None, "data", None)
