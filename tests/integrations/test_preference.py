"""Pairs: ``DPOTrainer`` and ``RewardTrainer`` are watched bit for bit, weighed exactly, and filtered pair by pair."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from ggmi_callbacks import (
    AgreementScorer,
    Filter,
    GradientScorer,
    LookaheadScorer,
    Monitor,
    Policy,
    Reweight,
)
from ggmi_callbacks.integrations._preference import EACH_PAIR
from ggmi_callbacks.integrations.trl import DPOCallback, RewardCallback

from .._loop import Pattern
from .._pairs import pairs
from ._jobs import JUDGED, PAIRS, gradients_of_first_step, losses, weights

WEIGHTS = (1.6, 0.0, 0.3, 0.9)


@PAIRS
def test_monitor_changes_not_a_bit(kind, make_job):
    plain, _ = make_job(kind)
    plain.train()
    watched, callback = make_job(kind, Monitor(), callback={"overhead": 0.9, "source": "source"})
    watched.train()
    assert losses(plain) == losses(watched)
    assert torch.equal(weights(plain), weights(watched))
    assert type(callback) is {"dpo": DPOCallback, "reward": RewardCallback}[kind]
    logged = watched.state.log_history[0]
    assert {"ggmi/nll/right", "ggmi/nll/flipped", "ggmi/gain"} <= set(logged)


def weighted_gradients(trainer, pattern, accumulation=1, loss=None):
    """sum_i w_i loss_i / n over micro-batches, each loss from a batch of that pair alone."""
    iterator = iter(trainer.get_train_dataloader())
    trainer.model.train()
    for _ in range(accumulation):
        batch = next(iterator)
        n = len(batch["input_ids"]) // 2
        for i in range(n):
            pair = {k: v[[i, i + n]] if len(v) == 2 * n else v[[i]] for k, v in batch.items()}
            value = trainer.compute_loss(trainer.model, pair) if loss is None else loss(trainer.model, pair)
            (pattern[i % len(pattern)] * value / n / accumulation).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad])


def log_prob(model, batch):
    """Of each completion in nats, from logits alone, [2n]."""
    log_probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
    picked = log_probs[:, :-1].gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    return (picked * batch["completion_mask"][:, 1:]).sum(1)


@torch.no_grad()
def dpo_nll(model, batch):
    chosen, rejected = log_prob(model, batch).chunk(2)
    return float((rejected - chosen).sum() / batch["completion_mask"].sum())


@torch.no_grad()
def reward_nll(model, batch):
    chosen, rejected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.chunk(2)
    return float(-F.logsigmoid(chosen - rejected).mean())


def dpo_loss(reference):
    """The sigmoid loss of one pair."""

    def loss(model, pair):
        with torch.no_grad():
            before = log_prob(reference, pair)
        ratio = log_prob(model, pair) - before
        return -F.logsigmoid(0.1 * (ratio[0] - ratio[1]))

    return loss


def close(got, wanted):
    return (got - wanted).norm() <= 1e-6 * wanted.norm() and wanted.norm() > 0


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("pattern", [WEIGHTS, (1.0, 0.0, 0.0, 1.0)])
def test_dpo_gradients_equal_a_handwritten_weighted_loss(accumulation, precompute, pattern, make_job, make_model):
    args = {"gradient_accumulation_steps": accumulation, "precompute_ref_log_probs": precompute, "max_grad_norm": 0}
    policy = Pattern(*pattern, drops=set(pattern) == {0.0, 1.0})
    trainer, _ = make_job("dpo", policy, callback=JUDGED, max_steps=1, **args)
    wanted = weighted_gradients(make_job("dpo", **args)[0], pattern, accumulation, dpo_loss(make_model(1)))
    assert close(gradients_of_first_step(trainer), wanted)


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("pattern", [WEIGHTS, (1.0, 0.0, 0.0, 1.0), (0.0, 1.0)])
def test_reward_gradients_equal_a_handwritten_weighted_loss(accumulation, pattern, make_job):
    """Margin and the centring of rewards are parts of each pair's loss."""
    train = [{**row, "margin": float(i % 3)} for i, row in enumerate(pairs(16))]
    args = {"gradient_accumulation_steps": accumulation, "center_rewards_coefficient": 0.2, "max_grad_norm": 0}
    policy = Pattern(*pattern, drops=set(pattern) == {0.0, 1.0})
    trainer, _ = make_job("reward", policy, callback=JUDGED, max_steps=1, train=train, **args)

    def loss(model, pair):
        rewards = model(input_ids=pair["input_ids"], attention_mask=pair["attention_mask"]).logits[:, 0]
        return -F.logsigmoid(rewards[0] - rewards[1] - pair["margin"][0]) + 0.2 * (rewards[0] + rewards[1]) ** 2

    wanted = weighted_gradients(make_job("reward", train=train, **args)[0], pattern, accumulation, loss)
    assert close(gradients_of_first_step(trainer), wanted)


