"""Adapters of PEFT, real ones: what a probe, a shadow and a likelihood gain make of each."""

from __future__ import annotations

import warnings
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from ggmi_callbacks import LikelihoodScorer, PromptInformationScorer
from ggmi_callbacks.model import Probe, train_shadow
from tests._batches import VOCABULARY, packed, padded, samples
from tests.model._shadows import TASK, learnable

VIRTUAL = 8
SAMPLES = samples(4, prompt=3)
BATCH, LAYOUT = padded(SAMPLES), TASK.layout(padded(SAMPLES))
ADAPTERS: dict[str, tuple[type[peft.PeftConfig], dict[str, Any]]] = {
    "prompt tuning": (peft.PromptTuningConfig, {"num_virtual_tokens": VIRTUAL}),
    "p-tuning": (peft.PromptEncoderConfig, {"num_virtual_tokens": VIRTUAL, "encoder_hidden_size": 16}),
    "prefix tuning": (peft.PrefixTuningConfig, {"num_virtual_tokens": VIRTUAL}),
    "lora": (peft.LoraConfig, {"target_modules": ["q_proj", "v_proj"]}),
    "ia3": (peft.IA3Config, {"target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
}
SOFT = ["prompt tuning", "p-tuning"]
EACH = pytest.mark.parametrize("kind", ADAPTERS)


@pytest.fixture
def build(make_model):
    def make(kind: str) -> Probe:
        make_config, settings = ADAPTERS[kind]
        model = peft.get_peft_model(make_model(vocab_size=VOCABULARY), make_config(task_type="CAUSAL_LM", **settings))
        return Probe(model.train(), TASK)

    return make


def labelled_nll(probe: Probe) -> Tensor:
    """Code lengths by PEFT's own loss, one sample at a time."""
    out = []
    for ids, labels in SAMPLES:
        row = padded([(ids, labels)])
        with torch.no_grad(), probe.quiet():
            out.append(probe.model(**row).loss * TASK.layout(row).tokens[0])
    return torch.stack(out)


@EACH
def test_code_lengths_are_those_of_the_loss_that_peft_computes(build, kind: str) -> None:
    probe = build(kind)
    assert torch.allclose(probe.nll(BATCH, LAYOUT), labelled_nll(probe), rtol=1e-5)


@EACH
def test_a_shadow_of_an_adapter_learns_and_gives_gains(build, kind: str) -> None:
    probe = build(kind)
    anchors = learnable(8)
    shadow = train_shadow(probe, anchors, learning_rate=3e-2, progress=False)
    assert shadow.improved
    assert shadow.parameters.keys() == probe.trainable.keys()
    scorer = LikelihoodScorer()
    scorer.prepare(probe, anchors, shadow)
    layout = TASK.layout(anchors[0])
    assert (scorer(anchors[0], layout) > 0).all()
    assert scorer.score(anchors[0], layout).noise.isfinite().all()


@EACH
def test_every_second_position_is_the_right_one(build, kind: str) -> None:
    probe = build(kind)
    thinned, layout = TASK.thin(BATCH, LAYOUT, 2)
    with torch.no_grad(), probe.quiet():
        whole, some = probe.log_probs(BATCH), probe.log_probs(thinned)
    assert torch.allclose(some, whole * layout.target, atol=1e-5)


@EACH
def test_prompts_are_left_out_under_an_adapter(build, kind: str) -> None:
    probe = build(kind)
    scorer = PromptInformationScorer("current")
    scorer.prepare(probe, [BATCH], train_shadow(probe, learnable(2), learning_rate=1e-3, epochs=1, progress=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scorer(BATCH, LAYOUT)
    cut = padded([(ids[2:], labels[2:]) for ids, labels in SAMPLES])
    if kind in SOFT:  # PEFT takes no positions, so the answer keeps its distance to the virtual tokens
        cut = {**BATCH, "attention_mask": TASK.promptless(BATCH, LAYOUT)["attention_mask"]}
    expected = probe.nll(cut, TASK.layout(cut)) - probe.nll(BATCH, LAYOUT)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [*SOFT, "prefix tuning"])
def test_packed_rows_are_refused_where_samples_would_see_each_other(build, kind: str) -> None:
    probe, batch = build(kind), packed(SAMPLES)
    with pytest.raises(ValueError, match=r"packed rows under PEFT's \w+: .* see each other.*`packing=False`"):
        probe.nll(batch, TASK.layout(batch, 4))


@pytest.mark.parametrize("kind", [*SOFT, "prefix tuning"])
def test_masks_of_four_dimensions_are_refused(build, kind: str) -> None:
    probe = build(kind)
    square = torch.ones(4, 1, 10, 10).tril().bool()
    with pytest.raises(ValueError, match=r"`attention_mask` must be \[B, T\] under PEFT's \w+"):
        probe.nll({**BATCH, "attention_mask": square}, LAYOUT)


@pytest.mark.parametrize("kind", SOFT)
def test_the_training_forward_is_left_as_it_is(build, kind: str) -> None:
    probe = build(kind)
    probe.nll(BATCH, LAYOUT)
    assert probe.model(**BATCH).logits.shape[1] == BATCH["input_ids"].shape[1] + VIRTUAL
    assert not probe.model._forward_hooks
    assert not probe.model._forward_pre_hooks
