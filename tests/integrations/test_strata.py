"""Shares within strata, one answer a prompt, and weights of whole sources, in real trainers."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from ggmi_callbacks import AgreementScorer, ColumnScorer, Filter, Reweight, Scorer

from .._sums import sums
from ._jobs import BOTH, gradients_of_first_step, weights

SOURCE = ["good", "good", "bad", "rest"]  # of the four answers to each prompt


@pytest.fixture
def answers():
    """Eight prompts with four answers each, of which the first two agree; answers of "bad" have the least reward."""
    from datasets import Dataset

    rows = []
    for i in range(32):
        prompt, answer = divmod(i, 4)
        count = prompt + 3 if answer < 2 else 40 + i
        rows.append(
            {
                "prompt": f"Tom has {prompt} red balls and finds 3 more . How many ?",
                "completion": f" He has {count} balls now .",
                "source": SOURCE[answer],
                "reward": float((i * 7) % 32) - 100.0 * (answer == 2),
                "text": f" He has {count} balls now .",
                "group": f"question {prompt}",
            }
        )
    return Dataset.from_list(rows)


def trained(callback) -> list[dict]:
    return [row for row in callback.ledger.table.to_pylist() if row["nll"] is not None]


def by_hand(rows, groups, keep) -> set[int]:
    """The best half (or other share) of each group, by reward."""
    out: set[int] = set()
    for group in set(groups):
        members = [i for i in range(32) if groups[i] == group]
        out |= set(sorted(members, key=lambda i: -rows[i]["reward"])[: max(1, round(keep * len(members)))])
    return out


@BOTH
@pytest.mark.parametrize("within", ["source", "prompt", "group", "length"])
def test_each_stratum_keeps_its_share_and_batches_stay_full(kind, within, make_trainer, answers):
    policy = Filter(keep=0.5, within=within)
    given = {"scorer": ColumnScorer("reward"), "source": "source"}
    trainer, callback = make_trainer(kind, policy, train=answers, callback=given, num_train_epochs=2)
    trainer.train()
    rows = answers.to_list()
    groups = {
        "source": answers["source"],
        "prompt": answers["prompt"],
        "group": answers["group"],
        "length": [0] * 32,  # all answers are of one length
    }[within]
    assert {row["id"] for row in trained(callback)} == by_hand(rows, groups, 0.5)
    assert trainer.state.global_step == 16
    assert set(Counter(row["step"] for row in trained(callback)).values()) == {4}
    kept = [callback.results()[f"ggmi/kept/{name}"] for name in ("good", "bad", "rest")]
    if within == "source":
        assert kept == [0.5, 0.5, 0.5]
    else:
        assert kept[1] == 0.0  # as without strata


@BOTH
def test_found_gains_keep_their_share_of_each_source_from_the_second_pass_on(kind, make_trainer, synthetic):
    policy = Filter(keep=0.25, within="source")
    trainer, callback = make_trainer(kind, policy, callback={"source": "source"}, num_train_epochs=4)
    trainer.train()
    late = Counter(row["source"] for row in trained(callback)[-32:])
    assert late == {"right": 16, "wrong": 16}
    kept = callback.engine.keeps()
    of = {name: torch.tensor([source == name for source in synthetic["source"]]) for name in ("right", "wrong")}
    assert [int(kept[of[name]].sum()) for name in ("right", "wrong")] == [4, 4]


@BOTH
def test_one_answer_a_prompt_is_trained_on_and_it_agrees(kind, make_trainer, answers):
    scorer = AgreementScorer(group="group", answer=lambda text: text.split()[2], text="text")
    policy = Filter(per_group=1)
    trainer, callback = make_trainer(kind, policy, train=answers, callback={"scorer": scorer}, num_train_epochs=2)
    trainer.train()
    assert {row["id"] for row in trained(callback)} == {4 * prompt for prompt in range(8)}  # the first of equals
    assert set(Counter(row["id"] for row in trained(callback)).values()) == {8}  # 64 rows, in full batches


@BOTH
def test_one_answer_a_prompt_by_a_score_of_the_model_has_the_set_scored_first(kind, make_trainer, answers):
    policy = Filter(threshold=-1e9, per_group=1)
    trainer, callback = make_trainer(kind, policy, train=answers)
    trainer.train()
    gain = {row["id"]: row["gain"] for row in callback.ledger.table.to_pylist()}
    assert len(gain) == 32
    best = {max(range(4 * p, 4 * p + 4), key=lambda i: (gain[i], -i)) for p in range(8)}
    assert {row["id"] for row in trained(callback)} == best
    assert trainer.state.global_step == 8


class GainBySource(Scorer):
    """Gains by id: those of "good" are higher."""

    def gain(self, inputs, layout):
        noise = (layout.ids * 11 % 32).float() / 16
        return noise + 3.0 * (layout.ids % 4 < 2)


@BOTH
def test_weights_of_sources_equal_a_handwritten_weighted_loss(kind, make_trainer, make_model, answers):
    args = {"per_device_train_batch_size": 32, "max_grad_norm": 0, "max_steps": 1, "train": answers}
    given = {"scorer": GainBySource(), "source": "source"}
    trainer, callback = make_trainer(kind, Reweight(by="source"), callback=given, **args)
    got = gradients_of_first_step(trainer)
    rows = sorted(callback.ledger.table.to_pylist(), key=lambda row: row["id"])
    expected = source_weights([row["gain"] for row in rows], answers["source"])
    assert [row["weight"] for row in rows] == pytest.approx(expected, rel=1e-6)
    assert max(expected) > 1.2
    wanted = handwritten_gradients(trainer, make_model(), expected)
    assert (got - wanted).norm() <= 1e-6 * wanted.norm()


def handwritten_gradients(trainer, model, by_id: list[float]) -> torch.Tensor:
    """Gradient of sum_i w_i sum_t nll_it / N over the whole training set in one batch."""
    keys = ("input_ids", "labels")
    batch = trainer.data_collator([{key: row[key] for key in keys} for row in trainer.train_dataset])
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    labels = batch["labels"][:, 1:]
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, reduction="none", ignore_index=-100)
    ((nll.sum(1) * torch.tensor(by_id)).sum() / (labels != -100).sum()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def source_weights(gain: list[float], source: list[str]) -> list[float]:
    """Weights of ``Reweight(by="source")`` by its formula, in plain numbers."""
    n = len(gain)
    members = {s: [g for g, of in zip(gain, source, strict=True) if of == s] for s in set(source)}
    mean = sum(gain) / n
    means = {s: sum(g) / len(g) for s, g in members.items()}
    within = sum((g - means[s]) ** 2 for s, gs in members.items() for g in gs) / (n - len(members))
    between = sum(len(gs) * (means[s] - mean) ** 2 for s, gs in members.items()) / (len(members) - 1)
    effective = (n - sum(len(gs) ** 2 for gs in members.values()) / n) / (len(members) - 1)
    tau = max(0.0, (between - within) / effective)
    deviation = (sum((g - mean) ** 2 for g in gain) / n) ** 0.5
    shrunk = {s: tau / (tau + within / len(gs)) * (means[s] - mean) for s, gs in members.items()}
    raw = {s: 2 * float(torch.sigmoid(torch.tensor(z / deviation).double())) for s, z in shrunk.items()}
    average = sum(raw[s] for s in source) / n
    return [raw[s] / average for s in source]


@BOTH
@pytest.mark.parametrize(
    "policy",
    [
        lambda: Filter(keep=0.5, within="source"),
        lambda: Filter(per_group=1, threshold=-1e9),
        lambda: Reweight(by="source"),
    ],
    ids=["within", "per_group", "by"],
)
def test_a_resumed_run_is_bit_equal_to_the_uninterrupted_one(kind, policy, make_trainer, answers, tmp_path):
    args = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 2, "logging_steps": 2, "train": answers}
    given = {"source": "source"}
    whole, first = make_trainer(kind, policy(), output=tmp_path, callback=given, **args)
    whole.train()
    again, second = make_trainer(kind, policy(), output=tmp_path, callback=given, **args)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert torch.equal(weights(again), weights(whole))
    assert second.ledger.table.equals(first.ledger.table)


def test_packed_rows_need_the_data_set_that_was_packed(make_trainer, answers):
    packed = {"train": answers, "packing": True, "max_length": 128, "max_steps": 2}
    policy = Filter(keep=0.5, within="prompt", refill=False)
    scorer = {"scorer": ColumnScorer("reward")}
    with pytest.raises(ValueError, match=r"within='prompt'.*off the training set.*`train_dataset=`"):
        make_trainer("sft", policy, **packed)
    trainer, callback = make_trainer("sft", policy, callback={**scorer, "train_dataset": answers}, **packed)
    trainer.train()
    kept = {row["id"] for row in callback.ledger.table.to_pylist() if row["kept"]}
    met = {row["id"] for row in callback.ledger.table.to_pylist()}
    assert kept == by_hand(answers.to_list(), answers["prompt"], 0.5) & met


@BOTH
@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Filter(keep=0.5, within="source"), "none are named.*`source=`"),
        (Reweight(by="source"), "none are named.*`source=`"),
        (Filter(keep=0.5, within="topic"), "no column 'topic'"),
    ],
    ids=str,
)
def test_what_is_missing_is_named_when_the_callback_is_made(kind, policy, words, make_trainer, answers):
    with pytest.raises(ValueError, match=words):
        make_trainer(kind, policy, train=answers)


def test_a_stream_has_no_strata(make_trainer):
    from datasets import Dataset

    stream = Dataset.from_list(sums(32)).to_iterable_dataset()
    with pytest.raises(ValueError, match="A stream cannot be read beforehand"):
        make_trainer("sft", Filter(keep=0.5, within="prompt"), train=stream, max_steps=4)
