"""Prompt information: log p(y | p) - log p(y), p(y) by the same model without the prompt."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import CausalLM, PromptInformationScorer
from ggmi_callbacks.probe import Probe
from tests._batches import VOCABULARY, packed, padded, samples, shadow_of

SAMPLES = samples(6, seed=3, prompt=3)
TASK = CausalLM()


@pytest.fixture
def probe(make_model) -> Probe:
    return Probe(make_model(vocab_size=VOCABULARY).double(), TASK)


def information(probe: Probe, batch: dict, n: int | None = None) -> torch.Tensor:
    scorer = PromptInformationScorer("current")
    scorer.prepare(probe, [], shadow_of({}))
    return scorer(batch, TASK.layout(batch, n))


def test_it_is_the_difference_to_the_answer_behind_the_last_token_of_its_prompt_alone(probe: Probe) -> None:
    cut = padded([(ids[2:], labels[2:]) for ids, labels in SAMPLES])
    whole = padded(SAMPLES)
    expected = probe.nll(cut, TASK.layout(cut)) - probe.nll(whole, TASK.layout(whole))
    assert expected.abs().min() > 1e-4  # the prompt matters, so that leaving it in would show
    assert torch.allclose(information(probe, whole), expected, atol=1e-6)


@pytest.mark.parametrize("boundaries", [False, True])
def test_packed_padded_left_and_alone_it_is_the_same(probe: Probe, boundaries: bool) -> None:
    expected = information(probe, padded(SAMPLES))
    alone = torch.cat([information(probe, padded([sample])) for sample in SAMPLES])
    assert torch.allclose(information(probe, packed(SAMPLES, boundaries), 6), expected, atol=1e-6)
    assert torch.allclose(information(probe, padded(SAMPLES, left=True)), expected, atol=1e-6)
    assert torch.allclose(alone, expected, atol=1e-6)


def test_a_sample_without_a_prompt_has_none(probe: Probe) -> None:
    bare = padded(samples(4, seed=3, prompt=0))
    assert torch.equal(information(probe, bare), torch.zeros(4, dtype=torch.float64))


def test_the_shadow_is_the_default_and_never_changes(probe: Probe) -> None:
    batch, scorer = padded(SAMPLES), PromptInformationScorer()
    scorer.prepare(probe, [], shadow_of(probe.snapshot()))
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
