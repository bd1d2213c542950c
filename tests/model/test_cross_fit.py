"""Two halves of the anchors as each other's twins."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks.functional._interval import mean_interval
from ggmi_callbacks.model import Probe, cross_fit
from ggmi_callbacks.model.shadow_run import code_lengths, passes
from tests._batches import VOCABULARY, batches
from tests.model._shadows import NOISE, TASK, learnable, run


@pytest.fixture
def probe(make_model) -> Probe:
    return Probe(make_model(vocab_size=VOCABULARY), TASK)


def test_each_anchor_is_judged_by_the_run_that_saw_it_and_by_the_other(probe) -> None:
    anchors = learnable(6)
    shadow = run(probe, anchors)
    found = cross_fit(probe, anchors, shadow, seed=3)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3)).tolist()
    one, other = ([anchors[i] for i in order[side::2]] for side in (0, 1))
    *_, weights = passes(probe, list(shadow.parameters), one, shadow.learning_rate, shadow.best, [])
    assert found.first_half == 6
    assert torch.equal(found.held_in[:6], code_lengths(probe, one, weights))
    assert torch.equal(found.held_out[6:], code_lengths(probe, other, weights))
    assert torch.equal(found.start, code_lengths(probe, one + other))


def test_the_model_and_every_random_stream_are_left_alone(probe) -> None:
    shadow = run(probe)
    before = probe.snapshot()
    state = torch.get_rng_state()
    cross_fit(probe, NOISE, shadow, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in probe.snapshot().items())


def test_random_tokens_can_only_be_memorised_and_a_tiny_step_memorises_nothing(probe) -> None:
    anchors, shadow = batches(16, seed=4), run(probe)
    low = {}
    for rate in (1e-8, 1e-2):
        shadow.learning_rate = rate
        found = cross_fit(probe, anchors, shadow, seed=0)
        low[rate] = mean_interval(found.gaps, 0.95)
    assert low[1e-2].low > 0.05
    assert low[1e-8].value.abs() < 1e-3


def test_pairs_of_twins_are_of_one_run(probe) -> None:
    found = cross_fit(probe, learnable(6), run(probe, learnable(6)), seed=0)
    found.start = torch.full_like(found.start, float("nan"))  # not calibrated
    inside, outside = found.twins()
    tokens = found.tokens.double()
    assert torch.equal(inside, found.held_in.double() / tokens)
    assert torch.equal(outside, (found.held_out.double() / tokens).roll(6))
