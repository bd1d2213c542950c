"""Gain as a likelihood ratio: nll under W less nll under the shadow."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import CausalLM, LikelihoodScorer
from ggmi_callbacks.probe import Probe
from ggmi_callbacks.scorers import train_shadow
from tests._batches import VOCABULARY, batches, packed, padded, samples, shadow_of

SAMPLES = samples(6, seed=3)
BATCH = padded(SAMPLES)
LAYOUT = CausalLM().layout(BATCH)
ANCHORS = batches(4, seed=4)


@pytest.fixture
def probe(make_model) -> Probe:
    return Probe(make_model(vocab_size=VOCABULARY, attention_dropout=0.3).train(), CausalLM())


def moved(probe: Probe, by: float) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {name: p + by * torch.randn(p.shape, generator=draw) for name, p in probe.snapshot().items()}


def train_a_little(probe: Probe) -> None:
    with torch.no_grad():
        for name, p in moved(probe, 0.1).items():
            probe.trainable[name].copy_(p)


def nll_of(probe: Probe, parameters: dict[str, Tensor]) -> Tensor:
    """Code lengths under ``parameters``, by a second model that holds them."""
    model = copy.deepcopy(probe.model)
    model.load_state_dict(parameters, strict=False)
    return Probe(model, CausalLM()).nll(BATCH, LAYOUT)


@pytest.mark.parametrize("reference", ["initial", "current"])
def test_gain_is_the_difference_of_code_lengths_of_two_models(probe: Probe, reference: str) -> None:
    initial, anchored = probe.snapshot(), moved(probe, 0.05)
    scorer = LikelihoodScorer(reference)
    scorer.prepare(probe, ANCHORS, shadow_of(anchored))
    for _ in range(2):
        w = initial if reference == "initial" else probe.snapshot()
        expected = nll_of(probe, w) - nll_of(probe, anchored)
        assert torch.equal(scorer(BATCH, LAYOUT), expected)
        train_a_little(probe)


def test_the_initial_reference_does_not_drift_and_the_current_one_does(probe: Probe) -> None:
    scorers = {reference: LikelihoodScorer(reference) for reference in ("initial", "current")}
    gains = {}
    for name, scorer in scorers.items():
        scorer.prepare(probe, ANCHORS, shadow_of(moved(probe, 0.05)))
        gains[name] = scorer(BATCH, LAYOUT)
    assert torch.equal(gains["initial"], gains["current"])
    train_a_little(probe)
    assert torch.equal(scorers["initial"](BATCH, LAYOUT), gains["initial"])
    assert not torch.allclose(scorers["current"](BATCH, LAYOUT), gains["current"])


def test_a_shadow_that_learned_nothing_gives_no_gain(probe: Probe) -> None:
    scorer = LikelihoodScorer()
    scorer.prepare(probe, ANCHORS, shadow_of(probe.snapshot()))
    assert torch.equal(scorer(BATCH, LAYOUT), torch.zeros(6))


def test_what_is_like_the_anchors_gains_and_noise_does_not(probe: Probe) -> None:
    runs = [(torch.arange(8) + 3 + i % 4,) * 2 for i in range(24)]
    anchors = [padded(runs[i : i + 2]) for i in range(0, 16, 2)]
    scorer = LikelihoodScorer()
    scorer.prepare(probe, anchors, train_shadow(probe, anchors, learning_rate=3e-3, epochs=4, progress=False))
    alike = padded(runs[16:])
    # Four epochs over 12 anchors make a run of eight tokens nats shorter; random tokens they make longer.
    assert (scorer(alike, CausalLM().layout(alike)) > 1).all()
    assert scorer(BATCH, LAYOUT).mean() < 0


def test_a_sample_has_one_gain_in_whatever_batch_it_comes(probe: Probe) -> None:
    scorer, task = LikelihoodScorer(), CausalLM()
    scorer.prepare(probe, ANCHORS, shadow_of(moved(probe, 0.05)))
    whole = scorer(BATCH, LAYOUT)
    alone = torch.cat([scorer(x, task.layout(x)) for x in (padded([sample]) for sample in SAMPLES)])
    together = scorer(packed(SAMPLES), task.layout(packed(SAMPLES), 6))
    # Differences of code lengths of up to 40 nats in float32.
    assert torch.allclose(alone, whole, atol=2e-5)
    assert torch.allclose(together, whole, atol=2e-5)


def test_normalised_by_token_is_nats_per_token(probe: Probe) -> None:
    total, per_token = LikelihoodScorer(), LikelihoodScorer(normalize="token")
    for scorer in (total, per_token):
        scorer.prepare(probe, ANCHORS, shadow_of(moved(probe, 0.05)))
    assert torch.allclose(per_token(BATCH, LAYOUT) * LAYOUT.tokens, total(BATCH, LAYOUT))


def test_a_sample_without_targets_has_a_finite_gain_per_token(probe: Probe) -> None:
    batch = {**BATCH, "labels": BATCH["labels"].clone()}
    batch["labels"][0] = -100
    scorer = LikelihoodScorer(normalize="token")
    scorer.prepare(probe, ANCHORS, shadow_of(moved(probe, 0.05)))
    assert scorer(batch, CausalLM().layout(batch))[0] == 0


def test_a_restart_keeps_the_weights_from_before_training(probe: Probe) -> None:
    shadow = shadow_of(moved(probe, 0.05))
    scorer, resumed = LikelihoodScorer(), LikelihoodScorer()
    scorer.prepare(probe, ANCHORS, shadow)
    saved = io.BytesIO()
    torch.save(scorer.state_dict(), saved)
    saved.seek(0)
    train_a_little(probe)
    resumed.prepare(probe, ANCHORS, shadow)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(resumed(BATCH, LAYOUT), scorer(BATCH, LAYOUT))


def test_arguments_that_mean_nothing_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`reference` must be 'initial' or 'current', got 'last'"):
        LikelihoodScorer("last")
    with pytest.raises(ValueError, match="`normalize` must be None or 'token', got 'sample'"):
        LikelihoodScorer(normalize="sample")
