"""Similarity: whitened cosine of mean hidden states to the nearest anchors."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS
from torch import Tensor, nn

from ggmi_callbacks import CausalLM, Filter, GainEngine, SampleLoss, SimilarityScorer
from ggmi_callbacks.model import Probe
from tests._batches import VOCABULARY, batches, packed, padded, samples, shadow_of

TASK = CausalLM()
SAMPLES = samples(6, seed=3, prompt=3)
ANCHORS = batches(8, size=4, seed=1)


class Table(nn.Module):
    """A language model whose state behind a token is the token's row of a table, whatever came before."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Embedding.from_pretrained(rows, freeze=False)])

    def forward(self, input_ids: Tensor, **_) -> SimpleNamespace:
        return SimpleNamespace(logits=self.blocks[0](input_ids))


def similarities(states: Tensor, counts: tuple[int, int, int], nearest: int = 2) -> Tensor:
    """Of the last ``counts[2]`` states; the first ones are anchors held out, those between anchors to be near to."""
    probe = Probe(Table(states), TASK)
    ids = torch.arange(len(states))[:, None].expand(-1, 2)
    heldout, near, new = ({"input_ids": part, "labels": part} for part in ids.split(counts))
    scorer = SimilarityScorer(nearest)
    scorer.prepare(probe, [heldout, near], shadow_of({}))
    return scorer(new, TASK.layout(new))


def by_hand(states: Tensor, counts: tuple[int, int, int], nearest: int = 2) -> np.ndarray:
    heldout, near, new = (part.numpy() for part in states.split(counts))
    law = OAS().fit(near)
    values, vectors = np.linalg.eigh(law.covariance_)

    def white(x: np.ndarray) -> np.ndarray:
        x = x @ vectors / np.sqrt(values)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def near_ones(x: np.ndarray) -> np.ndarray:
        return np.sort(white(x) @ white(near).T, axis=1)[:, -nearest:].mean(1)

    real = near_ones(heldout)
    return (near_ones(new) - np.median(real)) / real.std()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dimensions", [3, 40])
@pytest.mark.parametrize("nearest", [1, 4])
def test_it_is_the_cosine_under_the_shrunk_covariance_of_the_anchors(dimensions: int, nearest: int) -> None:
    """Also where the anchors are fewer than the dimensions."""
    counts = (9, 20, 7)
    states = normal(36, dimensions) @ normal(dimensions, dimensions, seed=1) + 5
    found = similarities(states, counts, nearest)
    assert np.allclose(found, by_hand(states, counts, nearest), atol=1e-6)


@pytest.mark.parametrize("dimensions", [3, 40])
def test_turns_and_the_unit_of_the_states_do_not_matter(dimensions: int) -> None:
    counts, states = (9, 20, 7), normal(36, dimensions) + 2
    turn = torch.linalg.qr(normal(dimensions, dimensions, seed=1)).Q
    changed = similarities(30 * states @ turn, counts)
    assert torch.allclose(changed, similarities(states, counts), atol=1e-6)


