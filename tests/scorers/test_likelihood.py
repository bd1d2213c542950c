"""Gain as a likelihood ratio: nll under W less nll under the shadow."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from ggmi_callbacks import CausalLM, LikelihoodScorer, SampleLoss
from ggmi_callbacks.model import Probe, blocks, train_shadow
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
        assert torch.allclose(scorer(BATCH, LAYOUT), expected, rtol=1e-5, atol=1e-5)  # sums of float32 in another order
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


def tail_of(probe: Probe, layers: int) -> dict[str, Tensor]:
    """Moved weights of the last blocks only."""
    names = LikelihoodScorer(layers=layers).shadow_parameters(probe)
    return {name: p for name, p in moved(probe, 0.1).items() if name in names}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("batch", [BATCH, packed(SAMPLES)], ids=["padded", "packed"])
def test_a_shadow_of_the_last_blocks_gives_the_same_gain_whether_or_not_the_others_run_twice(
    probe: Probe, architecture: str, batch: dict[str, Tensor]
) -> None:
    if architecture == "gpt2":
        config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=3, n_head=2)
        probe = Probe(GPT2LMHeadModel(config).train(), CausalLM())
    shadow, layout = shadow_of(tail_of(probe, 1)), CausalLM().layout(batch, 6)
    shared, twice = LikelihoodScorer(layers=1), LikelihoodScorer()
    for scorer in (shared, twice):
        scorer.prepare(probe, ANCHORS, shadow)
    first = blocks(probe.model)[0]
    inside = first.get_submodule("input_layernorm" if architecture == "llama" else "ln_1")
    runs: list[int] = []
    counter = inside.register_forward_pre_hook(lambda *_: runs.append(1))
    found = shared(batch, layout)
    assert len(runs) == 1  # its forward was skipped the second time
    counter.remove()
    expected = twice(batch, layout)
    assert expected.abs().min() > 1e-3
    assert torch.allclose(found, expected, atol=2e-5)
    assert "forward" not in vars(first)  # the model is as it was
    train_a_little(probe)  # and the trunk is that of before training too
    assert torch.allclose(shared(batch, layout), expected, atol=2e-5)


def test_a_shadow_of_the_last_blocks_is_trained_in_them_alone(probe: Probe) -> None:
    names = LikelihoodScorer(layers=1).shadow_parameters(probe)
    assert names
    assert all(".layers.1." in name for name in names)
    shadow = train_shadow(probe, ANCHORS, learning_rate=1e-2, names=names, epochs=1, progress=False)
    assert set(shadow.parameters) == set(names)


def test_a_wider_shadow_than_layers_is_refused(probe: Probe) -> None:
    scorer = LikelihoodScorer(layers=1)
    with pytest.raises(ValueError, match="the shadow has trained more than those"):
        scorer.prepare(probe, ANCHORS, shadow_of(moved(probe, 0.05)))


def test_a_model_that_is_no_chain_of_blocks_is_refused(probe: Probe) -> None:
    """Its last block also gets what is made inside the first one, which is not run a second time."""
    first, last = blocks(probe.model)[0], blocks(probe.model)[-1]
    kept: list[Tensor] = []
    first.mlp.register_forward_hook(lambda module, args, output: kept.append(output))
    last.register_forward_hook(lambda module, args, output: output + 1e4 * kept.pop() if kept else output)
    names = LikelihoodScorer(layers=1).shadow_parameters(probe)
    with pytest.raises(ValueError, match="are not a plain chain"):
        LikelihoodScorer(layers=1).prepare(probe, ANCHORS, shadow_of({k: moved(probe, 0.1)[k] for k in names}))


def test_blocks_that_run_twice_a_forward_are_refused(probe: Probe) -> None:
    twice = Probe(probe.model, SampleLoss(lambda model, batch: -sum(TASK_OF(model, batch) for _ in range(2))))
    scorer = LikelihoodScorer(layers=1)
    names = scorer.shadow_parameters(twice)
    with pytest.raises(ValueError, match="blocks run more than once in a forward"):
        scorer.prepare(twice, ANCHORS, shadow_of({k: moved(probe, 0.1)[k] for k in names}))


def TASK_OF(model, batch) -> Tensor:
    return CausalLM().log_probs(model, batch).sum(1)


def test_every_second_position_is_scored_exactly_and_scaled_up(probe: Probe) -> None:
    shadow = moved(probe, 0.05)
    scorer = LikelihoodScorer(stride=2)
    scorer.prepare(probe, ANCHORS, shadow_of(shadow))
    with torch.no_grad(), probe.quiet():
        tokens = probe.log_probs(BATCH, shadow) - probe.log_probs(BATCH)
    even = LAYOUT.target & (torch.arange(LAYOUT.target.shape[1]) % 2 == 0)
    expected = (tokens * even).sum(1) * LAYOUT.tokens / even.sum(1)
    assert torch.allclose(scorer(BATCH, LAYOUT), expected, atol=2e-5)
    one = even.sum(1) == 1
    assert torch.equal(scorer.score(BATCH, LAYOUT).noise.isnan(), one & (LAYOUT.tokens > 1))
    together = packed(SAMPLES)
    with pytest.raises(ValueError, match="needs one sample a row; this batch is packed"):
        scorer(together, CausalLM().layout(together, 6))


def test_scoring_in_lower_precision_keeps_the_gains(probe: Probe) -> None:
    exact, low = LikelihoodScorer(), LikelihoodScorer(dtype=torch.bfloat16)
    for scorer in (exact, low):
        scorer.prepare(probe, ANCHORS, shadow_of(moved(probe, 0.05)))
    difference = low(BATCH, LAYOUT) - exact(BATCH, LAYOUT)
    assert difference.abs().max() > 0  # it was in effect
    # Eight bits: each of up to eight targets is off by some hundredths of a nat.
    assert difference.abs().max() < 0.1


def test_noise_is_the_standard_error_of_a_sum_over_targets(probe: Probe) -> None:
    shadow = moved(probe, 0.05)
    scorer = LikelihoodScorer()
    scorer.prepare(probe, ANCHORS, shadow_of(shadow))
    with torch.no_grad(), probe.quiet():
        tokens = probe.log_probs(BATCH, shadow) - probe.log_probs(BATCH)
    each = [row[target] for row, target in zip(tokens, LAYOUT.target, strict=True)]
    expected = torch.stack([row.std() * len(row) ** 0.5 for row in each])
    assert torch.allclose(scorer.score(BATCH, LAYOUT).noise, expected, rtol=1e-4)
    together = packed(SAMPLES)
    noise = scorer.score(together, CausalLM().layout(together, 6)).noise
    assert torch.allclose(noise, expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 0}, "`layers` must be at least 1, got 0"),
        ({"stride": 0}, "`stride` must be at least 1, got 0"),
        ({"dtype": "bfloat16"}, "`dtype` must be torch.bfloat16, torch.float16 or None, got 'bfloat16'"),
        ({"layers": 1, "reference": "current"}, "use reference='initial'"),
    ],
)
def test_cheap_scoring_that_cannot_be_is_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LikelihoodScorer(**arguments)


def test_more_layers_than_blocks_are_refused_by_name(probe: Probe) -> None:
    with pytest.raises(ValueError, match=r"`layers=9` is more than the model's 2 blocks"):
        LikelihoodScorer(layers=9).shadow_parameters(probe)


def test_arguments_that_mean_nothing_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`reference` must be 'initial' or 'current', got 'last'"):
        LikelihoodScorer("last")
    with pytest.raises(ValueError, match="`normalize` must be None or 'token', got 'sample'"):
        LikelihoodScorer(normalize="sample")


class Normed(nn.Module):
    """Numbers through batch norm: a model with buffers that a training forward moves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x))


