"""Scores joined by labels: log-odds that are known in closed form, and how well it says that it does."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ggmi_callbacks import CausalLM, ColumnScorer, Filter, GainEngine, JointScorer, LikelihoodScorer
from ggmi_callbacks.data import SampleData
from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.scorers._calibration import auroc_interval
from tests._batches import VOCABULARY, batches, padded, samples, shadow_of

pytest.importorskip("sklearn")

# Two scores, N(mean, deviation^2) of right and of wrong answers; a third of the answers are right.
RIGHT, WRONG, DEVIATION, SHARE = torch.tensor([2.0, 10.0]), torch.tensor([1.0, 14.0]), torch.tensor([1.0, 8.0]), 1 / 3
TASK = CausalLM()


def gaussians(n: int, seed: int = 0, missing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Scores [2, n] and labels [n]; of the second score a share is missing."""
    draw = torch.Generator().manual_seed(seed)
    right = torch.rand(n, generator=draw) < SHARE
    scores = torch.where(right, RIGHT[:, None], WRONG[:, None]) + DEVIATION[:, None] * torch.randn(2, n, generator=draw)
    scores[1, torch.rand(n, generator=draw) < missing] = float("nan")
    return scores, right


def log_odds(scores: Tensor) -> Tensor:
    """The exact ones, of the scores that are known."""
    distance = (WRONG[:, None] - scores).square() - (RIGHT[:, None] - scores).square()
    return (distance / (2 * DEVIATION[:, None].square())).nansum(0) + math.log(SHARE / (1 - SHARE))


def rows_of(scores: Tensor, labels: list) -> SampleData:
    values = [[None if math.isnan(v) else v for v in column] for column in scores.T.tolist()]
    return SampleData([{"a": a, "b": b, "right": label} for (a, b), label in zip(values, labels, strict=True)])


def calibrated(scores: Tensor, labels: list) -> JointScorer:
    joint = JointScorer([ColumnScorer("a", threshold=0), ColumnScorer("b", threshold=0)], label="right")
    joint.read(rows_of(scores, labels))
    return joint


def test_gain_is_the_log_odds_of_being_right() -> None:
    scores, right = gaussians(2000)
    joint = calibrated(scores, right.tolist())
    weights = joint.summary()["calibration"]["weights"]
    exact = (RIGHT - WRONG) / DEVIATION.square()
    # sqrt of the inverse Fisher information of 2,000 samples is below 0.06 per standard deviation; ridge adds less
    deviation = scores.std(1)
    assert weights["a"] == pytest.approx(float(exact[0] * deviation[0]), abs=0.18)
    assert weights["b"] == pytest.approx(float(exact[1] * deviation[1]), abs=0.18)
    fresh, truth = gaussians(2000, seed=1)
    found = joint._join(fresh, torch.zeros_like(fresh)).gain
    assert (found - log_odds(fresh)).abs().median() < 0.15
    assert found.sigmoid().sum() == pytest.approx(float(truth.sum()), abs=3 * math.sqrt(2000 * SHARE * (1 - SHARE)))
    assert joint.unit == "nats, log-odds"


def test_a_missing_score_leaves_the_odds_of_the_others() -> None:
    scores, right = gaussians(2000, missing=0.4)
    joint = calibrated(scores, right.tolist())
    found = joint.known()
    unknown = scores[1].isnan()
    assert (found.gain - log_odds(scores))[unknown].abs().median() < 0.15
    assert (found.gain - log_odds(scores))[~unknown].abs().median() < 0.15
    nothing = joint._join(torch.full((2, 1), float("nan")), torch.zeros(2, 1))
    assert nothing.gain.isnan().all()
    assert nothing.noise.isnan().all()


