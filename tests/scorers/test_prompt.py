"""Prompt information: log p(y | p) - log p(y), p(y) by the same model without the prompt."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ggmi_callbacks import CausalLM, PromptInformationScorer, SampleLoss
from ggmi_callbacks.model import Probe
from tests._batches import VOCABULARY, packed, padded, samples, shadow_of

SAMPLES = samples(6, seed=3, prompt=3)
TASK = CausalLM()


@pytest.fixture
def probe(make_model) -> Probe:
    return Probe(make_model(vocab_size=VOCABULARY).double(), TASK)


def information(probe: Probe, batch: dict, n: int | None = None) -> torch.Tensor:
    scorer = PromptInformationScorer("current")
    scorer.prepare(probe, [padded(SAMPLES)], shadow_of({}))
    return scorer(batch, TASK.layout(batch, n))


def test_it_is_the_difference_to_the_answer_behind_the_last_token_of_its_prompt_alone(probe: Probe) -> None:
    cut = padded([(ids[2:], labels[2:]) for ids, labels in SAMPLES])
    whole = padded(SAMPLES)
    expected = probe.nll(cut, TASK.layout(cut)) - probe.nll(whole, TASK.layout(whole))
    assert expected.abs().min() > 1e-4  # the prompt matters, so that leaving it in would show
    assert torch.allclose(information(probe, whole), expected, atol=1e-6)


def test_models_with_absolute_positions_start_the_answer_at_zero() -> None:
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    gpt2 = Probe(GPT2LMHeadModel(config).double(), TASK)
    cut, whole = padded([(ids[2:], labels[2:]) for ids, labels in SAMPLES]), padded(SAMPLES)
    expected = gpt2.nll(cut, TASK.layout(cut)) - gpt2.nll(whole, TASK.layout(whole))
    assert torch.allclose(information(gpt2, whole), expected, atol=1e-6)
    assert torch.allclose(information(gpt2, packed(SAMPLES), 6), expected, atol=1e-6)


def test_boundaries_of_a_packed_batch_are_rebuilt() -> None:
    batch = packed(SAMPLES, boundaries=True)
    alone = TASK.promptless(batch, TASK.layout(batch, 6))
    assert not any(key.startswith(("cu_", "max_")) for key in alone)
    starts = (alone["position_ids"] == 0)[0].nonzero().flatten().tolist()
    lengths = [len(ids) for ids, _ in SAMPLES]
    begin = [sum(lengths[:i]) for i in range(6)]
    assert starts == sorted(begin + [b + 2 for b in begin])  # prompts of three tokens, of which the last stays
    assert torch.equal(alone["seq_idx"][0].diff().nonzero().flatten() + 1, torch.tensor(starts[1:]))


@pytest.mark.parametrize("boundaries", [False, True])
def test_packed_padded_left_and_alone_it_is_the_same(probe: Probe, boundaries: bool) -> None:
    expected = information(probe, padded(SAMPLES))
    alone = torch.cat([information(probe, padded([sample])) for sample in SAMPLES])
    assert torch.allclose(information(probe, packed(SAMPLES, boundaries), 6), expected, atol=1e-6)
    assert torch.allclose(information(probe, padded(SAMPLES, left=True)), expected, atol=1e-6)
    assert torch.allclose(alone, expected, atol=1e-6)


def without_prompt(sample: tuple[torch.Tensor, torch.Tensor], keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The sample from the last ``keep`` tokens of its prompt on; with none of them, its first token has a label."""
    return sample[0][3 - keep :], sample[1][3 - keep :]


@pytest.mark.parametrize("form", ["right", "left", "packed", "no mask"])
@pytest.mark.parametrize("keep", [0, 1])
def test_a_sample_without_a_prompt_is_unknown_and_leaves_the_others_alone(probe: Probe, form: str, keep: int) -> None:
    mixed = [*SAMPLES[:2], without_prompt(SAMPLES[2], keep), *SAMPLES[3:]]
    forms = {"right": padded(mixed), "left": padded(mixed, left=True), "packed": packed(mixed)}
    forms["no mask"] = {k: v for k, v in forms["right"].items() if k != "attention_mask"}
    scorer = PromptInformationScorer("current")
    scorer.prepare(probe, [padded(SAMPLES)], shadow_of({}))
    found = scorer.score(forms[form], TASK.layout(forms[form], 6))
    expected = information(probe, padded(SAMPLES))
    others = [0, 1, 3, 4, 5]
    assert torch.equal(found.gain.isnan(), torch.arange(6) == 2)
    assert torch.equal(found.noise.isnan(), torch.arange(6) == 2)
    assert torch.allclose(found.gain[others], expected[others], atol=1e-6)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("reference", ["shadow", "current"])
def test_anchors_without_prompts_are_refused_at_the_start(probe: Probe, keep: int, reference: str) -> None:
    bare = padded([without_prompt(sample, keep) for sample in SAMPLES])
    with pytest.raises(ValueError, match="`PromptInformationScorer`: none of the 12 `anchors` has a prompt"):
        PromptInformationScorer(reference).prepare(probe, [bare, bare], shadow_of(probe.snapshot()))
    PromptInformationScorer(reference).prepare(probe, [bare, padded(SAMPLES)], shadow_of(probe.snapshot()))


def test_tasks_without_prompts_are_refused_at_the_start(probe: Probe) -> None:
    losses = Probe(probe.model, SampleLoss(lambda model, batch: -TASK.log_probs(model, batch).sum(1)))
    with pytest.raises(ValueError, match="SampleLoss has no prompts to leave out"):
        PromptInformationScorer().prepare(losses, [padded(SAMPLES)], shadow_of(probe.snapshot()))


@pytest.mark.parametrize("left", [False, True])
def test_a_sample_without_targets_has_none_and_leaves_the_others_alone(probe: Probe, left: bool) -> None:
    ids, labels = SAMPLES[2]
    masked = [*SAMPLES[:2], (ids, torch.full_like(labels, -100)), *SAMPLES[3:]]
    expected = information(probe, padded(SAMPLES, left))
    expected[2] = 0
    assert torch.allclose(information(probe, padded(masked, left)), expected, atol=1e-6)


def test_the_shadow_is_the_default_and_never_changes(probe: Probe) -> None:
    batch, scorer = padded(SAMPLES), PromptInformationScorer()
    scorer.prepare(probe, [batch], shadow_of(probe.snapshot()))
    before = scorer(batch, TASK.layout(batch))
    with torch.no_grad():
        for p in probe.trainable.values():
            p.mul_(1.5)
    assert scorer.static
    assert torch.equal(scorer(batch, TASK.layout(batch)), before)
    assert not torch.allclose(information(probe, batch), before)


def test_another_reference_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`reference` must be 'shadow' or 'current', got 'initial'"):
        PromptInformationScorer("initial")
