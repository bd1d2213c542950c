"""One run of the shadow, and the question whether it has learnt anything."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy.stats import ttest_rel

from ggmi_callbacks.model import Probe
from ggmi_callbacks.model.shadow_run import improved
from tests.model._shadows import NOISE, TASK, learnable, mean_nll, own_samples, run, split


def test_first_code_lengths_are_prequential_and_final_ones_are_under_the_best_parameters(build) -> None:
    probe, seed, lr, anchors = build(attention_dropout=0.0), 5, 3e-3, learnable(8)
    shadow = run(probe, anchors, epochs=1, seed=seed)

    held, fit = split(seed)
    model = copy.deepcopy(probe.model)  # a second module, a plain loop
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    first, tokens = [], []
    for batch in (anchors[i] for i in fit):
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
    assert shadow.heldout_nll[0] == pytest.approx(mean_nll(probe, {}, [anchors[i] for i in held]), rel=1e-6)
    assert shadow.heldout_nll[1] == pytest.approx(mean_nll(other, {}, [anchors[i] for i in held]), rel=1e-5)
    assert shadow.heldout_nll[1] < shadow.heldout_nll[0]
    final = torch.cat([other.nll(anchors[i], TASK.layout(anchors[i])) for i in fit])
    assert torch.allclose(shadow.final_nll, final, rtol=1e-5)


@pytest.mark.parametrize(("anchors", "learning_rate"), [("learnable", 3e-3), ("noise", 3e-2)])
def test_the_epoch_is_kept_after_which_held_out_anchors_are_shortest(build, anchors: str, learning_rate: float) -> None:
    probe, data = build(), learnable(8) if anchors == "learnable" else NOISE
    shadow = run(probe, data, learning_rate=learning_rate, epochs=4)
    held, _ = split(0)
    assert mean_nll(probe, shadow.parameters, [data[i] for i in held]) == pytest.approx(
        min(shadow.heldout_nll), rel=1e-6
    )
    assert len(shadow.heldout_nll) == shadow.epochs + 1
    assert shadow.heldout_lengths.shape == (5, 4)  # two batches of two
    # Where they never get shorter, smaller steps are tried.
    assert (shadow.learning_rate == learning_rate) is (anchors == "learnable")
    assert shadow.improved is (anchors == "learnable")


def test_an_improvement_of_three_hundredths_of_a_nat_in_485_is_none() -> None:
    draw = torch.Generator().manual_seed(0)
    before, noise = 485 + 50 * torch.randn(2, 16, generator=draw, dtype=torch.float64)
    noise = (noise - noise.mean()) / 50
    assert not improved(torch.stack([before, before - 0.03 - noise]), looks=1)
    assert improved(torch.stack([before, before - 0.03 - 0.01 * noise]), looks=1)  # where all of them show it


@pytest.mark.parametrize("looks", [1, 8])
def test_improved_is_a_paired_one_sided_test_that_gets_stricter_with_each_look(looks: int) -> None:
    draw = torch.Generator().manual_seed(1)
    found = []
    for _ in range(40):
        before = 20 + 5 * torch.randn(6, generator=draw)
        after = before - 0.7 + torch.randn(6, generator=draw)
        wanted = ttest_rel(before.double(), after.double(), alternative="greater").pvalue < 0.05 / looks
        found.append(improved(torch.stack([before, after + 1, after]), looks))
        assert found[-1] is bool(wanted)
    assert 0 < sum(found) < 40


def test_one_held_out_anchor_cannot_show_an_improvement(build) -> None:
    assert not improved(torch.tensor([[9.0], [1.0]]), looks=1)
    alone = [{key: value[:1] for key, value in batch.items()} for batch in learnable(4)]
    shadow = run(build(), alone)
    assert shadow.heldout_lengths.shape == (4, 1)
    assert not shadow.improved


def test_anchors_that_the_model_could_have_written_are_no_improvement(build) -> None:
    accepted = []
    for seed in range(8):
        probe = build(seed=seed, num_hidden_layers=1)
        torch.manual_seed(seed)
        shadow = run(probe, own_samples(probe.model.eval(), 8), learning_rate=1e-3)
        accepted.append(shadow.improved)
        assert min(shadow.heldout_nll) <= shadow.heldout_nll[0]
    assert sum(accepted) <= 1  # at most 5 % of them, and P(2 or more of 8) is then .06


def test_steps_are_taken_in_float32_whatever_the_model_holds(build) -> None:
    # Around one, bfloat16 has steps of 0.004 below and 0.008 above: 24 updates of 5e-4 are lost one by one, and show
    # together. Norms start at one.
    probe = build()
    probe.model.to(torch.bfloat16)
    shadow = run(probe, learnable(8), learning_rate=5e-4, epochs=4)
    assert {p.dtype for p in shadow.parameters.values()} == {torch.bfloat16}
    assert (shadow.parameters["model.norm.weight"] != 1).any()


@pytest.mark.parametrize("outside", [None, torch.bfloat16])
def test_all_its_code_lengths_have_the_precision_of_the_probe(build, outside: torch.dtype | None) -> None:
    probe, held = build(), split(0)[0]
    probe.autocast_dtype = torch.bfloat16
    with torch.autocast("cpu", outside, enabled=outside is not None):
        shadow = run(probe, learnable(8), epochs=1)
    plain = run(build(), learnable(8), epochs=1)
    assert not torch.equal(shadow.heldout_lengths, plain.heldout_lengths)
    for lengths, weights in zip(shadow.heldout_lengths, (None, shadow.parameters), strict=True):
        again = [probe.nll(learnable(8)[i], TASK.layout(learnable(8)[i]), weights) for i in held]
        assert torch.equal(lengths, torch.cat(again))
    first = learnable(8)[split(0)[1][0]]
    assert torch.allclose(shadow.first_nll[:2], probe.nll(first, TASK.layout(first)))


def test_it_learns_in_float16(build) -> None:
    probe = build()
    probe.autocast_dtype = torch.float16
    shadow, plain = run(probe, learnable(8)), run(build(), learnable(8))
    assert shadow.heldout_nll == pytest.approx(plain.heldout_nll, rel=1e-2)
