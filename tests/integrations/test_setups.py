"""The setups that people train in: adapters, checkpointing, autocast, compile, tied heads, experts."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import (
    Filter,
    GradientScorer,
    JointScorer,
    LikelihoodScorer,
    LookaheadScorer,
    Monitor,
    PromptInformationScorer,
    Reweight,
)

from .._loop import Pattern
from ._jobs import BOTH, gradients_of_first_step, losses, weights

pytestmark = pytest.mark.slow


def lora(model, **changes):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    targets = ["q_proj", "v_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=targets, **changes))


def experts(tokenizer):
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MixtralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **sizes
    )
    config.pad_token_id, config.output_router_logits = tokenizer.pad_token_id, True
    return MixtralForCausalLM(config)


def runs_grouped(model) -> bool:
    """Whether experts run in one grouped product, as in transformers 5; before, one by one in products of their own."""
    return getattr(model.config, "_experts_implementation", None) == "grouped_mm"


SETUPS = {
    "lora": ({}, lambda make, tok: lora(make())),
    "dora": ({}, lambda make, tok: lora(make(), use_dora=True)),
    "tied": ({}, lambda make, tok: make(tie_word_embeddings=True)),
    "checkpointing": ({"gradient_checkpointing": True}, lambda make, tok: make()),
    "reentrant": (
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        lambda make, tok: make(),
    ),
    "bf16": ({"bf16": True}, lambda make, tok: make()),
    "bf16 weights": ({"bf16": True}, lambda make, tok: make().to(torch.bfloat16)),
    "dropout": ({}, lambda make, tok: make(attention_dropout=0.2)),
    "experts": ({}, lambda make, tok: experts(tok)),
    "uneven": ({"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}, lambda make, tok: make()),
    "own tokens": ({"average_tokens_across_devices": False}, lambda make, tok: make()),
}
EACH = pytest.mark.parametrize("setup", SETUPS)


def trainable(trainer):
    return torch.cat([p.detach().float().flatten() for p in trainer.model.parameters() if p.requires_grad])


def first_gradients(trainer):
    from transformers import TrainerCallback

    caught = []

    class Catch(TrainerCallback):
        def on_pre_optimizer_step(self, *args, model, **kwargs):
            caught.append(torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None]))

    trainer.add_callback(Catch())
    trainer.train()
    return caught[0]


@BOTH
@EACH
def test_monitor_is_bit_equal_in_every_setup(kind, setup, make_trainer, make_model, tokenizer):
    args, build = SETUPS[setup]
    plain, _ = make_trainer(kind, model=build(make_model, tokenizer), **args)
    plain.train()
    watched, callback = make_trainer(
        kind, Monitor(), model=build(make_model, tokenizer), callback={"overhead": 0.9}, **args
    )
    watched.train()
    assert losses(watched) == losses(plain)
    assert torch.equal(trainable(watched), trainable(plain))
    assert callback.results()["ggmi/coverage"] > 0.3


@BOTH
@EACH
def test_dropping_equals_weights_of_zero_and_one_in_every_setup(kind, setup, make_trainer, make_model, tokenizer):
    if setup in ("dropout", "experts"):
        pytest.skip("what is left of a batch draws other dropout masks, and balances other experts")
    args, build = SETUPS[setup]
    args = {**args, "max_grad_norm": 0, "max_steps": 1}
    pattern = (1.0, 0.0, 1.0)
    dropped, weighed, plain = (
        first_gradients(make_trainer(kind, policy, model=build(make_model, tokenizer), **args)[0])
        for policy in (Pattern(*pattern, drops=True), Pattern(*pattern), None)
    )
    rounding = 2e-2 if "bf16" in setup else 1e-6
    assert (dropped - weighed).norm() <= rounding * weighed.norm()
    assert (weighed - plain).norm() > 0.05 * plain.norm()


@BOTH
@EACH
@pytest.mark.parametrize("policy", [Filter(keep=0.5), Reweight()], ids=["filter", "reweight"])
def test_policies_run_in_every_setup(kind, setup, policy, make_trainer, make_model, tokenizer):
    args, build = SETUPS[setup]
    trainer, callback = make_trainer(
        kind,
        type(policy)(**({"keep": 0.5} if policy.drops else {})),
        model=build(make_model, tokenizer),
        max_steps=2,
        **args,
    )
    trainer.train()
    rows = callback.ledger.table.to_pylist()
    assert all(row["gain"] is not None and abs(row["gain"]) < 1e3 for row in rows)
    assert len({row["weight"] for row in rows}) > 1


@BOTH
@pytest.mark.parametrize("scorer", [GradientScorer, LookaheadScorer])
@pytest.mark.parametrize("setup", ["lora", "tied", "bf16", "checkpointing", "experts"])
def test_gradient_scorers_run_in_every_setup(kind, scorer, setup, make_trainer, make_model, tokenizer):
    args, build = SETUPS[setup]
    if (scorer, setup) == (GradientScorer, "experts") and runs_grouped(model := experts(tokenizer)):
        trainer, _ = make_trainer(kind, Reweight(), model=model, callback={"scorer": scorer()})
        with pytest.raises(ValueError, match="use `LookaheadScorer`"):
            trainer.train()
        return
    trainer, callback = make_trainer(
        kind, Reweight(), model=build(make_model, tokenizer), callback={"scorer": scorer()}, max_steps=2, **args
    )
    trainer.train()
    gains = torch.tensor(callback.ledger.table["gain"].to_pylist())
    assert gains.isfinite().all()
    assert gains.std() > 0


CHEAP = {"layers": 1, "stride": 2, "dtype": torch.bfloat16}
OTHERS = {
    "cheap": lambda: LikelihoodScorer(**CHEAP),
    "prompt": PromptInformationScorer,
    "joint": JointScorer,
    "adam": lambda: GradientScorer(optimizer_aware=True, every=1),
}


@pytest.mark.filterwarnings("ignore:Filter.* cannot refill batches here .rows are packed")
@pytest.mark.filterwarnings("ignore:the policy kept none")
@BOTH
@pytest.mark.parametrize("scorer", OTHERS)
@pytest.mark.filterwarnings("ignore:the scale of JointScorer")
@pytest.mark.parametrize("setup", ["lora", "tied", "bf16", "checkpointing", "packed"])
def test_cheap_and_other_scorers_run_in_every_setup(kind, scorer, setup, make_trainer, make_model, tokenizer):
    if (kind, setup) == ("trainer", "packed"):
        pytest.skip("Trainer does not pack")
    packed = ({"packing": True, "max_length": 64}, lambda make, tok: make())
    args, build = packed if setup == "packed" else SETUPS[setup]
    made = LikelihoodScorer(layers=1) if (scorer, setup) == ("cheap", "packed") else OTHERS[scorer]()
    trainer, callback = make_trainer(
        kind, Filter(), model=build(make_model, tokenizer), callback={"scorer": made}, max_steps=3, **args
    )
    trainer.train()
    table = callback.ledger.table.to_pylist()
    first = {row["id"] for row in table if row["step"] == 0}
    gains = torch.tensor([row["gain"] for row in table if scorer != "adam" or row["id"] not in first])
    assert gains.isfinite().all()
    assert gains.std() > 0
    if scorer == "adam":
        assert all(row["gain"] is None for row in table if row["step"] == 0)  # no second moments yet


@BOTH
def test_adapter_shadow_weighs_what_adapters_weigh(kind, make_trainer, make_model):
    trainer, callback = make_trainer(kind, Monitor(), model=lora(make_model()), max_steps=1)
    trainer.train()
    shadow = callback.engine.shadow.parameters
    assert shadow
    assert all("lora_" in name for name in shadow)
    assert list(trainer.model.peft_config) == ["default"]


@BOTH
@pytest.mark.parametrize("policy", [Monitor, Reweight, Filter])
def test_compiled_model_gives_the_eager_gains_and_weights(kind, policy, make_trainer):
    # SGD, since Adam's first steps are signs of gradients, which rounding decides where they are nearly zero.
    args = {"max_steps": 2, "max_grad_norm": 0, "optim": "sgd", "learning_rate": 0.1}
    callback = {"overhead": 0.9, "shadow_learning_rate": 1e-2}
    eager, one = make_trainer(kind, policy(), callback=callback, **args)
    eager.train()
    compiled, two = make_trainer(
        kind, policy(), callback=callback, torch_compile=True, torch_compile_backend="aot_eager", **args
    )
    compiled.train()
    assert two.ledger.table["gain"].to_pylist() == pytest.approx(one.ledger.table["gain"].to_pylist(), abs=1e-4)
    assert two.ledger.table["weight"].to_pylist() == pytest.approx(one.ledger.table["weight"].to_pylist(), rel=1e-4)
    assert torch.allclose(weights(compiled), weights(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the policy kept none")
def test_aux_loss_of_experts_stays(make_trainer, tokenizer):
    """All weights zero: what is left of the gradient is the load-balancing loss, equal to the plain run's share."""
    grads = [
        gradients_of_first_step(
            make_trainer(kind, Pattern(0.0), model=experts(tokenizer), max_grad_norm=0, max_steps=1)[0]
        )
        for kind in ("sft", "trainer")
    ]
    assert grads[0].norm() > 0
    assert torch.allclose(grads[0], grads[1], rtol=1e-4, atol=1e-7)
