"""What only ``SFTTrainer`` does: packing, padding-free, fused head, its losses and its data forms."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from ggmi_callbacks import Filter, Monitor, Reweight

from .._loop import Pattern
from .._sums import sums
from ._jobs import BOTH, gradients_of_first_step, losses, weights

PACKED = {"packing": True, "max_length": 64, "per_device_train_batch_size": 2}
FREE = {"padding_free": True, "max_length": None}

pytestmark = pytest.mark.slow


def gains(callback) -> dict[int, float]:
    table = callback.ledger.table.to_pylist()
    return {row["id"]: row["gain"] for row in table}


@pytest.mark.parametrize("layout", [PACKED, FREE])
def test_gains_ids_and_sources_of_segments_equal_those_of_rows(layout, make_trainer, synthetic):
    _, rows = (padded := make_trainer("sft", Monitor(), callback={"source": "source", "overhead": 0.99}))
    padded[0].train()
    raw = {"train_dataset": synthetic} if "packing" in layout else {}
    trainer, segments = make_trainer("sft", Monitor(), callback={"source": "source", "overhead": 0.99, **raw}, **layout)
    trainer.train()
    wanted, got = gains(rows), gains(segments)
    assert wanted.keys() == got.keys() == set(range(32))
    # the anchors' batches are smaller in the packed run, so its shadow is another: compare the sources instead
    table = segments.ledger.table.to_pylist()
    assert {(row["id"], row["source"]) for row in table} == {
        (i, source) for i, source in enumerate(synthetic["source"])
    }
    if layout is FREE:
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("layout", [PACKED, FREE])
def test_filtering_segments_equals_weights_of_zero_and_one(layout, make_trainer):
    args = {"max_grad_norm": 0, **layout}
    dropped = gradients_of_first_step(make_trainer("sft", Pattern(1.0, 0.0, 1.0, drops=True), **args)[0])
    weighed = gradients_of_first_step(make_trainer("sft", Pattern(1.0, 0.0, 1.0), **args)[0])
    assert (dropped - weighed).norm() <= 1e-6 * weighed.norm()
    plain = gradients_of_first_step(make_trainer("sft", **args)[0])
    assert (dropped - plain).norm() > 1e-2 * plain.norm()


def test_packed_boundaries_are_rebuilt(make_trainer, make_model):
    """The variable-length kernels read them; sdpa does not, so their values are checked themselves."""
    seen = []
    model = make_model()
    trainer, _ = make_trainer("sft", Pattern(0.0, 1.0, 1.0, drops=True), model=model, max_steps=1, **PACKED)
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs) if module.training else None, with_kwargs=True
    )
    trainer.train()
    batch = seen[-1]
    bounds = batch["cu_seq_lens_q"]
    lengths = bounds.diff()
    assert bounds.dtype == torch.int32
    assert int(bounds[-1]) == batch["input_ids"].shape[1]
    assert batch["max_length_q"] == int(lengths.max())
    starts = (batch["position_ids"][0] == 0).nonzero().flatten()
    assert torch.equal(starts, bounds[:-1].long())
    assert torch.equal(batch["seq_idx"][0], torch.repeat_interleave(torch.arange(len(lengths)), lengths).int())


def test_duplicates_are_matched_one_to_one(make_trainer):
    rows = sums(8) + sums(8)
    data = Dataset.from_list([{**row, "source": str(i)} for i, row in enumerate(rows)])
    trainer, callback = make_trainer(
        "sft", Monitor(), train=data, callback={"source": "source", "train_dataset": data}, **PACKED
    )
    trainer.train()
    table = callback.ledger.table.to_pylist()
    assert sorted(int(row["source"]) for row in table) == list(range(16))
    assert all(row["id"] == int(row["source"]) for row in table)


def test_packed_sources_need_the_unpacked_data(make_trainer, synthetic):
    with pytest.raises(ValueError, match="`train_dataset=`"):
        make_trainer("sft", Monitor(), callback={"source": "source"}, **PACKED)
    with pytest.raises(ValueError, match="very data set"):
        make_trainer("sft", Monitor(), callback={"train_dataset": synthetic.select(range(5))}, **PACKED)
    trainer, callback = make_trainer("sft", Monitor(), **PACKED)
    trainer.train()
    assert sorted(callback.ledger.table["id"].to_pylist()) == list(range(32))


@pytest.mark.parametrize("strategy", ["wrapped", "bfd_split"])
def test_packing_that_cuts_samples_is_told_or_refused(strategy, make_trainer):
    args = {**PACKED, "packing_strategy": strategy}
    for policy in (Filter(), Reweight()):
        with pytest.raises(ValueError, match=rf"{strategy}.*{type(policy).__name__}"):
            make_trainer("sft", policy, **args)
    with pytest.warns(UserWarning, match="cuts samples"):
        trainer, callback = make_trainer("sft", Monitor(), **args)
    trainer.train()
    assert len(callback.ledger) > 0


@pytest.mark.parametrize("options", [{"loss_type": "dft"}, {"label_smoothing_factor": 0.1}])
def test_losses_that_cannot_be_opened_are_weighted_exactly(options, make_trainer):
    """Linearity: the gradients of disjoint halves of a batch, each weighted alone, add up to the whole."""
    args = {"max_grad_norm": 0, **options}
    halves = [gradients_of_first_step(make_trainer("sft", Pattern(*w), **args)[0]) for w in ((1.0, 0.0), (0.0, 1.0))]
    both = gradients_of_first_step(make_trainer("sft", Pattern(2.0, 0.5), **args)[0])
    wanted = 2.0 * halves[0] + 0.5 * halves[1]
    assert (both - wanted).norm() <= 1e-6 * wanted.norm()
    plain = gradients_of_first_step(make_trainer("sft", **args)[0])
    assert (halves[0] + halves[1] - plain).norm() <= 1e-6 * plain.norm()
    kept = gradients_of_first_step(make_trainer("sft", Pattern(1.0, 0.0, drops=True), **args)[0])
    assert (kept - halves[0]).norm() <= 1e-6 * plain.norm()


@BOTH
def test_label_smoothing_is_weighted_in_either_trainer(kind, make_trainer):
    args = {"max_grad_norm": 0, "label_smoothing_factor": 0.1}
    weighed = gradients_of_first_step(make_trainer(kind, Pattern(1.0, 0.0), **args)[0])
    kept = gradients_of_first_step(make_trainer(kind, Pattern(1.0, 0.0, drops=True), **args)[0])
    assert (kept - weighed).norm() <= 1e-6 * weighed.norm()


@pytest.mark.parametrize("form", ["text", "messages", "prompt messages", "tokenised"])
def test_anchors_and_data_come_in_any_form(form, make_trainer, tokenizer, anchors):
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"

    def turn(row):
        user, answer = {"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}
        return {
            "text": {"text": row["prompt"] + row["completion"]},
            "messages": {"messages": [user, answer]},
            "prompt messages": {"prompt": [user], "completion": [answer]},
            "tokenised": {"input_ids": tokenizer(row["prompt"] + row["completion"])["input_ids"]},
        }[form]

    data = Dataset.from_list([{**turn(row), "source": row["source"]} for row in sums(16)])
    human = Dataset.from_list([turn(row) for row in sums(6, seed=1, bad=False)])
    trainer, callback = make_trainer(
        "sft", Filter(), train=data, callback={"anchors": human, "source": "source"}, max_steps=2
    )
    trainer.train()
    keys = callback.results()
    assert "ggmi/gain/right" in keys
    assert ("ggmi/information_gain" in keys) == (form == "prompt messages")
    tokenizer.chat_template = None


@pytest.mark.parametrize("policy", [Monitor, Filter, Reweight])
def test_masked_completion_only_and_full_loss(policy, make_trainer):
    for completion_only in (True, False):
        trainer, callback = make_trainer("sft", policy(), completion_only_loss=completion_only, max_steps=2)
        trainer.train()
        assert len(losses(trainer)) == 2
        assert callback.ledger.table["kept"].to_pylist().count(True) == 8


@pytest.mark.parametrize("packing", [False, True])
def test_assistant_only_loss_scores_and_weighs_the_assistants_turns(packing, make_trainer, tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] }} {{ eos_token }}{% endgeneration %}{% else %}{{ m['content'] }} {% endif %}{% endfor %}"
    )

    def chat(row):
        answer = {"role": "assistant", "content": row["completion"].strip()}
        return {"messages": [{"role": "user", "content": row["prompt"]}, answer]}

    data, human = (Dataset.from_list([chat(row) for row in sums(n, seed=n, bad=False)]) for n in (16, 6))
    args = {"assistant_only_loss": True, "max_grad_norm": 0, "max_steps": 1, **(PACKED if packing else {})}
    given = {"anchors": human, **({"train_dataset": data} if packing else {})}

    def make(policy):
        return make_trainer("sft", policy, train=data, callback=given, **args)

    parts = [gradients_of_first_step(make(Pattern(*w))[0]) for w in ((1.0, 0.0), (0.0, 1.0))]
    trainer, callback = make(Monitor())
    plain = gradients_of_first_step(trainer)
    assert (sum(parts) - plain).norm() <= 1e-6 * plain.norm() < parts[0].norm()
    layouts = [callback.engine.probe.task.layout(batch) for batch in callback.engine.anchors]
    answers = [len(tokenizer(row["completion"])["input_ids"]) + 1 for row in sums(6, seed=6, bad=False)]
    assert torch.cat([layout.tokens for layout in layouts]).tolist() == answers
    tokenizer.chat_template = None


def test_monitor_is_bit_equal_under_packing(make_trainer, synthetic):
    plain, _ = make_trainer("sft", **PACKED)
    plain.train()
    watched, _ = make_trainer("sft", Monitor(), callback={"train_dataset": synthetic, "overhead": 0.9}, **PACKED)
    watched.train()
    assert losses(watched) == losses(plain)
    assert torch.equal(weights(watched), weights(plain))


def test_samples_that_see_each_other_are_told(make_trainer, make_model):
    """Packed rows under a model that knows no segments: position ids restart, and attention does not."""

    model = make_model()
    with torch.no_grad():
        for layer in model.model.layers:  # attention that matters, in a model that has not learned to attend
            layer.self_attn.v_proj.weight.mul_(20)
            layer.self_attn.o_proj.weight.mul_(20)
    trainer, _ = make_trainer("sft", Monitor(), model=model, callback={"overhead": 0.9}, **PACKED)
    forward = trainer.model.model.forward

    def blind(*args, **kwargs):
        return forward(*args, **{**kwargs, "attention_mask": torch.ones_like(kwargs["input_ids"])})

    trainer.model.model.forward = blind
    with pytest.warns(UserWarning, match="samples see each other"):
        trainer.train()
