"""The shadow: a second set of parameters, trained on the anchors, while the model stays as it is."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from ggmi_callbacks import CausalLM
from ggmi_callbacks.model import Probe, Shadow, train_shadow
from tests._batches import VOCABULARY, batches, padded

ANCHORS = batches(8, seed=4)
TASK = CausalLM()


@pytest.fixture
def build(make_model):
    def make(**changes) -> Probe:
        return Probe(make_model(**{"vocab_size": VOCABULARY, "attention_dropout": 0.4, **changes}).train(), TASK)

    return make


def run(probe: Probe, anchors=ANCHORS, **settings) -> Shadow:
    return train_shadow(probe, anchors, **{"learning_rate": 3e-3, "progress": False, **settings})


def mean_nll(probe: Probe, parameters: dict[str, Tensor], anchors) -> float:
    return float(torch.cat([probe.nll(batch, TASK.layout(batch), parameters) for batch in anchors]).mean())


def split(seed: int, n: int = len(ANCHORS)) -> tuple[list[int], list[int]]:
    """The batches held out and those trained on, in order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[: n // 4], order[n // 4 :]


def test_the_model_is_untouched_bit_for_bit(build) -> None:
    probe = build()
    model = probe.model
    TASK.log_probs(model, ANCHORS[0]).sum().backward()
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


def test_first_code_lengths_are_prequential_and_final_ones_are_under_the_best_parameters(build) -> None:
    probe, seed, lr = build(attention_dropout=0.0), 5, 3e-3
    shadow = run(probe, epochs=1, seed=seed)

    held, fit = split(seed)
    model = copy.deepcopy(probe.model)  # a second module, a plain loop
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    first, tokens = [], []
    for batch in (ANCHORS[i] for i in fit):
        layout = TASK.layout(batch)
        nll = -layout.total(TASK.log_probs(model, batch))
        first.append(nll.detach())
        tokens.append(layout.tokens)
        optimiser.zero_grad()
        (nll.sum() / layout.tokens.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    other = Probe(model, TASK)
    assert torch.allclose(shadow.first_nll, torch.cat(first), rtol=1e-5)
    assert torch.equal(shadow.tokens, torch.cat(tokens))
    assert shadow.heldout_nll[0] == pytest.approx(mean_nll(probe, {}, [ANCHORS[i] for i in held]), rel=1e-6)
    assert shadow.heldout_nll[1] == pytest.approx(mean_nll(other, {}, [ANCHORS[i] for i in held]), rel=1e-5)
    # Random tokens teach nothing about held-out ones, so say which parameters are the best before comparing.
    best = other if shadow.heldout_nll[1] < shadow.heldout_nll[0] else probe
    final = torch.cat([best.nll(ANCHORS[i], TASK.layout(ANCHORS[i])) for i in fit])
    assert torch.allclose(shadow.final_nll, final, rtol=1e-5)


def learnable(n: int) -> list[dict[str, Tensor]]:
    """Anchors that have something in common: runs of one token after another."""
    rows = [(torch.arange(8) + 3 + i % 4, torch.arange(8) + 3 + i % 4) for i in range(2 * n)]
    return [padded(rows[i : i + 2]) for i in range(0, 2 * n, 2)]


@pytest.mark.parametrize(("anchors", "learning_rate"), [("learnable", 3e-3), ("noise", 3e-2)])
def test_the_epoch_is_kept_after_which_held_out_anchors_are_shortest(build, anchors: str, learning_rate: float) -> None:
    probe, data = build(), learnable(8) if anchors == "learnable" else ANCHORS
    shadow = run(probe, data, learning_rate=learning_rate, epochs=4)
    held, _ = split(0)
    assert mean_nll(probe, shadow.parameters, [data[i] for i in held]) == pytest.approx(
        min(shadow.heldout_nll), rel=1e-6
    )
    assert len(shadow.heldout_nll) == shadow.epochs + 1
    # Where they never get shorter, smaller steps are tried.
    assert (shadow.learning_rate == learning_rate) is (anchors == "learnable")
    assert shadow.improved is (min(shadow.heldout_nll) < shadow.heldout_nll[0])


def test_a_shadow_that_learns_nothing_says_so(build) -> None:
    shadow = run(build(), learning_rate=0.0)
    assert not shadow.improved
    assert torch.equal(shadow.final_nll, shadow.first_nll)


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


def test_steps_are_taken_in_float32_whatever_the_model_holds(build) -> None:
    # Around one, bfloat16 has steps of 0.004 below and 0.008 above: 24 updates of 5e-4 are lost one by one, and show
    # together. Norms start at one.
    probe = build()
    probe.model.to(torch.bfloat16)
    shadow = run(probe, learnable(8), learning_rate=5e-4, epochs=4)
    assert {p.dtype for p in shadow.parameters.values()} == {torch.bfloat16}
    assert (shadow.parameters["model.norm.weight"] != 1).any()


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
            run(build(), ANCHORS[:n])


@pytest.mark.parametrize("where", ["weights", "steps"])
def test_anchors_without_a_finite_code_length_are_refused(build, where: str) -> None:
    probe = build()
    if where == "weights":
        with torch.no_grad():
            probe.model.lm_head.weight[3] = float("nan")
    with pytest.raises(ValueError, match=r"`anchors` have a code length of (nan|inf) nats"):
        run(probe, learning_rate=3e-3 if where == "weights" else 1e20)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_by_name(build, settings: dict, word: str) -> None:
    with pytest.raises(ValueError, match=f"`{word}`"):
        run(build(), **settings)
