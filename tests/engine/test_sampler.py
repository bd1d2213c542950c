"""Samples are drawn as often as a policy weighs them, and what is found while training counts from then on."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from ggmi_callbacks import CarryIds, ColumnScorer, Filter, GainEngine, GainSampler, LikelihoodScorer, Numbered, Reweight
from tests._batches import padded
from tests._loop import ANCHORS, runs

REWARDS = [0.0, 1.0, 2.0, 3.0, None]


def engine_of(make_model, **settings) -> GainEngine:
    rows = [{"reward": REWARDS[i % 5]} for i in range(20)]
    given = {"data": rows, "scorer": ColumnScorer("reward", threshold=1.5), **settings}
    engine = GainEngine(make_model(), ANCHORS, progress=False, **given)
    engine.prepare()
    return engine


def test_draws_follow_the_weights(make_model):
    engine = engine_of(make_model)
    sampler = GainSampler(engine, Reweight(temperature=0.5), num_samples=20_000, seed=1)
    gains = torch.tensor([float("nan") if r is None else r - 1.5 for r in REWARDS * 4])
    wanted = Reweight(temperature=0.5)(gains)
    assert wanted[4] == 1.0
    torch.testing.assert_close(sampler.weights().float(), wanted)
    share = torch.bincount(torch.tensor(list(sampler)), minlength=20) / 20_000
    # A share p has a standard error of sqrt(p (1 - p) / 20,000), at most .0025 for these.
    torch.testing.assert_close(share, wanted / wanted.sum(), atol=0.01, rtol=0)


def test_what_training_finds_counts_from_then_on(make_model):
    data = Numbered([{"pair": pair} for pair in runs(12)])
    engine = GainEngine(
        make_model(),
        ANCHORS,
        scorer=LikelihoodScorer(),
        num_samples=12,
        overhead=0.99,
        progress=False,
        learning_rate=1e-2,
    )
    engine.prepare()
    sampler = GainSampler(engine, num_samples=64)
    assert torch.equal(sampler.weights(), torch.ones(12, dtype=torch.float64))
    loader = DataLoader(data, 4, sampler=sampler, collate_fn=CarryIds(lambda f: padded([x["pair"] for x in f])))
    for batch in loader:
        engine.observe(batch)
        engine.end_step()
    gains = dict(zip(engine.ledger.table["id"].to_pylist(), engine.ledger.table["gain"].to_pylist(), strict=True))
    by_id = torch.tensor([gains.get(i, float("nan")) for i in range(12)])
    torch.testing.assert_close(sampler.weights().float(), Reweight()(by_id))


def test_epochs_differ_and_equal_seeds_agree(make_model):
    engine = engine_of(make_model)
    one, other = (GainSampler(engine, seed=3) for _ in range(2))
    first = list(one)
    assert first == list(other)
    assert list(one) != first
    assert len(first) == len(one) == 20


def test_what_cannot_be_drawn_by_is_refused(make_model):
    with pytest.raises(ValueError, match=r"acts by Filter.*gains would count twice"):
        GainSampler(engine_of(make_model, policy=Filter()))
    with pytest.raises(ValueError, match="change with the weights"):
        GainSampler(engine_of(make_model, scorer=LikelihoodScorer(reference="current")))
    with pytest.raises(ValueError, match=r"GainEngine\(num_samples=len\(data\)\)"):
        GainSampler(engine_of(make_model, data=None, scorer=LikelihoodScorer()))
    with pytest.raises(ValueError, match="keeps none of the 15 samples"):
        list(GainSampler(engine_of(make_model, data=[{"reward": 0.0}] * 15), Filter()))
    with pytest.raises(RuntimeError, match=r"engine\.prepare\(\)"):
        list(GainSampler(GainEngine(make_model(), ANCHORS, num_samples=4, progress=False)))