VARIANTS = [
    *({"loss_type": [name], "label_smoothing": 0.1} for name in sorted(EACH_PAIR)),
    {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.7, 0.2]},
    {"use_weighting": True},
    {"ld_alpha": 0.5},
    {"f_divergence_type": "js_divergence"},
]


@pytest.mark.parametrize("args", VARIANTS, ids=str)
def test_every_accepted_loss_of_dpo_is_weighed_as_the_losses_of_single_pairs(args, make_job):
    args = {**args, "max_grad_norm": 0}
    trainer, _ = make_job("dpo", Pattern(*WEIGHTS), callback=JUDGED, max_steps=1, **args)
    wanted = weighted_gradients(make_job("dpo", **args)[0], WEIGHTS)
    assert close(gradients_of_first_step(trainer), wanted)


def test_a_filter_takes_any_loss_as_long_as_its_batches_are_whole(make_job):
    trainer, callback = make_job("dpo", Filter(), callback=JUDGED, loss_type=["aot", "sft"], max_steps=2)
    trainer.train()
    assert callback.ledger.to_pandas().kept.sum() >= 8
    data = Dataset.from_list(pairs(16)).to_iterable_dataset()
    trainer, _ = make_job("dpo", Filter(), loss_type=["aot"], max_steps=1, trainer_kwargs={"train_dataset": data})
    with (
        pytest.warns(UserWarning, match="a stream has no other samples to draw"),
        pytest.raises(ValueError, match=r"`loss_type` 'aot' with Filter\(.*refills its batches"),
    ):
        trainer.train()


@PAIRS
def test_the_pair_gains_to_first_order_what_a_step_toward_the_anchors_gives(kind, make_job):
    """Two estimators of one slope, one by differentiation, one by differences."""
    gains = []
    for scorer in (GradientScorer(learning_rate=1.0), LookaheadScorer(learning_rate=1.0)):
        trainer, callback = make_job(kind, Monitor(), callback={"scorer": scorer, "overhead": 0.9}, max_steps=1)
        trainer.train()
        gains.append(torch.tensor(callback.ledger.to_pandas().gain.values))
    assert gains[0].abs().min() > 0
    assert (gains[0] - gains[1]).norm() < 0.02 * gains[0].norm()


@PAIRS
def test_a_batch_that_loses_every_pair_teaches_nothing(kind, make_job):
    trainer, _ = make_job(kind, Pattern(0.0, drops=True), callback=JUDGED, max_steps=1)
    with pytest.warns(UserWarning, match="kept none of the samples"):
        assert gradients_of_first_step(trainer).count_nonzero() == 0


class ZeroOrOne(Policy):
    """Weighs as ``Filter()`` keeps, and drops nothing."""

    def weigh(self, gain):
        return (gain > 0).float()


@PAIRS
@pytest.mark.parametrize("refill", [True, False])
def test_a_filter_trains_on_the_pairs_that_a_judge_keeps(kind, refill, make_job):
    """Refilled, the run sees nothing else; else it is the weighted run with zeros and ones."""
    settings = {"callback": {**JUDGED, "source": "source"}, "optim": "sgd", "learning_rate": 1.0}
    trainer, callback = make_job(kind, Filter(refill=refill), **settings)
    trainer.train()
    table = callback.ledger.to_pandas()
    assert (table.kept == (table.source == "right")).all()
    assert (~table.kept).any()
    if not refill:
        weighted, _ = make_job(kind, ZeroOrOne(), callback=JUDGED, optim="sgd", learning_rate=1.0)
        weighted.train()
        assert torch.allclose(weights(trainer), weights(weighted), atol=1e-6)
        assert not torch.allclose(weights(trainer), weights(make_job(kind)[0]), atol=1e-3)


