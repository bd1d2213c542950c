"""A probe reads the model that somebody else trains and leaves no trace."""

from __future__ import annotations

import copy
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ggmi_callbacks.model import Probe, SharedBatch
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
    return {k: p.detach() + 0.05 * torch.randn(p.shape, generator=draw) for k, p in probe.trainable.items()}


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


def test_buffers_are_those_that_a_checkpoint_keeps(make_model) -> None:
    assert list(Probe(Normed(), CausalLM()).buffers) == [
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]
    assert not Probe(make_model(vocab_size=VOCABULARY), CausalLM()).buffers  # rotary frequencies are made anew


def test_a_snapshot_holds_buffers_with_the_parameters_and_gives_the_code_lengths_back() -> None:
    model = Normed().train()
    probe = Probe(model, CausalLM())
    before, snapshot = probe.nll(BATCH, LAYOUT), probe.snapshot()
    model(**{k: BATCH[k] for k in ("input_ids", "attention_mask")})  # a training forward moves the running statistics
    assert not torch.equal(probe.nll(BATCH, LAYOUT), before)
    assert torch.equal(probe.nll(BATCH, LAYOUT, snapshot), before)
    assert snapshot["norm.running_mean"].eq(0).all()
    assert model.norm.num_batches_tracked == 1
    assert "norm.running_var" not in probe.snapshot(without=["norm.running_var"])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("outside", [torch.bfloat16, torch.float16])
def test_code_lengths_do_not_depend_on_the_autocast_of_the_caller(make_model, dtype, outside) -> None:
    probe = Probe(make_model(vocab_size=VOCABULARY), CausalLM())
    probe.autocast_dtype = dtype
    alone = probe.nll(BATCH, LAYOUT)
    with torch.autocast("cpu", outside):
        inside = probe.nll(BATCH, LAYOUT)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == outside
    assert torch.equal(inside, alone)
    with probe.precision(torch.bfloat16 if dtype is None else None):
        assert not torch.equal(probe.nll(BATCH, LAYOUT), alone)  # the setting is in effect
    assert torch.equal(probe.nll(BATCH, LAYOUT), alone)


def test_a_shared_batch_is_run_once_for_each_set_of_weights_and_precision(make_model) -> None:
    model = make_model(vocab_size=VOCABULARY)
    probe = Probe(model, CausalLM())
    weights = perturbed(probe)
    runs: list[int] = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    batch = SharedBatch(BATCH)
    lengths = [probe.nll(batch, LAYOUT, w) for w in (None, weights, dict(weights), None)]
    assert len(runs) == 2  # the live weights, and two dictionaries of the same tensors
    assert torch.equal(lengths[1], lengths[2])
    assert torch.equal(lengths[1], probe.nll(BATCH, LAYOUT, weights))
    assert len(runs) == 3
    probe.nll(batch, LAYOUT, {k: p.clone() for k, p in weights.items()})  # other tensors, whatever is in them
    with probe.precision(torch.bfloat16):
        probe.nll(batch, LAYOUT)
    probe.nll(dict(batch), LAYOUT)
    assert len(runs) == 6
    with probe.quiet(), torch.enable_grad():
        assert probe.log_probs(batch).requires_grad
    assert len(runs) == 7


def test_noise_of_neftune_is_off_while_the_probe_reads(make_model) -> None:
    try:
        from transformers.integrations.neftune import neftune_post_forward_hook
    except ImportError:  # of transformers 4
        from transformers.trainer_utils import neftune_post_forward_hook  # type: ignore[attr-defined, no-redef]

    model = make_model(vocab_size=VOCABULARY).train()
    probe = Probe(model, CausalLM())
    expected = probe.nll(BATCH, LAYOUT)
    embeddings = model.get_input_embeddings()
    embeddings.neftune_noise_alpha = 5.0
    embeddings.register_forward_hook(neftune_post_forward_hook)
    assert torch.equal(probe.nll(BATCH, LAYOUT), expected)
    noisy = -LAYOUT.total(probe.task.log_probs(model, BATCH)).detach()
    assert not torch.allclose(noisy, expected, rtol=1e-4)  # it is on outside