def test_it_says_how_well_it_tells_right_from_wrong_on_held_out_labels() -> None:
    """AUROC of Gaussian scores: Phi(d' / sqrt 2), d' the distance of the means in deviations."""
    distance = ((RIGHT - WRONG) / DEVIATION).square().sum().sqrt()
    exact = float(torch.special.ndtr(distance / math.sqrt(2)))
    found = []
    for seed in range(20):
        scores, right = gaussians(500, seed)
        found.append(calibrated(scores, right.tolist()).summary()["calibration"])
    covered = [one["auroc_low"] < exact < one["auroc_high"] for one in found]
    assert sum(covered) >= 16  # of 20, at 95 %
    assert sum(one["auroc"] for one in found) / 20 == pytest.approx(exact, abs=0.015)  # three standard errors
    assert all(one["auroc_high"] - one["auroc_low"] < 0.1 for one in found)


def test_scores_that_say_nothing_have_an_auroc_of_a_half() -> None:
    """In-sample it would be above: the held-out one is not."""
    draw = torch.Generator().manual_seed(0)
    intervals = []
    for _ in range(20):
        labels = (torch.rand(60, generator=draw) < 0.5).tolist()
        intervals.append(calibrated(torch.randn(2, 60, generator=draw), labels).summary()["calibration"])
    assert sum(found["auroc"] for found in intervals) / 20 == pytest.approx(0.5, abs=0.07)
    assert sum(found["auroc_low"] < 0.5 < found["auroc_high"] for found in intervals) >= 16


def test_the_interval_of_an_auroc_covers_as_often_as_it_says() -> None:
    draw, covered = torch.Generator().manual_seed(0), 0
    exact = float(torch.special.ndtr(torch.tensor(1 / math.sqrt(2))))
    for _ in range(400):
        right = torch.rand(80, generator=draw) < 0.4
        _, low, high = auroc_interval(torch.randn(80, generator=draw) + right, right, torch.arange(80))
        covered += low < exact < high
    assert covered / 400 == pytest.approx(0.95, abs=0.035)  # three standard errors


def test_copies_of_an_answer_to_one_prompt_make_its_interval_no_narrower() -> None:
    scores, right = gaussians(200)
    score, group = scores[0], torch.arange(200)
    once = auroc_interval(score, right, group)
    twice = auroc_interval(score.repeat(2), right.repeat(2), group.repeat(2))
    assert twice == pytest.approx(once)
    apart = auroc_interval(score.repeat(2), right.repeat(2), torch.arange(400))
    assert apart[2] - apart[1] < 0.75 * (once[2] - once[1])


def test_labels_on_some_rows_suffice_and_many_are_thinned() -> None:
    scores, right = gaussians(3000)
    few = [bool(r) if i < 60 else None for i, r in enumerate(right)]
    assert calibrated(scores, few).summary()["calibration"]["labels"] == 60
    assert calibrated(scores, right.tolist()).summary()["calibration"]["labels"] == 2000


def test_a_filter_on_log_odds_keeps_what_is_likelier_right_than_wrong() -> None:
    scores, right = gaussians(2000)
    found = calibrated(scores, right.tolist()).known()
    kept = Filter()(found.gain, noise=found.noise) > 0
    assert right[kept].float().mean() > 0.5 > right[~kept].float().mean()


def test_labels_that_cannot_calibrate_are_refused_with_the_way_out() -> None:
    scores, right = gaussians(100)
    labels = right.tolist()
    with pytest.raises(ValueError, match="'right' has 49 labelled samples of 100, and 50 are needed"):
        calibrated(scores, labels[:49] + [None] * 51)
    with pytest.raises(ValueError, match="calls 100 samples right and 0 wrong, and 5 of each are needed"):
        calibrated(scores, [True] * 100)
    with pytest.raises(ValueError, match="must hold True, False or None, sample 1 has 'yes'"):
        calibrated(scores, [True, "yes", *labels[2:]])
    with pytest.raises(ValueError, match="the training set has no column 'good'"):
        JointScorer([ColumnScorer("a")], label="good").read(rows_of(scores, labels))


