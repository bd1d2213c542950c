"""Alarms: each in a run that deserves it, and not in one that does not."""

from __future__ import annotations

import re
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from ggmi_callbacks import Filter, JointScorer, LikelihoodScorer, Monitor, PromptInformationScorer
from ggmi_callbacks.tasks import SAMPLE_KEY
from tests._batches import VOCABULARY, padded, samples
from tests._loop import ANCHORS, Fixed, Loop, builder, runs, stream
from tests.model._shadows import own_samples


@pytest.fixture
def build(make_model):
    return builder(make_model)


def watch(loop: Loop, batches, every: int = 4) -> dict[str, str]:
    """Run ``batches`` with a look at every ``every``-th step; the alarms that were raised, each with one warning."""
    loop.engine.schedule.looks_back = lambda step: True
    before = set(loop.engine.alarms.raised)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, batch in enumerate(batches, 1):
            loop.step(batch)
            if step % every == 0:
                loop.engine.log()
    raised = loop.engine.results()["alarms"]
    said = [str(w.message) for w in caught if str(w.message) in raised.values()]
    assert sorted(said) == sorted(message for kind, message in raised.items() if kind not in before)
    return raised


VARIED = (1.0, 2.0, 3.0, 4.0)


def unlike(n: int) -> list[dict[str, torch.Tensor]]:
    """Samples that the anchors contradict: each token is one *less* than the one before."""
    rows = [torch.arange(8).flip(0) + 3 + i % 7 for i in range(n)]
    return [
        padded([(row, torch.cat([torch.tensor([-100, -100]), row[2:]])) for row in rows[i : i + 4]])
        for i in range(0, n, 4)
    ]


@pytest.mark.parametrize(
    ("gains", "like", "alarm"),
    [(VARIED, False, True), ((-4.0, -3.0, -2.0, -1.0), False, False), (VARIED, True, False)],
    ids=["leaves the task", "and the gain says so", "learns the task"],
)
def test_anchors_that_get_longer_while_the_gain_is_positive(build, gains, like: bool, alarm: bool) -> None:
    loop = build(Monitor(), scorer=Fixed(*gains), sources=None)
    loop.optimiser = torch.optim.AdamW(loop.model.parameters(), lr=3e-3)
    data = [padded(runs(4, 4 * i)) for i in range(12)]
    raised = watch(loop, data + (data if like else unlike(160)))
    assert ("anchors" in raised) is alarm
    if alarm:
        assert "nats per token longer than at its shortest" in raised["anchors"]


