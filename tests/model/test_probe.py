"""A probe reads the model that somebody else trains and leaves no trace."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ggmi_callbacks.model import Probe
from ggmi_callbacks.tasks import CausalLM
from tests._batches import VOCABULARY, padded, samples

BATCH = padded(samples(4))
LAYOUT = CausalLM().layout(BATCH)
MODELS = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "dropout": {"attention_dropout": 0.5},
}
EACH = pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)


class Normed(nn.Module):
    """A bag of tokens through batch norm: a model with buffers that a training forward moves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.norm(self.embed(input_ids).mT).mT))


def perturbed(probe: Probe) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {k: p + 0.05 * torch.randn(p.shape, generator=draw) for k, p in probe.snapshot().items()}


def flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_quiet_gives_every_module_its_mode_back(make_model) -> None:
    model = make_model(vocab_size=VOCABULARY).train()
    for module in list(model.modules())[::3]:
        module.training = False
    before, probe = flags(model), Probe(model, CausalLM())
    with probe.quiet():
        assert not any(flags(model))
        assert probe.active
        with probe.quiet():
            pass
        assert probe.active
        assert not any(flags(model))
    assert flags(model) == before
    assert not probe.active
    with pytest.raises(KeyError), probe.quiet():
        raise KeyError
    assert flags(model) == before
    assert not probe.active


@EACH
def test_overridden_parameters_are_those_of_a_copy_that_holds_them(make_model, changes: dict) -> None:
    model = make_model(vocab_size=VOCABULARY, **changes).train()
    probe = Probe(model, CausalLM())
    parameters = perturbed(probe)
    other = copy.deepcopy(model)
    other.load_state_dict(parameters, strict=False)
    other.tie_weights()
    expected = Probe(other, CausalLM()).nll(BATCH, LAYOUT)
    assert torch.equal(probe.nll(BATCH, LAYOUT, parameters), expected)
    assert not torch.allclose(expected, probe.nll(BATCH, LAYOUT))


def test_some_overridden_parameters_leave_the_others() -> None:
    model = Normed()
    probe = Probe(model, CausalLM())
    other = copy.deepcopy(model)
    other.head.bias.data += torch.arange(VOCABULARY) / VOCABULARY
    part = {"head.bias": other.head.bias.detach()}
    assert torch.equal(probe.nll(BATCH, LAYOUT, part), Probe(other, CausalLM()).nll(BATCH, LAYOUT))


def test_tied_weights_have_one_name_and_move_together(make_model) -> None:
    model = make_model(vocab_size=VOCABULARY, tie_word_embeddings=True)
    probe = Probe(model, CausalLM())
    assert "lm_head.weight" not in probe.trainable
    name = "model.embed_tokens.weight"
    with torch.no_grad():
        zeros = probe.nll(BATCH, LAYOUT, {name: torch.zeros_like(probe.trainable[name])})
    # Embeddings and head all zero: logits zero, every token at log V.
    assert torch.allclose(zeros, LAYOUT.tokens * torch.tensor(VOCABULARY).log())


def test_only_what_training_changes_is_trainable(make_model) -> None:
    model = make_model(vocab_size=VOCABULARY)
    model.model.requires_grad_(False)
    snapshot = Probe(model, CausalLM()).snapshot()
    assert list(snapshot) == ["lm_head.weight"]
    assert not snapshot["lm_head.weight"].requires_grad
    snapshot["lm_head.weight"].zero_()
    assert model.lm_head.weight.any()


@pytest.mark.parametrize("which", ["llama with dropout", "batch norm"])
def test_reading_leaves_no_trace(make_model, which: str) -> None:
    model = Normed() if which == "batch norm" else make_model(vocab_size=VOCABULARY, attention_dropout=0.5)
    model.train()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002 - the global stream is what is guarded
    probe = Probe(model, CausalLM())
    probe.task.log_probs(model, BATCH).sum().backward()
    state = copy.deepcopy(model.state_dict())
    grads = {k: p.grad.clone() for k, p in model.named_parameters()}
    streams = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    mode = flags(model)

    probe.nll(BATCH, LAYOUT)
    probe.nll(BATCH, LAYOUT, perturbed(probe))
    with probe.quiet(), torch.enable_grad():
        leaves = {k: p.requires_grad_() for k, p in perturbed(probe).items()}
        probe.log_probs(BATCH, leaves).sum().backward()

    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(grads[k], p.grad) for k, p in model.named_parameters())
    assert torch.equal(streams[0], torch.get_rng_state())
    assert streams[1] == random.getstate()
    assert all(np.array_equal(a, b) for a, b in zip(streams[2], np.random.get_state(), strict=True))  # noqa: NPY002
    assert flags(model) == mode


def test_a_model_with_dropout_has_one_code_length(make_model) -> None:
    model = make_model(vocab_size=VOCABULARY, attention_dropout=0.5).train()
    probe = Probe(model, CausalLM())
    first = probe.nll(BATCH, LAYOUT)
    assert torch.equal(first, probe.nll(BATCH, LAYOUT))
    assert not torch.equal(first, -LAYOUT.total(probe.task.log_probs(model, BATCH)).detach())  # dropout is on outside


def test_code_lengths_carry_no_gradient(make_model) -> None:
    probe = Probe(make_model(vocab_size=VOCABULARY), CausalLM())
    assert not probe.nll(BATCH, LAYOUT).requires_grad


def test_reading_under_autocast_does_not_cut_the_gradient_of_the_training_forward(make_model) -> None:
    model = make_model(vocab_size=VOCABULARY)
    probe = Probe(model, CausalLM())
    with torch.autocast("cpu", torch.bfloat16):
        probe.nll(BATCH, LAYOUT)
        model(**BATCH).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