def test_rules_that_labels_replace_are_refused() -> None:
    for rule in ({"tolerance": 1.0}, {"combine": "sum"}, {"zero": "own"}):
        with pytest.raises(ValueError, match="`label='right'` finds weights and zero itself"):
            JointScorer([ColumnScorer("a")], label="right", **rule)
    with pytest.raises(ValueError, match="`label` 'a' is what one of the `scorers` reads"):
        JointScorer([ColumnScorer("a")], label="a")


PAIRS = samples(60, seed=3)
ROWS = [
    {"input_ids": ids.tolist(), "labels": labels.tolist(), "right": i % 3 == 0 if i < 55 else None, "a": float(i % 5)}
    for i, (ids, labels) in enumerate(PAIRS)
]
ANCHORS = batches(6, seed=4)
LAYOUT = replace(TASK.layout(padded(PAIRS)), ids=torch.arange(60))


@pytest.fixture
def probe(make_model) -> Probe:
    return Probe(make_model(vocab_size=VOCABULARY), TASK)


@pytest.fixture
def shadow(probe: Probe) -> Shadow:
    draw = torch.Generator().manual_seed(1)
    return shadow_of({k: p + 0.05 * torch.randn(p.shape, generator=draw) for k, p in probe.snapshot().items()})


def prepared(probe: Probe, shadow: Shadow) -> JointScorer:
    joint = JointScorer([LikelihoodScorer(), ColumnScorer("a", threshold=0)], label="right")
    joint.read(SampleData(ROWS))
    joint.prepare(probe, ANCHORS, shadow)
    return joint


def test_the_model_scores_the_labelled_samples_as_a_step_would(probe: Probe, shadow: Shadow) -> None:
    joint = prepared(probe, shadow)
    score = joint.score(padded(PAIRS), LAYOUT)
    assert joint.summary()["calibration"]["labels"] == 55
    assert torch.allclose(joint._calibration.mean, score.parts[:, :55].mean(1), atol=1e-4)
    assert score.gain.isfinite().all()
    assert score.noise.gt(0).all()


def test_a_resumed_run_keeps_its_weights(probe: Probe, shadow: Shadow) -> None:
    joint, saved = prepared(probe, shadow), io.BytesIO()
    torch.save(joint.state_dict(), saved)
    saved.seek(0)
    with torch.no_grad():
        for p in probe.trainable.values():
            p.add_(0.05)
    resumed = prepared(probe, shadow)
    assert not torch.equal(resumed(padded(PAIRS), LAYOUT), joint(padded(PAIRS), LAYOUT))
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert torch.equal(resumed(padded(PAIRS), LAYOUT), joint(padded(PAIRS), LAYOUT))
    assert resumed.summary() == joint.summary()


def test_a_run_tells_of_its_calibration(probe: Probe) -> None:
    joint = JointScorer([ColumnScorer("a", threshold=0)], label="right")
    engine = GainEngine(probe.model, ANCHORS, scorer=joint, data=ROWS, learning_rate=1e-3, progress=False)
    engine.prepare()
    results = engine.results()
    assert set(results["calibration"]) == {"auroc", "auroc_low", "auroc_high", "labels", "weights"}
    assert results["scorer"] == "JointScorer: log-odds of 'right' from a"


def test_where_the_model_cannot_score_the_labelled_samples_it_is_refused(probe: Probe, shadow: Shadow) -> None:
    joint = JointScorer([LikelihoodScorer(), ColumnScorer("a")], label="right")
    with pytest.raises(ValueError, match=r"`label`: likelihood must be found by the model .* no `input_ids`"):
        joint.read(SampleData([{"a": row["a"], "right": row["right"]} for row in ROWS]))
    unread = JointScorer([LikelihoodScorer()], label="right")
    with pytest.raises(ValueError, match="`label` is read off the training set, and the engine was given none"):
        unread.prepare(probe, ANCHORS, shadow)