def test_no_invertible_linear_map_of_the_states_matters_once_there_are_enough_anchors() -> None:
    """The shrinkage, which is no such map's, goes with 1 / anchors."""
    skew = torch.tensor([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    difference = []
    for m in (40, 400, 4000):
        states = normal(m + 160, 3) + 1
        before, after = (similarities(x, (60, m, 100), nearest=m // 4) for x in (states, states @ skew))
        difference.append((after - before).abs().mean().item())
    assert difference[2] < 0.1 * difference[0]
    assert difference[2] < 0.02


def test_real_samples_have_zero_for_their_median_and_strangers_less() -> None:
    """Strangers differ in what the anchors have in common, by less than anchors differ among themselves elsewhere."""
    spread = torch.tensor([10.0] * 4 + [0.1] * 4, dtype=torch.float64)
    common = torch.tensor([0.0] * 4 + [2.0] * 4, dtype=torch.float64)
    real = normal(700, 8) * spread + common
    strange = normal(100, 8, seed=1) * spread + common.roll(2)
    found = similarities(torch.cat([real, strange]), (300, 100, 400))
    assert 0.4 < (found[:300] > 0).float().mean() < 0.6
    assert (found[300:] < found[:300].quantile(0.02)).all()


@pytest.fixture
def probe(make_model) -> Probe:
    return Probe(make_model(vocab_size=VOCABULARY).double(), TASK)


def prepared(probe: Probe, **settings) -> SimilarityScorer:
    scorer = SimilarityScorer(**settings)
    shadow = shadow_of({})
    shadow.heldout = [0, 1]
    scorer.prepare(probe, ANCHORS, shadow)
    return scorer


def gains(scorer: SimilarityScorer, batch: dict, n: int | None = None) -> Tensor:
    return scorer(batch, TASK.layout(batch, n))


def test_packed_padded_left_and_alone_it_is_the_same(probe: Probe) -> None:
    scorer = prepared(probe)
    expected = gains(scorer, padded(SAMPLES))
    assert expected.std() > 1e-3
    alone = torch.cat([gains(scorer, padded([sample])) for sample in SAMPLES])
    assert torch.allclose(gains(scorer, packed(SAMPLES), 6), expected, atol=1e-6)
    assert torch.allclose(gains(scorer, padded(SAMPLES, left=True)), expected, atol=1e-6)
    assert torch.allclose(alone, expected, atol=1e-6)


def test_a_row_behind_the_last_segment_counts_for_none(probe: Probe) -> None:
    scorer = prepared(probe)
    batch = packed([*SAMPLES, SAMPLES[0]])
    assert torch.allclose(gains(scorer, batch, 6), gains(scorer, padded(SAMPLES)), atol=1e-6)


def test_a_sample_without_targets_is_unknown_and_leaves_the_others_alone(probe: Probe) -> None:
    scorer = prepared(probe)
    ids, labels = SAMPLES[2]
    found = gains(scorer, padded([*SAMPLES[:2], (ids, torch.full_like(labels, -100)), *SAMPLES[3:]]))
    assert torch.equal(found.isnan(), torch.arange(6) == 2)
    assert torch.allclose(found[[0, 1, 3, 4, 5]], gains(scorer, padded(SAMPLES))[[0, 1, 3, 4, 5]], atol=1e-6)


def test_it_is_that_of_the_weights_before_training_and_outlives_a_restart(probe: Probe) -> None:
    scorer, batch = prepared(probe), padded(SAMPLES)
    before = scorer.score(batch, TASK.layout(batch))
    with torch.no_grad():
        for p in probe.model.parameters():
            p.add_(torch.randn_like(p))
    assert torch.equal(gains(scorer, batch), before.gain)
    resumed = prepared(probe)
    assert not torch.allclose(gains(resumed, batch), before.gain, atol=1e-3)
    resumed.load_state_dict(scorer.state_dict())
    after = resumed.score(batch, TASK.layout(batch))
    assert torch.equal(after.gain, before.gain)
    assert torch.equal(after.noise, before.noise)


def test_what_lies_above_the_layer_does_not_run_and_there_is_no_trace(probe: Probe) -> None:
    scorer, model = prepared(probe, layer=1), probe.model.train()
    for above in (model.lm_head, model.model.layers[1]):
        above.register_forward_hook(lambda *_: pytest.fail("more than the first block ran"))
    weights, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    gains(scorer, padded(SAMPLES))
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)


def test_an_adapter_that_has_learnt_nothing_changes_nothing(probe: Probe) -> None:
    from peft import LoraConfig, get_peft_model

    expected = gains(prepared(probe), padded(SAMPLES))
    adapted = Probe(get_peft_model(probe.model, LoraConfig(task_type="CAUSAL_LM")), TASK)
    assert torch.allclose(gains(prepared(adapted), padded(SAMPLES)), expected, atol=1e-6)


def test_bfloat16_is_near(make_model) -> None:
    probe = Probe(make_model(vocab_size=VOCABULARY), TASK)
    whole, half = (gains(prepared(probe, dtype=dtype), padded(SAMPLES)) for dtype in (None, torch.bfloat16))
    assert not torch.equal(whole, half)
    assert torch.allclose(whole, half, atol=0.2)


@pytest.mark.parametrize("layer", [1, 2])
def test_its_states_are_hugging_faces_behind_so_many_blocks(make_model, layer: int) -> None:
    """Of the last block before the norm, which Hugging Face applies to it."""
    probe = Probe(make_model(vocab_size=VOCABULARY).double(), TASK)
    probe.model.model.norm = nn.Identity()
    scorer, batch = prepared(probe, layer=layer), padded(SAMPLES)
    states = probe.model.eval()(**batch, output_hidden_states=True).hidden_states[layer][:, 1:]
    target = TASK.layout(batch).target
    means = torch.stack([row[chosen].mean(0) for row, chosen in zip(states, target, strict=True)])
    assert torch.allclose(scorer._states(batch, TASK.layout(batch)), means, atol=1e-6)


def test_two_thirds_of_the_blocks_are_the_default(make_model) -> None:
    probe = Probe(make_model(vocab_size=VOCABULARY, num_hidden_layers=6), TASK)
    assert prepared(probe)._block is probe.model.model.layers[3]


def test_its_unit_and_its_noise_are_the_spread_of_real_samples(probe: Probe) -> None:
    scorer, batch = prepared(probe), padded(SAMPLES)
    real = torch.cat([gains(scorer, batch) for batch in ANCHORS[:2]])  # those held out
    assert torch.allclose(real.std(correction=0), torch.ones(()).double())
    assert torch.equal(scorer.score(batch, TASK.layout(batch)).noise, torch.ones(6).double())


def test_the_engine_finds_it_once_for_each_sample(make_model, monkeypatch) -> None:
    model = make_model(vocab_size=VOCABULARY)
    engine = GainEngine(model, ANCHORS, scorer=SimilarityScorer(), policy=Filter(), num_samples=6, progress=False)
    engine.prepare()
    engine.observe({**padded(SAMPLES), "ggmi_sample": torch.arange(6)})
    engine.end_step()
    engine.log()
    monkeypatch.setattr(engine.scorer, "gain", lambda *_: pytest.fail("it was scored again"))
    engine.observe({**padded(SAMPLES), "ggmi_sample": torch.arange(6)})


def test_a_task_without_hidden_states_is_refused_by_name() -> None:
    task = SampleLoss(lambda model, batch: model(batch["x"]).square()[:, 0])
    anchors = [{"x": torch.randn(4, 1)} for _ in range(4)]
    with pytest.raises(ValueError, match=r"which SampleLoss does not have.*LikelihoodScorer"):
        SimilarityScorer().prepare(Probe(nn.Linear(1, 1), task), anchors, shadow_of({}))


def test_models_without_blocks_or_without_so_many_are_refused_by_name(probe: Probe) -> None:
    with pytest.raises(ValueError, match=r"Linear has no ModuleList.*LikelihoodScorer"):
        prepared(Probe(nn.Linear(1, 1), TASK))
    with pytest.raises(ValueError, match="`layer=3` is more than the model's 2 blocks"):
        prepared(probe, layer=3)


def test_a_block_that_the_forward_passes_by_is_refused_by_name() -> None:
    model = Table(normal(VOCABULARY, 4))
    model.forward = lambda input_ids, **_: SimpleNamespace(logits=torch.zeros(*input_ids.shape, VOCABULARY))
    with pytest.raises(ValueError, match="a forward of Table did not run its own block Embedding"):
        prepared(Probe(model, TASK))


def test_too_few_anchors_and_equal_ones_are_refused(probe: Probe) -> None:
    with pytest.raises(ValueError, match="more than 40 `anchors` beside the 8 that the shadow held out, got 24"):
        prepared(probe, nearest=40)
    with pytest.raises(ValueError, match="the 20 `anchors` have one and the same hidden state"):
        similarities(torch.ones(30, 3), (9, 20, 1))
    same = torch.cat([torch.ones(9, 3).double(), normal(21, 3)])
    with pytest.raises(ValueError, match="the 9 `anchors` that the shadow held out are all as near"):
        similarities(same, (9, 20, 1))


@pytest.mark.filterwarnings("default")
def test_a_zero_that_rests_on_few_anchors_is_said() -> None:
    with pytest.warns(UserWarning, match="rests on 3 held-out anchors"):
        similarities(normal(30, 3), (3, 20, 7))


@pytest.mark.parametrize("settings", [{"nearest": 0}, {"layer": 0}, {"dtype": torch.float64}])
def test_arguments_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must be"):
        SimilarityScorer(**settings)
