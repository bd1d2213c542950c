"""The shadow: a second set of parameters, trained on the anchors, while the model stays as it is."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch

from ggmi_callbacks.model import Probe, Shadow
from tests._batches import VOCABULARY, batches
from tests.model._shadows import NOISE, TASK, learnable, noisy_runs, run


def test_the_model_is_untouched_bit_for_bit(build) -> None:
    probe = build()
    model = probe.model
    TASK.log_probs(model, NOISE[0]).sum().backward()
    state = copy.deepcopy(model.state_dict())
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    versions = [p._version for p in model.parameters()]
    model.model.layers[0].eval()
    mode = [module.training for module in model.modules()]

    run(probe, epochs=2)

    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(grads[name], p.grad) for name, p in model.named_parameters())
    assert versions == [p._version for p in model.parameters()]  # nor written and restored
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(streams[0], torch.get_rng_state())
    assert streams[1] == random.getstate()
    assert np.array_equal(streams[2], np.random.get_state()[1])  # noqa: NPY002
    assert mode == [module.training for module in model.modules()]


def test_a_shadow_that_learns_nothing_says_so(build) -> None:
    shadow = run(build(), learning_rate=1e-30)  # steps that float32 cannot hold
    assert not shadow.improved
    assert torch.equal(shadow.final_nll, shadow.first_nll)


def factors(shadow: Shadow) -> list[float]:
    return [rate / shadow.rates[0] for rate in shadow.rates]


def test_rates_are_tried_upwards_while_they_teach_little_and_downwards_where_the_first_was_too_high(build) -> None:
    assert factors(run(build(), learnable(8))) == [1]
    assert factors(run(build(), learning_rate=1e-30)) == [1, 4, 16, 64]  # nothing got longer: lower ones are no use
    found = run(build(), learning_rate=0.1)
    assert factors(found) == [1, 1 / 4, 1 / 16, 1 / 64, 1 / 256]  # random tokens, which got longer at once
    assert found.learning_rate in found.rates


def test_a_rate_that_is_too_high_is_lowered(build) -> None:
    shadow = run(build(), learnable(8), learning_rate=1.0)
    assert shadow.improved
    assert shadow.learning_rate < 1.0
    assert shadow.learning_rate == shadow.rates[-1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adapters_at_the_default_rate_of_full_weights_learn_more_than_rounding(make_model, seed: int) -> None:
    import peft

    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")
    probe = Probe(peft.get_peft_model(make_model(seed, vocab_size=VOCABULARY), config), TASK)
    shadow = run(probe, noisy_runs(16), learning_rate=2e-5)
    assert shadow.improved
    assert shadow.heldout_nll[0] - min(shadow.heldout_nll) > 0.1  # at 2e-5 they would be shorter by .005 nats at most


def test_a_rate_at_which_training_diverges_is_lowered_and_at_last_refused(build) -> None:
    with pytest.raises(ValueError, match=r"`learning_rate`: the shadow diverged at every rate from 1\.0e\+20 down to"):
        run(build(), learning_rate=1e20)


def test_what_the_anchors_have_in_common_is_learned(build) -> None:
    shadow = run(build(), learnable(8), epochs=4)
    assert shadow.epochs == 4
    assert (shadow.final_nll < shadow.first_nll).all()


def test_equal_seeds_give_equal_shadows_and_others_do_not(build) -> None:
    one, same, other = (run(build(), seed=seed, epochs=1) for seed in (1, 1, 2))
    for name, value in one.parameters.items():
        assert torch.equal(value, same.parameters[name])
    assert torch.equal(one.first_nll, same.first_nll)
    assert not torch.equal(one.first_nll, other.first_nll)


def test_every_anchor_is_held_out_or_measured(build) -> None:
    for n, held in ((2, 1), (3, 1), (8, 2), (10, 2)):
        shadow = run(build(), batches(n, seed=1), epochs=1)
        assert len(shadow.first_nll) == len(shadow.final_nll) == len(shadow.tokens) == 2 * (n - held)


def test_only_what_training_changes_is_shadowed(build) -> None:
    probe = build()
    probe.model.model.requires_grad_(False)
    assert list(run(probe, learnable(4), epochs=1).parameters) == ["lm_head.weight"]


def test_tied_weights_stay_tied(build) -> None:
    shadow = run(build(tie_word_embeddings=True), learnable(4), epochs=1)
    assert "model.embed_tokens.weight" in shadow.parameters
    assert "lm_head.weight" not in shadow.parameters


def test_gradient_checkpointing_of_the_run_changes_nothing(build) -> None:
    plain, probe = build(), build()
    probe.model.gradient_checkpointing_enable()
    expected, found = run(plain, learnable(4)), run(probe, learnable(4))
    assert torch.equal(found.heldout_lengths, expected.heldout_lengths)
    assert probe.model.is_gradient_checkpointing


def test_a_shadow_survives_a_checkpoint(build) -> None:
    shadow = run(build(), epochs=1)
    again = Shadow(**shadow.state_dict())
    assert torch.equal(again.first_nll, shadow.first_nll)
    assert again.heldout_nll == shadow.heldout_nll


def test_its_cost_is_known(build) -> None:
    assert run(build(), epochs=1).seconds > 0


def test_too_few_anchors_are_refused(build) -> None:
    for n in (0, 1):
        with pytest.raises(ValueError, match=f"`anchors` must make at least two batches.*got {n}"):
            run(build(), NOISE[:n])


def test_anchors_without_a_finite_code_length_are_named(build) -> None:
    probe = build()
    with torch.no_grad():
        probe.model.model.embed_tokens.weight[2] = float("nan")
    anchors = [{**batch, "input_ids": batch["input_ids"].clone()} for batch in NOISE]
    anchors[1]["input_ids"][1, 0] = anchors[6]["input_ids"][0, 0] = 2  # samples 3 and 12
    with pytest.raises(ValueError, match=r"2 of 16 `anchors` have a code length of nan nats.*number 3, 12 \(from 0"):
        run(probe, anchors)


def test_a_frozen_model_is_refused(build) -> None:
    probe = build()
    probe.model.requires_grad_(False)
    with pytest.raises(ValueError, match="has nothing to train: `requires_grad` is False everywhere"):
        run(probe)


def test_its_weights_are_complete_and_keep_the_buffers_it_started_from(build) -> None:
    probe = build()
    probe.model.register_buffer("count", torch.zeros(()))
    shadow = run(probe, learnable(4), names=["lm_head.weight"], epochs=1)
    weights = shadow.weights(probe)
    assert weights.keys() == probe.snapshot().keys()
    assert weights["lm_head.weight"] is shadow.parameters["lm_head.weight"]
    with torch.no_grad():
        probe.model.count += 1
        probe.model.model.norm.weight += 1
    again = Shadow(**shadow.state_dict()).weights(probe)
    assert all(again[name] is weights[name] for name in weights)
    assert again["count"] == 0


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(build, settings: dict, word: str) -> None:
    with pytest.raises(ValueError, match=f"`{word}`"):
        run(build(), **settings)
