"""Scores that need no model, and several scores at once."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import (
    AgreementScorer,
    CausalLM,
    ColumnScorer,
    DataScorer,
    DistinctScorer,
    Filter,
    GainEngine,
    GradientScorer,
    JointScorer,
    LikelihoodScorer,
    Scorer,
    SiblingScorer,
)
from ggmi_callbacks.data import SampleData
from ggmi_callbacks.model import Probe
from ggmi_callbacks.scorers import PromptInformationScorer, Score
from tests._batches import VOCABULARY, batches, packed, padded, samples, shadow_of

TASK = CausalLM()
SAMPLES = samples(6, seed=3)
BATCH, LAYOUT = padded(SAMPLES), TASK.layout(padded(SAMPLES))
ANCHORS = batches(6, seed=4)


def repeating(*ids: int, prompt: int = 2) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor(ids)
    return tokens, torch.cat([torch.full((prompt,), -100), tokens[prompt:]])


TEXTS = [
    repeating(5, 6, 3, 4, 3, 4, 3, 4),  # targets 3 4 3 4 3 4: bigrams 34 43 34 43 34, two of five distinct
    repeating(3, 4, 3, 4, 5, 6, 7),  # targets 3 4 5 6 7: all four distinct, and none of the prompt's
    repeating(3, 3, 3),  # one target: no bigram
    repeating(9, 9, 7, 7, 7, 7, 7, 7, 7),  # seven times the same: one of six
]
WANTED = torch.tensor([math.log(2 / 5), 0.0, 0.0, math.log(1 / 6)])


@pytest.mark.parametrize("form", ["right", "left", "packed", "alone"])
def test_novelty_is_the_log_share_of_distinct_n_grams_among_targets(form: str) -> None:
    scorer = DistinctScorer(n=2)
    if form == "alone":
        found = torch.cat([scorer(b, TASK.layout(b)) for b in (padded([text]) for text in TEXTS)])
    else:
        batch = packed(TEXTS) if form == "packed" else padded(TEXTS, left=form == "left")
        found = scorer(batch, TASK.layout(batch, len(TEXTS)))
    assert torch.allclose(found, WANTED)


def test_no_n_gram_reaches_from_one_packed_sample_into_the_next() -> None:
    batch = packed([repeating(3, 7, prompt=0), repeating(7, 7, 7, prompt=0)])  # 7 | 7 7 7, all of them targets
    found = DistinctScorer(n=2)(batch, TASK.layout(batch, 2))
    assert torch.allclose(found, torch.tensor([0.0, math.log(1 / 2)]))


def test_distinct_refuses_what_it_cannot_count() -> None:
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        DistinctScorer(n=0)
    with pytest.raises(ValueError, match="the batch has no `labels`"):
        DistinctScorer()({"x": torch.zeros(2)}, LAYOUT)


class Told(Scorer):
    """Gains by first token: ``table[ids[0]]``, with a noise of a tenth."""

    static = True

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def gain(self, inputs, layout) -> Tensor:
        return self.table[inputs["input_ids"][:, 0]]

    def noisy_gain(self, inputs, layout) -> Score:
        return Score(self.gain(inputs, layout), self.gain(inputs, layout).abs() / 10)


pytestmark = pytest.mark.filterwarnings("ignore:the scale of JointScorer")


@pytest.fixture
def probe(make_model) -> Probe:
    return Probe(make_model(vocab_size=VOCABULARY), TASK)


def moved(probe: Probe, by: float) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {name: p + by * torch.randn(p.shape, generator=draw) for name, p in probe.snapshot().items()}


def shadow_with(probe: Probe, heldout: list[int]):
    shadow = shadow_of(moved(probe, 0.05))
    shadow.heldout = heldout
    return shadow


def test_the_worst_count_decides_on_the_scale_of_the_held_out_anchors(probe: Probe) -> None:
    draw = torch.Generator().manual_seed(0)
    tables = [scale * torch.randn(VOCABULARY, generator=draw) + shift for scale, shift in ((1, 5), (30, -200))]
    joint = JointScorer([Told(t) for t in tables], tolerance=1.5)
    joint.prepare(probe, ANCHORS, shadow_with(probe, [1, 3, 4]))
    held = torch.cat([ANCHORS[i]["input_ids"][:, 0] for i in (1, 3, 4)])
    here = BATCH["input_ids"][:, 0]
    each, noise = [], []
    for table in tables:
        center = table[held].quantile(0.5)
        spread = 1.4826 * (table[held] - center).abs().quantile(0.5)
        each.append((table[here] - center) / spread)
        noise.append(table[here].abs() / 10 / spread)
    worst = torch.stack(each).min(0)
    score = joint.score(BATCH, LAYOUT)
    assert len(set(worst.indices.tolist())) == 2  # either decides somewhere
    assert torch.allclose(score.gain, 1.5 + worst.values, rtol=1e-5)
    assert torch.allclose(score.noise, torch.stack(noise).gather(0, worst.indices[None])[0], rtol=1e-5)


def test_what_several_scores_need_is_run_once(probe: Probe) -> None:
    joint = JointScorer()
    joint.prepare(probe, ANCHORS, shadow_with(probe, [0, 1]))
    expected = [s(BATCH, LAYOUT) for s in joint.scorers]
    runs: list[int] = []
    probe.model.register_forward_pre_hook(lambda *_: runs.append(1))
    found = joint(BATCH, LAYOUT)
    assert len(runs) == 3  # initial weights, shadow, and shadow without prompts
    scaled = (torch.stack(expected) - joint._center) / joint._spread
    assert torch.equal(found, 2.0 + scaled.amin(0))
    joint(BATCH, LAYOUT)
    assert len(runs) == 6  # nothing is remembered beyond a batch


def test_one_vice_is_not_paid_for_by_virtues(probe: Probe) -> None:
    """An anchor passes; the same one, its answer repeated or its prompt exchanged, does no better anywhere."""
    joint = JointScorer()
    joint.prepare(probe, ANCHORS, shadow_with(probe, [0, 1, 2, 3]))
    typical = torch.cat([joint(b, TASK.layout(b)) for b in ANCHORS[:4]])
    assert typical.median() > 0
    loop = padded([repeating(3, 4, *([5, 6] * 10))])
    assert joint(loop, TASK.layout(loop)) < typical.min()


def test_a_restart_keeps_scale_and_weights(probe: Probe) -> None:
    shadow = shadow_with(probe, [0, 1])
    joint, resumed = JointScorer(), JointScorer()
    joint.prepare(probe, ANCHORS, shadow)
    expected = joint(BATCH, LAYOUT)
    saved = io.BytesIO()
    torch.save(joint.state_dict(), saved)
    saved.seek(0)
    with torch.no_grad():
        for name, p in moved(probe, 0.2).items():
            probe.trainable[name].copy_(p)
    resumed.prepare(probe, ANCHORS, shadow)
    assert not torch.equal(resumed(BATCH, LAYOUT), expected)
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(resumed(BATCH, LAYOUT), expected)


def test_the_shadow_is_that_of_the_scorer_that_restricts_it(probe: Probe) -> None:
    tail = LikelihoodScorer(layers=1)
    assert JointScorer([PromptInformationScorer(), tail]).shadow_parameters(probe) == tail.shadow_parameters(probe)
    assert JointScorer().shadow_parameters(probe) is None


def test_a_shadow_of_some_layers_is_completed_by_the_weights_from_before_training(probe: Probe) -> None:
    """Else every scorer but the one that asked for it would follow the live weights below those layers."""
    tail = LikelihoodScorer(layers=1)
    shadow = shadow_of({k: p for k, p in moved(probe, 0.1).items() if k in tail.shadow_parameters(probe)})
    shadow.heldout = [0, 1, 2, 3, 4]
    for scorers in ([tail, PromptInformationScorer()], [LikelihoodScorer(), tail]):
        joint = JointScorer(scorers)
        joint.prepare(probe, ANCHORS, shadow)
        expected = [s(BATCH, LAYOUT) for s in joint.scorers], joint(BATCH, LAYOUT)
        state, before = joint.state_dict(), probe.snapshot()
        with torch.no_grad():
            for name, p in moved(probe, 0.2).items():
                probe.trainable[name].copy_(p)
        assert torch.allclose(joint(BATCH, LAYOUT), expected[1], atol=1e-4)
        for found, wanted in zip((s(BATCH, LAYOUT) for s in joint.scorers), expected[0], strict=True):
            assert torch.allclose(found, wanted, atol=1e-4)
        resumed = JointScorer(scorers)
        resumed.prepare(probe, ANCHORS, shadow)
        resumed.load_state_dict(state)
        assert torch.allclose(resumed(BATCH, LAYOUT), expected[1], atol=1e-4)
        with torch.no_grad():
            for name, p in before.items():
                probe.trainable[name].copy_(p)


def test_different_layers_are_refused(probe: Probe) -> None:
    with pytest.raises(ValueError, match="give them the same `layers`"):
        JointScorer([LikelihoodScorer(layers=1), LikelihoodScorer(layers=2)]).shadow_parameters(probe)


def test_anchors_without_a_score_do_not_make_the_scale(probe: Probe) -> None:
    mixed = [{**ANCHORS[0], "labels": ANCHORS[0]["labels"].clone()}, *ANCHORS[1:]]
    bad = torch.zeros(VOCABULARY)
    bad[mixed[0]["input_ids"][0, 0]] = float("nan")
    table = torch.arange(VOCABULARY).float() + bad
    joint = JointScorer([Told(table)])
    joint.prepare(probe, mixed, shadow_with(probe, [0, 1, 2, 3]))
    assert joint._center.isfinite().all()
    with pytest.raises(ValueError, match="`anchors` that the shadow held out cannot be scored"):
        JointScorer([Told(table * float("nan"))]).prepare(probe, ANCHORS, shadow_with(probe, [0]))
    with pytest.warns(UserWarning, match="rests on 2 held-out anchors"):
        JointScorer([Told(torch.arange(VOCABULARY).float())]).prepare(probe, ANCHORS, shadow_with(probe, [0]))


def test_scores_that_change_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`scorers` must be static, and GradientScorer, LikelihoodScorer change"):
        JointScorer([GradientScorer(), LikelihoodScorer("current")])
    with pytest.raises(ValueError, match="`scorers` must name at least one"):
        JointScorer([])


def test_it_needs_the_shadow_if_one_of_its_scorers_does() -> None:
    told = Told(torch.zeros(VOCABULARY))
    assert JointScorer().needs_shadow
    assert JointScorer([DistinctScorer(), LikelihoodScorer()]).needs_shadow
    assert not JointScorer([DistinctScorer(), PromptInformationScorer(), told]).needs_shadow
    assert not GradientScorer().needs_shadow


def test_a_filter_on_joint_scores_is_refused_where_the_shadow_has_learnt_nothing(probe: Probe) -> None:
    noise = batches(16, seed=4)
    settings = {"learning_rate": 1e-30, "progress": False}
    with pytest.raises(ValueError, match=r"did not shorten the held-out ones .* so Filter has no gain to act on"):
        GainEngine(probe.model, noise, policy=Filter(), scorer=JointScorer(), **settings).prepare()
    # A score that needs no shadow acts all the same, and nobody is warned.
    GainEngine(probe.model, noise, policy=Filter(), scorer=JointScorer([DistinctScorer()]), **settings).prepare()


def test_a_score_that_a_sample_does_not_have_does_not_count(probe: Probe) -> None:
    joint = JointScorer()
    joint.prepare(probe, ANCHORS, shadow_with(probe, [0, 1, 2, 3]))
    mixed = padded([*SAMPLES[:5], (SAMPLES[5][0], SAMPLES[5][0])])  # every token of the last one has a label
    score = joint.score(mixed, TASK.layout(mixed))
    prompts = joint.parts.index("promptinformation")
    assert score.parts[prompts].isnan().tolist() == [False] * 5 + [True]
    assert score.gain.isfinite().all()
    assert score.noise.isfinite().all()


def test_a_sample_without_any_score_is_unknown() -> None:
    joint = JointScorer([ColumnScorer("a"), ColumnScorer("b")])
    joint.read(SampleData([{"a": 1.0, "b": None}, {"a": None, "b": None}, {"a": 0.0, "b": 1.0}]))
    found = joint.known()
    assert found.gain.isnan().tolist() == [False, True, False]
    assert found.noise.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(("combine", "expected"), [("least", [1.0, -1.0, -1.0]), ("sum", [2.0, 0.0, 0.0])])
def test_scores_of_the_data_join_in_units_of_their_spread(combine: str, expected: list[float]) -> None:
    """Columns of -1 and 1 and of -10 and 10 weigh alike; the ledger keeps each in its own unit."""
    rows = [{"a": 1.0, "b": 10.0}, {"a": 1.0, "b": -10.0}, {"a": -1.0, "b": 10.0}, {"a": -1.0, "b": -10.0}]
    joint = JointScorer([ColumnScorer("a"), ColumnScorer("b")], combine=combine)
    joint.read(SampleData(rows))
    found = joint.known()
    assert found.gain[:3].tolist() == pytest.approx(expected)
    assert found.parts[:, 0].tolist() == [1.0, 10.0]
    assert joint.parts == ("a", "b")


def test_scores_of_model_and_data_join_and_stand_in_the_ledger(probe: Probe) -> None:
    joint = JointScorer([LikelihoodScorer(), ColumnScorer("reward")])
    engine = GainEngine(
        probe.model, ANCHORS, scorer=joint, overhead=0.9, data=[{"reward": float(i)} for i in range(6)],
        learning_rate=1e-2, progress=False,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="gains against the shadow are noise"):
        engine.prepare()
    engine.observe({**BATCH, "ggmi_sample": torch.arange(6)})
    engine.log()
    table = engine.ledger.table
    assert table["gain/reward"].to_pylist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert all(value is not None for value in table["gain/likelihood"].to_pylist())


class Known(DataScorer):
    """Gains and standard errors by id."""

    def __init__(self, gains: list[float], noise: float) -> None:
        super().__init__()
        self.gains, self.noise = torch.tensor(gains), noise

    def values(self, data) -> Tensor:
        return self.gains

    def known(self) -> Score:
        return Score(self.gains, torch.full_like(self.gains, self.noise))


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.0, 5.0])
def test_a_sample_is_dropped_if_and_only_if_one_of_its_scores_is_surely_below_its_own_zero(margin: float) -> None:
    draw = torch.Generator().manual_seed(0)
    gains = torch.randn(3, 200, generator=draw)
    gains[0, :50], gains[2, 40:90] = float("nan"), float("nan")
    parts = [Known(g.tolist(), noise) for g, noise in zip(gains, (0.0, 0.5, 1.0), strict=True)]
    joint, policy = JointScorer(parts, zero="own"), Filter(margin=margin)
    joint.read(SampleData([{}] * 200))
    joint.margin = policy.margin
    found = joint.known()
    surely_bad = torch.stack([p.gains + margin * p.noise <= 0 for p in parts]).any(0)
    assert torch.equal(policy(found.gain, noise=found.noise) == 0, surely_bad)
    assert 0 < surely_bad.sum() < 200


def test_a_noisy_score_does_not_hide_one_that_is_surely_below_zero() -> None:
    """-9 with a noise of 5 may be noise, -1 without any is not, though -9 is the least, in spreads too."""
    joint, policy = JointScorer([Known([-9.0, 5.0], 5.0), Known([-1.0, 1.0], 0.0)], zero="own"), Filter()
    joint.read(SampleData([{}] * 2))
    joint.margin = policy.margin
    found = joint.known()
    assert policy(found.gain, noise=found.noise).tolist() == [0.0, 1.0]
    assert found.noise[0] == 0


def test_the_engine_tells_its_scorer_the_margin_of_its_policy(probe: Probe) -> None:
    joint = JointScorer([Known([-9.0, 5.0], 5.0), Known([-1.0, 1.0], 0.0)], zero="own")
    engine = GainEngine(
        probe.model, ANCHORS, policy=Filter(margin=3), scorer=joint, data=[{}] * 2, learning_rate=1e-3, progress=False
    )
    engine.prepare()
    assert joint.margin == 3
    assert engine.keeps().tolist() == [False, True]


def test_with_its_own_zero_a_score_of_the_model_keeps_its_sign(probe: Probe) -> None:
    table = torch.linspace(-5, 30, VOCABULARY)
    joint = JointScorer([Told(table)], zero="own")
    joint.prepare(probe, ANCHORS, shadow_with(probe, [1, 3, 4]))
    score = joint.score(BATCH, LAYOUT)
    assert torch.equal(score.gain > 0, table[BATCH["input_ids"][:, 0]] > 0)
    assert torch.allclose(score.gain * joint._spread[0], score.parts[0])
    assert joint.unit == "spreads"


def test_a_score_without_a_standard_error_does_not_count() -> None:
    joint = JointScorer([Known([-3.0, 5.0], float("nan")), Known([1.0, -1.0], 0.0)], zero="own")
    joint.read(SampleData([{}] * 2))
    assert joint.known().gain.tolist() == pytest.approx([1.0, -1.0])


def test_a_zero_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="`zero` must be 'anchors' or 'own', got 'mine'"):
        JointScorer(zero="mine")
    with pytest.raises(ValueError, match=r"`tolerance` counts from the anchors; .* got 1.0"):
        JointScorer([LikelihoodScorer()], tolerance=1.0, zero="own")
    with pytest.raises(ValueError, match="no DistinctScorer exceeds its own zero"):
        JointScorer(zero="own")


def test_what_a_part_tells_of_the_set_is_told_once() -> None:
    rows = [{"p": i // 2, "text": f"{i // 4} {i % 3}", "reward": 1.0} for i in range(20)]
    agreed, votes = (
        AgreementScorer("p", text="text"),
        AgreementScorer("p", answer=lambda text: text, text="text", seed=1),
    )
    joint = JointScorer([ColumnScorer("reward"), agreed, votes])
    joint.read(SampleData(rows))
    assert agreed.summary() != votes.summary()  # other strangers
    assert joint.summary() == agreed.summary()


def test_siblings_have_no_scale_on_anchors_and_are_refused_but_for_labels() -> None:
    with pytest.raises(ValueError, match="give SiblingScorer no scale: join it by `label=`"):
        JointScorer([LikelihoodScorer(), SiblingScorer()])
    JointScorer([LikelihoodScorer(), SiblingScorer()], label="right")
