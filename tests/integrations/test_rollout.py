"""GRPO and RLOO: groups of rollouts, monitored, filtered and reweighted on the real trainers."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from ggmi_callbacks import AgreementScorer, Filter, Monitor, Reweight

pytest.importorskip("trl")

from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from ggmi_callbacks.integrations._rollout import SHARES, WEIGHT
from ggmi_callbacks.integrations.trl import GGMICallback

TRAINERS = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}
GROUP = 4


def spread(completions, **kwargs):
    """A reward that differs within nearly every group."""
    return [float(len(set(text.split()))) for text in completions]


def half(prompts, completions, **kwargs):
    """A reward without spread for prompts about Ann."""
    return [1.0 if "Ann" in p else float(len(set(text.split()))) for p, text in zip(prompts, completions, strict=True)]


def none(completions, **kwargs):
    """A reward that says nothing."""
    return [0.5] * len(completions)


@pytest.fixture
def make(tmp_path, tokenizer, make_model):
    """Build a trainer, with a callback if ``policy`` is given; returns both."""

    def build(kind, policy=None, reward=half, callback=None, model=None, **changes):
        trainer_class, config = TRAINERS[kind]
        settings = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "num_generations": GROUP,
            "max_completion_length": 6,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "beta": 0.0,
            "logging_steps": 1,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "seed": 3,
        }
        names = ["Tom has red", "Ann has blue", "Bob finds", "Ann gives 3", "Tom gives", "Ann has 7 balls"]
        trainer = trainer_class(
            model or make_model(),
            reward_funcs=reward,
            args=config(**{**settings, **changes}),
            train_dataset=Dataset.from_dict({"prompt": names}),
            processing_class=tokenizer,
        )
        if policy is None:
            return trainer, None
        added = GGMICallback(trainer, policy=policy, **(callback or {}))
        trainer.add_callback(added)
        return trainer, added

    return build


@pytest.fixture
def human(anchors):
    return {"anchors": anchors, "shadow_learning_rate": 1e-2}


def weights_of(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("anchored", [False, True])
def test_monitor_changes_nothing_bit_for_bit(kind, anchored, make, human):
    plain, _ = make(kind)
    plain.train()
    watched, callback = make(kind, Monitor(), callback=human if anchored else None)
    watched.train()
    assert torch.equal(weights_of(plain), weights_of(watched))
    logs = [log for log in watched.state.log_history if "loss" in log]
    assert [log["loss"] for log in plain.state.log_history if "loss" in log] == [log["loss"] for log in logs]
    results = callback.results()
    assert 0 < results["ggmi/groups_without_signal"] < 1
    assert all("ggmi/shared_information" in log and "ggmi/agreement" in log for log in logs)
    assert ("ggmi/reward_gain_correlation" in results) == ("ggmi/gain" in results) == anchored
    assert len(callback.ledger) == results["rollouts"] == 24
    assert (callback.ledger.to_pandas().gain.notna() == anchored).all()


@pytest.mark.parametrize("kind", TRAINERS)
def test_dropping_groups_without_signal_leaves_the_run_as_it_was(kind, make):
    plain, _ = make(kind)
    plain.train()
    filtered, callback = make(kind, Filter())
    filtered.train()
    torch.testing.assert_close(weights_of(filtered), weights_of(plain), rtol=0, atol=1e-6)
    results = callback.results()
    assert 0 < results["ggmi/dropped/no_signal"] == results["ggmi/groups_without_signal"] < 1
    assert results["ggmi/dropped/gain"] == 0
    assert results["ggmi/kept"] == 1 - results["ggmi/dropped/no_signal"]
    assert results["ggmi/seconds_saved"] > 0


@pytest.fixture
def micro_batch(make):
    """A trainer that stands before its loss, and a micro-batch of rollouts with advantages; some of them zero."""

    def build(kind, policy, zero=(1, 2), callback=None, **changes):
        trainer, added = make(kind, policy, callback=callback, steps_per_generation=4, learning_rate=1e-6, **changes)
        seen = {}

        def hold(model, inputs, *args, **kwargs):
            seen.setdefault("inputs", inputs)
            return original(model, inputs, *args, **kwargs)

        original, trainer.compute_loss = trainer.compute_loss, hold
        trainer.args.max_steps = 1
        trainer.train()
        inputs = {k: v for k, v in seen["inputs"].items() if k != WEIGHT}
        inputs["advantages"] = torch.tensor([1.0, -0.5, 2.0, -1.5])
        inputs["advantages"][list(zero)] = 0.0
        trainer.current_gradient_accumulation_steps = 2
        added._loss = added._loss_class(trainer, added.engine, added.trainer_class)
        return trainer, added, inputs

    return build


def gradient(trainer, loss, inputs):
    trainer.model.zero_grad()
    trainer.model.train()
    value = loss(trainer.model, inputs)
    value.backward()
    return value.detach(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


KINDS = [("rloo", {})] + [("grpo", {"loss_type": name}) for name in SHARES]
IDS = ["rloo", *SHARES]


@pytest.mark.parametrize(("kind", "changes"), KINDS, ids=IDS)
def test_without_rows_of_zero_advantage_the_gradient_is_the_same(kind, changes, micro_batch):
    trainer, callback, inputs = micro_batch(kind, Filter(), **changes)
    _, whole = gradient(trainer, trainer._compute_loss, inputs)
    weight = torch.tensor([1.0, 0.0, 0.0, 1.0])
    with callback._installed as installed:
        callback._loss.install(installed)
        _, left = gradient(trainer, trainer._compute_loss, {**inputs, WEIGHT: weight})
    assert whole.norm() > 0
    torch.testing.assert_close(left, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "changes"), KINDS, ids=IDS)
def test_reweighted_rollouts_give_the_weighted_sum_of_their_single_gradients(kind, changes, micro_batch, human):
    trainer, callback, inputs = micro_batch(kind, Reweight(), zero=(), callback=human, **changes)
    weight = torch.tensor([0.5, 2.0, 1.0, 0.25])
    by_hand = 0
    for row in range(4):
        alone = torch.zeros(4)
        alone[row] = inputs["advantages"][row]
        by_hand = by_hand + weight[row] * gradient(trainer, trainer._compute_loss, {**inputs, "advantages": alone})[1]
    with callback._installed as installed:
        callback._loss.install(installed)
        _, weighed = gradient(trainer, trainer._compute_loss, {**inputs, WEIGHT: weight})
    torch.testing.assert_close(weighed, by_hand, rtol=1e-5, atol=1e-6)


def test_with_a_kl_term_dropped_rows_lose_theirs_and_the_others_keep_theirs(micro_batch, make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "start")  # the trainer loads its reference from there
    model = str(tmp_path / "start")
    trainer, callback, inputs = micro_batch("grpo", Filter(), model=model, beta=0.1, loss_type="grpo")
    inputs["ref_per_token_logps"] = inputs["ref_per_token_logps"] - 0.3
    kept = torch.tensor([True, False, False, True])
    rows = {k: v[kept] if v.dim() and len(v) == 4 else v for k, v in inputs.items()}
    _, wanted = gradient(trainer, trainer._compute_loss, rows)
    with callback._installed as installed:
        callback._loss.install(installed)
        _, left = gradient(trainer, trainer._compute_loss, {**inputs, WEIGHT: kept.float()})
    torch.testing.assert_close(left, wanted / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_run_in_which_every_group_is_dropped_trains_nothing_and_ends(kind, make, make_model):
    trainer, callback = make(kind, Filter(), reward=none)
    before = weights_of(trainer).clone()
    trainer.train()
    assert torch.equal(weights_of(trainer), before)
    assert callback.results()["ggmi/kept"] == 0.0
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("kind", TRAINERS)
def test_filter_drops_a_group_whose_gain_is_negative_and_says_why(kind, make, human):
    trainer, callback = make(kind, Filter(threshold=1e6), reward=spread, callback=human)
    trainer.train()
    results = callback.results()
    assert results["ggmi/kept"] == 0.0
    assert results["ggmi/dropped/gain"] + results["ggmi/dropped/no_signal"] == 1.0
    assert results["ggmi/dropped/gain"] > 0.5
    assert not callback.ledger.to_pandas().kept.any()


def test_reweight_weighs_rollouts_by_their_gain(make, human):
    trainer, callback = make("grpo", Reweight(), reward=spread, callback=human)
    trainer.train()
    table = callback.ledger.to_pandas()
    assert table.weight.nunique() > 4
    assert table.gain.rank().corr(table.weight.rank()) > 0.5


def test_a_run_resumed_from_a_checkpoint_ends_as_one_that_was_not_stopped(make, human, tmp_path):
    whole, first = make("grpo", Filter(), callback=human, save_strategy="steps", save_steps=2)
    whole.train()
    again, callback = make("grpo", Filter(), callback=human)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    torch.testing.assert_close(weights_of(again), weights_of(whole))
    assert callback.ledger.to_pandas().equals(first.ledger.to_pandas())
    assert callback.results()["rollouts"] == first.results()["rollouts"]


def test_nothing_is_left_on_the_trainer(make):
    trainer, callback = make("grpo", Filter())
    trainer.train()
    trainer.remove_callback(callback)
    assert not {"_compute_loss", "_generate_and_score_completions", "_calculate_rewards"} & set(vars(trainer))


@pytest.mark.parametrize(
    ("policy", "callback", "changes", "message"),
    [
        (Reweight(), {}, {}, "`anchors` are missing: Reweight"),
        (Filter(keep=0.5), {}, {}, "`anchors` are missing: Filter"),
        (Monitor(), {"source": "by"}, {}, "`source='by'`: all rollouts come from one source"),
        (Monitor(), {"heldout": 0.1}, {}, "`heldout` is a share of a training set"),
        (Monitor(), {"overhead": 0.1}, {}, "`overhead` is not supported on rollouts"),
        (Monitor(), {"scorer": AgreementScorer()}, {}, "`scorer=AgreementScorer` on rollouts"),
        (Filter(), {}, {"entropy_coef": 0.1}, "`entropy_coef` with Filter"),
        (Filter(), {}, {"top_entropy_quantile": 0.5}, "`top_entropy_quantile` below 1 with Filter"),
    ],
)
def test_what_cannot_be_done_on_rollouts_is_refused_by_name(policy, callback, changes, message, make):
    with pytest.raises(ValueError, match=message):
        make("grpo", policy, callback=callback, **changes)


def test_policies_that_tell_samples_of_a_training_set_apart_are_refused(make, human):
    with pytest.raises(ValueError, match="tells samples of a training set apart"):
        make("grpo", Filter(keep=0.5, within="prompt"), callback=human)


def test_anchors_without_answers_are_refused(make):
    with pytest.raises(ValueError, match="`anchors` must have the columns 'prompt' and 'completion'"):
        make("grpo", Monitor(), callback={"anchors": [{"prompt": "Tom"}, {"prompt": "Ann"}]})


def test_there_is_no_report_page_of_rollouts(make, tmp_path):
    _, callback = make("grpo", Monitor())
    with pytest.raises(NotImplementedError, match="no report page of rollouts"):
        callback.report(tmp_path / "page.html")


def test_anchors_in_messages_are_tokenised_as_the_prompts_of_the_trainer(make, tokenizer, monkeypatch):
    template = (
        "{% for m in messages %}{{ m.content }} {% if m.role == 'assistant' %}<eos>{% else %}. {% endif %}{% endfor %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Tom has {i}"}],
            "completion": [{"role": "assistant", "content": "red"}],
        }
        for i in range(8)
    ]
    _, callback = make("grpo", Monitor(), callback={"anchors": rows})
    row = callback._anchors[3]
    assert tokenizer.decode(row["input_ids"]) == "Tom has 3 . red <eos>"
    assert [label for label in row["labels"] if label != -100] == row["input_ids"][-2:]


def test_an_adapter_is_filtered_and_monitored_as_a_whole_model_is(make, make_model, human):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False)
    runs = []
    for policy, callback in ((None, None), (Monitor(), human), (Filter(), None)):
        torch.manual_seed(5)
        trainer, _ = make("grpo", policy, callback=callback, model=peft.get_peft_model(make_model(), config))
        trainer.train()
        runs.append(weights_of(trainer))
    plain, monitored, filtered = runs
    assert torch.equal(plain, monitored)
    torch.testing.assert_close(filtered, plain, rtol=0, atol=1e-6)
