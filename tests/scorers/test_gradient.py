"""Gain to first order: what the scorers find without a per-sample gradient is what per-sample gradients give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ggmi_callbacks import GradientScorer, LookaheadScorer, Scorer
from ggmi_callbacks.model import Probe
from ggmi_callbacks.scorers.gradient import AnchorGradient, linear_weights, log_likelihood_gradient
from ggmi_callbacks.scorers.likelihood import LikelihoodScorer
from ggmi_callbacks.tasks import CausalLM
from tests._batches import VOCABULARY, batches, packed, padded, samples, shadow_of

LR = 1e-3
SAMPLES = samples(12, seed=3)
BATCH = padded(SAMPLES)
LAYOUT = CausalLM().layout(BATCH)
ANCHORS = batches(3, size=2, seed=4)
NO_SHADOW = shadow_of({})
TIED = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


@pytest.fixture
def build(make_model):
    """A probe on a model in float64 (whose norms compute in float32: numbers agree to 1e-6), in training mode."""

    def make(tied: bool = False, dtype: torch.dtype = torch.float64) -> Probe:
        changes = {"vocab_size": VOCABULARY, "tie_word_embeddings": tied, "attention_dropout": 0.3}
        return Probe(make_model(**changes).to(dtype).train(), CausalLM())

    return make


def prepared(scorer: AnchorGradient, probe: Probe, step: int = 0) -> AnchorGradient:
    scorer.prepare(probe, ANCHORS, NO_SHADOW)
    scorer.refresh(step)
    return scorer


def log_p(probe: Probe, inputs: dict[str, Any], parameters: dict[str, Tensor] | None = None) -> Tensor:
    """log p of each sample of a batch."""
    return CausalLM().layout(inputs).total(probe.log_probs(inputs, parameters))


def exact_gradient(probe: Probe, inputs: list[dict[str, Any]], names: list[str]) -> dict[str, Tensor]:
    """Gradient of the summed log-likelihood by a plain backward."""
    parameters = [probe.trainable[name] for name in names]
    with probe.quiet():
        grads = torch.autograd.grad(sum(log_p(probe, batch).sum() for batch in inputs), parameters)
    return {name: grad.double() for name, grad in zip(names, grads, strict=True)}


def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return float(sum((a[name].double() * b[name].double()).sum() for name in a))


def exact_gains(probe: Probe, names: list[str]) -> Tensor:
    """The literal version: one backward for the anchors, one for each sample."""
    anchors = exact_gradient(probe, ANCHORS, names)
    each = [exact_gradient(probe, [padded([sample])], names) for sample in SAMPLES]
    return LR * torch.tensor([dot(anchors, gradient) for gradient in each], dtype=torch.float64)


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1])


@TIED
@pytest.mark.parametrize("layers", [None, 1, 4])
def test_the_gradient_scorer_equals_an_exact_per_sample_backward(build, tied: bool, layers: int | None) -> None:
    probe = build(tied)
    names = linear_weights(probe.model, layers)
    exact = exact_gains(probe, names)
    found = prepared(GradientScorer(LR, layers=layers), probe)(BATCH, LAYOUT)
    assert correlation(found, exact) >= 0.999
    assert torch.allclose(found.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_keeps_the_order_of_samples(build, dtype: torch.dtype) -> None:
    exact_probe, probe = build(), build(dtype=dtype)
    exact = exact_gains(exact_probe, linear_weights(exact_probe.model))
    found = prepared(GradientScorer(LR), probe)(BATCH, LAYOUT)
    assert correlation(found, exact) >= 0.999


@pytest.mark.parametrize("make", [GradientScorer, LookaheadScorer])
def test_autocast_of_the_run_keeps_the_order_of_samples(build, make: type[AnchorGradient]) -> None:
    exact_probe, probe = build(), build(dtype=torch.float32)
    exact = exact_gains(exact_probe, linear_weights(exact_probe.model))
    probe.autocast_dtype = torch.bfloat16
    found = prepared(make(learning_rate=LR), probe)(BATCH, LAYOUT)
    assert correlation(found, exact) >= 0.999


@pytest.mark.parametrize("form", ["left", "packed", "alone"])
def test_a_sample_has_one_gain_in_whatever_batch_it_comes(build, form: str) -> None:
    scorer = prepared(GradientScorer(LR), build())
    expected = scorer(BATCH, LAYOUT)
    task, n = CausalLM(), len(SAMPLES)
    forms = {
        "left": [padded(SAMPLES, left=True)],
        "packed": [packed(SAMPLES)],
        "alone": [padded([sample]) for sample in SAMPLES],
    }
    found = torch.cat([scorer(inputs, task.layout(inputs, n)) for inputs in forms[form]])
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@TIED
def test_the_lookahead_is_the_gradient_to_first_order(build, tied: bool) -> None:
    probe = build(tied)
    exact = exact_gains(probe, linear_weights(probe.model))
    error = []
    for step in (1e-2, 5e-3, 2.5e-3):
        found = prepared(LookaheadScorer(step, learning_rate=LR), probe)(BATCH, LAYOUT)
        error.append(float((found - exact).norm() / exact.norm()))
    # First order: half the step, half the error (rounding in float32 norms is far below).
    assert error[0] / error[1] == pytest.approx(2, rel=0.2)
    assert error[1] / error[2] == pytest.approx(2, rel=0.2)
    assert correlation(prepared(LookaheadScorer(learning_rate=LR), probe)(BATCH, LAYOUT), exact) >= 0.999


def test_the_default_lookahead_is_good_to_a_percent_in_float32(build) -> None:
    probe = build(dtype=torch.float32)
    exact = exact_gains(build(), linear_weights(probe.model))
    found = prepared(LookaheadScorer(learning_rate=LR), probe)(BATCH, LAYOUT)
    assert float((found.double() - exact).norm() / exact.norm()) < 0.01


@TIED
def test_a_shadow_one_step_away_agrees_to_first_order(build, tied: bool) -> None:
    probe = build(tied)
    names = linear_weights(probe.model)
    ascent = exact_gradient(probe, ANCHORS, names)
    unit = prepared(GradientScorer(1.0), probe)(BATCH, LAYOUT)
    error = []
    for lr in (1e-3, 5e-4, 2.5e-4):
        stepped = {name: probe.trainable[name].detach() + lr * ascent[name] for name in names}
        scorer = LikelihoodScorer()
        scorer.prepare(probe, ANCHORS, shadow_of(stepped))
        found = scorer(BATCH, LAYOUT)
        error.append(float((found - lr * unit).norm() / (lr * unit).norm()))
    assert error[2] < 0.05
    assert error[0] / error[1] == pytest.approx(2, rel=0.2)
    assert error[1] / error[2] == pytest.approx(2, rel=0.2)


def test_what_anchors_tell_a_sample_is_what_the_sample_tells_the_anchors(build) -> None:
    # Information is symmetric: log p(A | W + lr g_z) - log p(A | W) is the same number, to first order.
    probe = build()
    names = linear_weights(probe.model)
    found = prepared(GradientScorer(1.0), probe)(BATCH, LAYOUT)[:3]
    error = []
    with torch.no_grad(), probe.quiet():
        before = sum(log_p(probe, batch).sum() for batch in ANCHORS)
    for lr in (2e-3, 1e-3):
        told = []
        for sample in SAMPLES[:3]:
            ascent = exact_gradient(probe, [padded([sample])], names)
            stepped = {name: probe.trainable[name].detach() + lr * ascent[name] for name in names}
            with torch.no_grad(), probe.quiet():
                told.append(sum(log_p(probe, batch, stepped).sum() for batch in ANCHORS) - before)
        error.append(float((torch.stack(told) - lr * found).norm() / (lr * found).norm()))
    assert error[1] < 0.05
    assert error[0] / error[1] == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("make", [GradientScorer, LookaheadScorer])
def test_normalised_by_token_is_nats_per_token(build, make: type[AnchorGradient]) -> None:
    probe = build()
    total = prepared(make(learning_rate=LR), probe)(BATCH, LAYOUT)
    per_token = prepared(make(learning_rate=LR, normalize="token"), probe)(BATCH, LAYOUT)
    assert torch.allclose(per_token * LAYOUT.tokens, total)


def test_gain_is_linear_in_the_learning_rate(build) -> None:
    probe = build()
    one, ten = (prepared(GradientScorer(lr), probe)(BATCH, LAYOUT) for lr in (1e-3, 1e-2))
    assert torch.allclose(10 * one, ten)


def test_an_anchor_tells_itself_something(build) -> None:
    # <g_A, g_A> > 0: the anchors' own gains sum to lr |g_A|^2.
    probe = build()
    scorer = prepared(GradientScorer(LR), probe)
    total = sum(scorer(batch, CausalLM().layout(batch)).sum() for batch in ANCHORS)
    ascent = exact_gradient(probe, ANCHORS, linear_weights(probe.model))
    assert float(total) == pytest.approx(LR * dot(ascent, ascent), rel=1e-5)


def test_the_direction_is_computed_every_so_many_steps_from_the_anchors_in_turn(build) -> None:
    probe = build()
    names = linear_weights(probe.model, 1)
    scorer = GradientScorer(LR, layers=1, every=5, anchor_batches=2)
    scorer.prepare(probe, ANCHORS, NO_SHADOW)
    for steps, chosen in ((range(5), [0, 1]), (range(5, 10), [2, 0]), (range(12, 13), [1, 2])):
        # Two of three batches stand for all: their gradient is scaled up.
        part = log_likelihood_gradient(probe, [ANCHORS[i] for i in chosen], names, 3 / 2)
        for step in steps:
            scorer.refresh(step)
            assert torch.allclose(scorer._direction[names[0]], part[names[0]])


def test_the_scaled_gradient_of_anchors_is_the_plain_one(build) -> None:
    probe = build()
    names = linear_weights(probe.model)
    exact = exact_gradient(probe, ANCHORS, names)
    found = log_likelihood_gradient(probe, ANCHORS, names, 2.0)
    assert all(torch.allclose(found[name], 2 * exact[name], rtol=1e-5, atol=1e-7) for name in names)


@TIED
def test_linear_weights_come_in_module_order_and_the_head_is_last(build, tied: bool) -> None:
    names = linear_weights(build(tied).model)
    assert len(names) == 2 * 7 + 1
    assert names[-1] == ("model.embed_tokens.weight" if tied else "lm_head.weight")
    assert linear_weights(build(tied).model, 3) == names[-3:]


def test_frozen_layers_are_left_out(build) -> None:
    probe = build()
    probe.model.model.requires_grad_(False)
    assert linear_weights(probe.model) == ["lm_head.weight"]
    probe.model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable linear layer; use `LikelihoodScorer`"):
        linear_weights(probe.model)


@pytest.mark.parametrize("make", [GradientScorer, LookaheadScorer])
def test_scoring_leaves_the_model_as_it_was(build, make: type[AnchorGradient]) -> None:
    probe = build()
    before, stream = probe.snapshot(), torch.get_rng_state()
    prepared(make(learning_rate=LR), probe)(BATCH, LAYOUT)
    assert all(torch.equal(before[name], p) for name, p in probe.trainable.items())
    assert all(p.grad is None for p in probe.trainable.values())
    assert all(module.training for module in probe.model.modules())
    assert torch.equal(stream, torch.get_rng_state())


def test_a_restart_keeps_the_direction_and_its_age(build) -> None:
    probe = build()
    scorer, resumed = (
        prepared(GradientScorer(LR, anchor_batches=2), probe, step=7),
        GradientScorer(LR, anchor_batches=2),
    )
    with torch.no_grad():
        probe.model.lm_head.weight.add_(0.1)  # training went on, and the direction is still young
    resumed.prepare(probe, ANCHORS, NO_SHADOW)
    resumed.load_state_dict(scorer.state_dict())
    for step in (20, 27):  # 27 is its time
        scorer.refresh(step)
        resumed.refresh(step)
        assert torch.equal(resumed(BATCH, LAYOUT), scorer(BATCH, LAYOUT))


def test_direction_of_layers_that_the_likelihood_does_not_see_is_no_gain(make_model) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model(vocab_size=VOCABULARY)
            self.idle = nn.Linear(2, 2)

        def forward(self, **inputs: Any) -> Any:
            return self.inner(**inputs)

    probe = Probe(Idle(), CausalLM())
    with pytest.raises(RuntimeError, match=r"not have been used"):
        prepared(GradientScorer(LR, layers=1), probe)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"learning_rate": 0.0}, "`learning_rate`"),
        ({"learning_rate": float("nan")}, "`learning_rate`"),
        ({"layers": 0}, "`layers`"),
        ({"every": 0}, "`every`"),
        ({"anchor_batches": 0}, "`anchor_batches`"),
        ({"normalize": "batch"}, "`normalize`"),
    ],
)
@pytest.mark.parametrize("make", [GradientScorer, LookaheadScorer])
def test_arguments_that_mean_nothing_are_refused_by_name(make: type[Scorer], arguments: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make(**arguments)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan")])
def test_a_step_of_no_length_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match="`relative_step`"):
        LookaheadScorer(step)


@pytest.mark.parametrize("scorer", [GradientScorer, LookaheadScorer])
def test_optimizer_aware_gain_is_the_inner_product_in_the_geometry_of_adam(build, scorer) -> None:
    probe = build()
    names = linear_weights(probe.model)
    optimizer = torch.optim.AdamW(probe.model.parameters(), lr=1e-3)
    aware = scorer(learning_rate=LR, optimizer_aware=True)
    aware.prepare(probe, ANCHORS, NO_SHADOW)
    aware.refresh(0, optimizer)
    assert aware(BATCH, LAYOUT).isnan().all()  # no second moments yet
    for _ in range(2):
        log_p(probe, BATCH).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    aware.refresh(0, optimizer)
    scale = {}
    for name in names:
        state = optimizer.state[probe.trainable[name]]
        scale[name] = 1 / ((state["exp_avg_sq"] / (1 - 0.999**2)).sqrt() + 1e-8)
    anchors = exact_gradient(probe, ANCHORS, names)
    each = [exact_gradient(probe, [padded([sample])], names) for sample in SAMPLES]
    scaled = {name: anchors[name] * scale[name] for name in names}
    exact = LR * torch.tensor([dot(scaled, gradient) for gradient in each], dtype=torch.float64)
    plain = LR * torch.tensor([dot(anchors, gradient) for gradient in each], dtype=torch.float64)
    found = aware(BATCH, LAYOUT)
    assert correlation(found, exact) >= 0.999
    assert correlation(plain, exact) < 0.999  # the geometry matters here
    if scorer is GradientScorer:
        assert torch.allclose(found.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def test_optimizer_awareness_without_second_moments_is_refused_by_name(build) -> None:
    probe = build()
    scorer = GradientScorer(optimizer_aware=True)
    scorer.prepare(probe, ANCHORS, NO_SHADOW)
    with pytest.raises(ValueError, match=r"set `engine\.optimizer`"):
        scorer.refresh(0, None)
    optimizer = torch.optim.SGD(probe.model.parameters(), lr=1e-3, momentum=0.9)
    log_p(probe, BATCH).sum().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="second moments, which SGD does not keep"):
        scorer.refresh(0, optimizer)
    bare = torch.optim.SGD(probe.model.parameters(), lr=1e-3)
    with pytest.raises(ValueError, match="second moments, which SGD does not keep"):
        scorer.refresh(0, bare)
    partial = torch.optim.AdamW(list(probe.model.parameters())[:1], lr=1e-3)
    with pytest.raises(ValueError, match="the optimiser does not train"):
        scorer.refresh(0, partial)