def outputs(n: int, kind: str, seed: int) -> list[dict[str, torch.Tensor]]:
    """Batches of 32 samples, eight tokens each after a prompt of two."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        low, high = {"low": (3, 20), "high": (22, VOCABULARY), "one": (7, 8)}[kind]
        rows.append(
            torch.cat(
                [torch.randint(3, VOCABULARY, (2,), generator=draw), torch.randint(low, high, (8,), generator=draw)]
            )
        )
    labels = [torch.cat([torch.tensor([-100, -100]), row[2:]]) for row in rows]
    return [padded(list(zip(rows[i : i + 32], labels[i : i + 32], strict=True))) for i in range(0, n, 32)]


@pytest.mark.parametrize(
    ("later", "expected"),
    [("low", set()), ("one", {"diversity", "divergence"}), ("high", {"divergence"})],
    ids=["goes on", "repeats itself", "moves away"],
)
def test_a_stream_that_collapses(build, later: str, expected: set[str]) -> None:
    anchors = outputs(128, "low", seed=5)
    loop = build(Monitor(), scorer=Fixed(*[float(i) for i in range(32)]), sources=None, anchors=anchors, overhead=0.9)
    loop.optimiser = torch.optim.SGD(loop.model.parameters(), lr=0.0)
    loop.engine.schedule.scores = lambda n: True
    raised = watch(loop, outputs(256, "low", seed=1) + outputs(256, later, seed=2))
    assert raised.keys() - {"shadow"} == expected


@pytest.mark.parametrize(
    ("gains", "policy", "alarm"),
    [
        ((1.0, -1.0, 2.0, -2.0), Filter(), True),
        ((1.0, -1.0, -2.0, 2.0), Filter(), False),
        ((1.0, -1.0, 2.0, -2.0), Monitor(), False),
    ],
    ids=["one", "both", "nothing dropped"],
)
def test_a_policy_that_keeps_one_source_alone(build, gains, policy, alarm: bool) -> None:
    sources = ["good", "bad", "good", "bad"] * 20
    raised = watch(build(policy, scorer=Fixed(*gains), sources=sources, overhead=0.9), stream(20))
    assert ("one source" in raised) is alarm
    if alarm:
        assert "keeps 'good' alone: none of" in raised["one source"]


@pytest.mark.parametrize(
    ("policy", "gains", "alarm"),
    [
        (Filter(), (-1.0, -2.0, -3.0, -4.0), True),
        (Filter(), (1.0, -2.0, -3.0, -4.0), False),
        (Filter(threshold=9.0), VARIED, True),
        (Filter(keep=0.05), VARIED, False),
        (Monitor(), (-1.0, -2.0, -3.0, -4.0), False),
    ],
    ids=["nearly all are bad", "a quarter is kept", "a bar too high", "a share that was asked for", "nothing dropped"],
)
def test_a_filter_that_keeps_nearly_nothing(build, policy, gains, alarm: bool) -> None:
    raised = watch(build(policy, scorer=Fixed(*gains), sources=None, overhead=0.9), stream(40))
    assert ("nothing" in raised) is alarm
    if alarm:
        assert re.search(r"keeps 0 of \d+ samples \(0.0%, with 99.9% certainty less than \d.\d%\)", raised["nothing"])


@pytest.mark.filterwarnings("ignore:the scale of JointScorer rests on 4 held-out anchors")
@pytest.mark.parametrize(("zero", "alarm"), [("anchors", True), ("own", False)])
def test_a_joint_score_whose_bar_few_anchors_set(build, zero, alarm: bool) -> None:
    """The four anchors that the shadow held out are alike, so next to nothing of another kind comes near them."""
    scorer = JointScorer([LikelihoodScorer(), PromptInformationScorer(normalize="token")], zero=zero)
    noise = samples(160, seed=9)
    data = [padded(noise[i : i + 4]) for i in range(0, len(noise), 4)]
    raised = watch(build(Filter(), scorer=scorer, sources=None), data)
    assert ("nothing" in raised) is alarm


@pytest.mark.parametrize(("gains", "alarm"), [((1.0, 1.0, 1.0, 1.0), True), (VARIED, False)], ids=str)
def test_scores_that_tell_nothing_apart(build, gains, alarm: bool) -> None:
    raised = watch(build(Monitor(), scorer=Fixed(*gains), overhead=0.9), stream(20))
    assert ("constant" in raised) is alarm
    if alarm:
        assert "have the score 1:" in raised["constant"]


@pytest.mark.parametrize("knows", [True, False])
def test_a_shadow_that_knows_nothing(build, make_model, knows: bool) -> None:
    model = make_model(vocab_size=VOCABULARY, num_hidden_layers=1)
    torch.manual_seed(0)
    anchors = ANCHORS if knows else own_samples(model.eval(), 8)
    loop = build(
        Monitor(),
        model=model.train(),
        scorer=Fixed(*VARIED),
        anchors=anchors,
        learning_rate=1e-3 if not knows else 3e-3,
    )
    assert ("shadow" in loop.engine.results()["alarms"]) is not knows
    said = "taught the shadow nothing" in loop.engine.results()["verdict"]
    assert said is not knows


def test_alarms_survive_a_restart_and_are_not_raised_twice(build) -> None:
    loop, again = (build(Monitor(), scorer=Fixed(1.0, 1.0, 1.0, 1.0), overhead=0.9, prepare=p) for p in (True, False))
    raised = watch(loop, stream(20))
    again.engine.load_state_dict(loop.engine.state_dict())
    assert again.engine.results()["alarms"] == raised
    assert "constant" in watch(again, [{**b, SAMPLE_KEY: b[SAMPLE_KEY]} for b in stream(8)])


@pytest.mark.parametrize("logs", [True, False])
def test_trackio_is_told_where_it_logs(build, monkeypatch, logs: bool) -> None:
    loop = build(Monitor(), scorer=Fixed(1.0, 1.0, 1.0, 1.0), overhead=0.9)
    told = []
    run = SimpleNamespace(get=lambda: object() if logs else None)
    trackio = SimpleNamespace(context_vars=SimpleNamespace(current_run=run), alert=lambda **given: told.append(given))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    raised = watch(loop, stream(20))
    assert told == ([{"title": "GGMI: constant", "text": raised["constant"]}] if logs else [])


def test_an_alert_can_be_read_back_from_trackio(build, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    trackio.init(project="alarms", name="constant", auto_log_gpu=False, auto_log_cpu=False)
    raised = watch(build(Monitor(), scorer=Fixed(1.0, 1.0, 1.0, 1.0), overhead=0.9), stream(20))
    trackio.finish()
    (alert,) = trackio.Api().alerts("alarms")
    assert (alert["run"], alert["title"], alert["text"]) == ("constant", "GGMI: constant", raised["constant"])
    watch(build(Monitor(), scorer=Fixed(1.0, 1.0, 1.0, 1.0), overhead=0.9), stream(20))
    assert len(trackio.Api().alerts("alarms")) == 1  # of a run that is over nothing is told
