"""The verdict, and the report by source, say what the intervals say."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks import AgreementScorer, ColumnScorer, JointScorer, LikelihoodScorer, Monitor
from ggmi_callbacks.data import SampleData
from ggmi_callbacks.engine.by_source import by_source
from ggmi_callbacks.engine.twins import Pairs
from ggmi_callbacks.engine.verdict import verdict
from ggmi_callbacks.functional._interval import mean_interval
from ggmi_callbacks.metrics.gain import Gain
from tests._loop import Fixed, builder, stream


@pytest.fixture
def build(make_model):
    return builder(make_model)


def numbers(**bounds: tuple[float, float, float]) -> dict[str, float]:
    return {
        f"ggmi/{name}{end}": value
        for name, values in bounds.items()
        for end, value in zip(("", "_low", "_high"), values, strict=True)
    }


@pytest.mark.parametrize(
    ("advantage", "gap", "words"),
    [
        ((0.21, 0.18, 0.24), (0.01, 0.00, 0.02), ["more than the 128 anchors could: +0.210", "memorised less than"]),
        ((-0.21, -0.24, -0.18), (0.09, 0.08, 0.10), ["less than the 128 anchors could", "memorised more than"]),
        ((0.01, -0.02, 0.04), (0.05, 0.03, 0.07), ["could is open: +0.010", "which of the two sets is memorised more"]),
    ],
    ids=["more", "less", "open"],
)
def test_the_verdict_goes_by_the_intervals(advantage, gap, words: list[str]) -> None:
    found = numbers(anchor_advantage=advantage, generalization_gap=gap, anchor_gap=(0.05, 0.04, 0.06))
    said = verdict(found, 128, True, {})
    assert all(word in said for word in words)
    assert said.endswith(".")


def test_the_verdict_names_what_is_not_known_and_sources_that_harm() -> None:
    harm = {"gain": -0.5, "gain_low": -0.6, "gain_high": -0.4}
    said = verdict({}, 8, False, {"a": harm, "b": {**harm, "gain_high": 0.1}, "c": {}})
    assert "is not known yet" in said
    assert "for want of samples that were not trained on" in said
    assert "taught the shadow nothing" in said
    assert "below zero for a (-0.500 [-0.600, -0.400]), Bonferroni over 3 sources" in said


def test_gains_by_source_have_intervals_at_the_level_of_bonferroni() -> None:
    draw = torch.Generator().manual_seed(0)
    gain, source = torch.randn(100, generator=draw), torch.arange(100) % 2
    metric = Gain(3)
    metric.update(gain, source)
    found = by_source(metric, None, ["a", "b"])
    for code, name in enumerate("ab"):
        wanted = mean_interval(gain[source == code].double(), 1 - 0.05 / 2)
        assert found[name]["gain_low"] == pytest.approx(float(wanted.low))
        assert found[name]["gain_high"] == pytest.approx(float(wanted.high))


def test_the_gap_of_a_source_is_that_of_its_own_samples() -> None:
    draw = torch.Generator().manual_seed(1)
    source = torch.stack([torch.arange(400) % 2, torch.arange(400).roll(1) % 2])
    gap = torch.tensor([0.1, 0.5])[source[1]]
    reference = torch.randn(2, 400, generator=draw)
    nll = reference + 0.05 * torch.randn(2, 400, generator=draw) + torch.stack([torch.zeros(400), gap])
    ones = torch.ones(2, 400)
    pairs = Pairs(
        torch.zeros(400), nll.double(), reference.double(), ones.double(), source, torch.arange(800).view(2, 400)
    )
    found = by_source(Gain(3), pairs, ["a", "b", "never met"])
    for name, wanted in (("a", 0.1), ("b", 0.5)):
        low, high = (found[name][f"generalization_gap_{end}"] for end in ("low", "high"))
        assert low < wanted < high
        assert high - low < 0.1
    assert found["never met"] == {}


def answers(share: float, prompts: int, first: int, source: str, seed: int) -> list[dict]:
    """Three answers of six tokens to each prompt, which repeat the first one's with the chance ``share``."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for prompt in range(first, first + prompts):
        common = torch.randint(30, (6,), generator=draw)
        for _ in range(3):
            own = torch.randint(30, (6,), generator=draw)
            ids = torch.where(torch.rand(6, generator=draw) < share, common, own) + 10
            rows.append({"input_ids": [prompt, *ids.tolist()], "labels": [-100, *ids.tolist()], "source": source})
    return rows


def test_shared_information_by_source_tells_who_repeats_what_it_knows() -> None:
    rows = [*answers(0.9, 60, 1000, "knows", 0), *answers(0.0, 60, 2000, "guesses", 1)]
    rows += answers(0.9, 4, 3000, "too few", 2)
    scorer, names = AgreementScorer(estimator="information"), ["guesses", "knows", "too few"]
    scorer.read(SampleData(rows))
    codes = torch.tensor([names.index(row["source"]) for row in rows])
    found = by_source(Gain(4), None, names, scorer.shared(), codes)
    knows, guesses = (found[name] for name in ("knows", "guesses"))
    assert knows["shared_information_low"] > guesses["shared_information_high"]
    assert knows["shared_information_low"] < knows["shared_information"] < knows["shared_information_high"]
    assert found["too few"] == {}  # of eight prompts or more an interval can be told
    alone = by_source(Gain(2), None, ["all"], scorer.shared(), torch.zeros_like(codes))["all"]
    ends = [scorer.summary()[f"ggmi/shared_information{end}"] for end in ("", "_low", "_high")]
    assert list(alone.values()) == pytest.approx(ends, abs=1e-6)  # one source at 95 % is the whole set


def test_a_joint_score_tells_shared_information_by_source_and_monitor_none() -> None:
    joint = JointScorer([ColumnScorer("n"), AgreementScorer(estimator="information")], zero="own")
    joint.read(SampleData([{**row, "n": i} for i, row in enumerate(answers(0.5, 12, 100, "a", 0))]))
    assert joint.shared() is not None
    assert LikelihoodScorer().shared() is None


def test_results_have_sources_verdict_and_alarms(build) -> None:
    loop = build(Monitor(), scorer=Fixed(1.0, -1.0, 2.0, -2.0), overhead=0.9)
    loop.engine.schedule.looks_back = lambda step: True
    for batch in stream(16):
        loop.step(batch)
        loop.engine.log()
    loop.engine.finish()
    results = loop.engine.results()
    assert results["sources"].keys() == {"good", "bad"}
    assert {"gain", "gain_low", "gain_high", "generalization_gap"} <= results["sources"]["good"].keys()
    assert "the gain lies below zero for bad (" in results["verdict"]
    assert results["alarms"] == {}