@pytest.mark.parametrize("reference", ["initial", "current"])
def test_gains_of_a_model_with_buffers_do_not_drift_with_its_running_statistics(reference: str) -> None:
    task = SampleLoss(lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none"))
    model = Normed().train()
    probe = Probe(model, task)
    anchors = [{"x": torch.randn(8, 4), "y": torch.randint(2, (8,))} for _ in range(4)]
    shadow = train_shadow(probe, anchors, learning_rate=1e-2, progress=False)
    scorer = LikelihoodScorer(reference)
    scorer.prepare(probe, anchors, shadow)
    layout = task.layout(anchors[0])
    before, lengths = scorer(anchors[0], layout), probe.nll(anchors[0], layout)
    for _ in range(5):
        model(3 + 2 * torch.randn(8, 4))  # training forwards, on data of another scale
    after = probe.nll(anchors[0], layout)
    assert not torch.allclose(after, lengths)
    if reference == "initial":
        assert torch.equal(scorer(anchors[0], layout), before)
    else:  # W moves with its buffers, and W' stays
        assert torch.allclose(scorer(anchors[0], layout), before + after - lengths, atol=1e-5)
    assert model.norm.num_batches_tracked == 5


@pytest.mark.parametrize(("own", "run"), [(None, torch.bfloat16), (torch.bfloat16, None)])
def test_its_precision_is_that_of_the_run_unless_it_has_its_own(probe: Probe, own, run) -> None:
    exact, scorer = LikelihoodScorer(), LikelihoodScorer(dtype=own)
    shadow = shadow_of(moved(probe, 0.05))
    for each in (exact, scorer):
        each.prepare(probe, ANCHORS, shadow)
    plain = exact(BATCH, LAYOUT)
    probe.autocast_dtype = run
    found = scorer(BATCH, LAYOUT)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(scorer(BATCH, LAYOUT), found)
    assert probe.autocast_dtype is run
    assert 0 < (found - plain).abs().max() < 0.1
    probe.autocast_dtype = torch.bfloat16
    assert torch.equal(exact(BATCH, LAYOUT), found)