@PAIRS
def test_pairs_that_are_as_the_anchors_gain_and_those_the_other_way_round_lose(kind, make_job, tmp_path):
    train, held = pairs(16), Dataset.from_list(pairs(16, seed=5))
    data = {"eval_dataset": held, "train_dataset": Dataset.from_list(train)}
    callback = {"source": "source", "heldout": held, "overhead": 0.9, "shadow_epochs": 6}
    trainer, callback = make_job(kind, Monitor(), callback=callback, trainer_kwargs=data)
    trainer.train()
    table = callback.ledger.to_pandas()
    gain = table.groupby("source").gain
    assert gain.min()["right"] > 0 > gain.max()["flipped"]
    if kind == "dpo":
        assert (table.gain - (table["gain/chosen"] - table["gain/rejected"])).abs().max() < 1e-4
        assert table.groupby("source")["gain/chosen"].min()["right"] > 0
    results, evaluated = callback.results(), trainer.evaluate()
    assert "He has" in callback.report(tmp_path / "report.html").read_text()
    assert ("ggmi/weight_information" in results) == (kind == "reward")
    assert results["heldout"] == 16
    for source in ("right", "flipped"):
        batch = trainer.data_collator([row for row in trainer.eval_dataset if row["source"] == source])
        wanted = (dpo_nll if kind == "dpo" else reward_nll)(trainer.model.eval(), batch)
        assert evaluated[f"eval_ggmi/nll/{source}"] == pytest.approx(wanted, rel=1e-5)


def test_answers_to_one_prompt_agree_by_their_chosen_side(make_job):
    train = [
        {"prompt": f"Tom has {a} red balls . How many ?", "chosen": answer, "rejected": " qux", "source": answer[1:3]}
        for a in range(8)
        for answer in (f" He has {a} balls now .", f" He has {a} red balls .", f" zebra {a + 30} qux {a + 60} {a + 50}")
    ]
    for scorer in (None, AgreementScorer()):
        trainer, callback = make_job("dpo", Filter(), train=train, callback={"source": "source", "scorer": scorer})
        if scorer is None:
            assert callback._options["scorer"].parts == ("pair", "agreement")
            continue
        trainer.train()
        table = callback.ledger.to_pandas()
        assert table.kept[table.source == "He"].all()
        assert not table.kept[table.source == "ze"].any()
        assert callback.texts[0] == {"prompt": "Tom has 0 red balls . How many ?", "completion": "He has 0 balls now ."}


def test_an_adapter_is_watched_bit_for_bit_and_weighed_exactly(make_job):
    from peft import LoraConfig

    def lora():
        return {"peft_config": LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)}

    plain, _ = make_job("dpo", trainer_kwargs=lora())
    watched, _ = make_job("dpo", Monitor(), trainer_kwargs=lora())
    start = {k: v.clone() for k, v in plain.model.state_dict().items()}
    watched.model.load_state_dict(start)
    weighed, _ = make_job("dpo", Pattern(*WEIGHTS), callback=JUDGED, trainer_kwargs=lora(), max_grad_norm=0)
    weighed.model.load_state_dict(start)
    wanted = weighted_gradients(plain, WEIGHTS)
    plain.model.zero_grad()
    assert close(gradients_of_first_step(weighed), wanted)
    plain.train()
    watched.train()
    assert losses(plain) == losses(watched)
    assert torch.equal(weights(plain), weights(watched))


@PAIRS
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(kind, make_job, tmp_path):
    settings = {"train": pairs(40), "callback": {"heldout": 0.4, "overhead": 0.9}}
    whole, before = make_job(kind, Reweight(), **settings, save_strategy="steps", save_steps=3)
    whole.train()
    again, after = make_job(kind, Reweight(), **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert torch.equal(weights(whole), weights(again))
    assert before.results()["ggmi/gain"] == after.results()["ggmi/gain"]
    assert before.results()["heldout"] == 16
