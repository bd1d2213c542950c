"""Twins of a run: samples seen and still to come, under the same weights; first where the answer is known."""

from __future__ import annotations

import io
import logging
import math
import random

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ggmi_callbacks import GainEngine, Monitor, Reweight
from ggmi_callbacks.engine.live import KEYS, LiveGGMI
from ggmi_callbacks.engine.replay import Visit
from ggmi_callbacks.engine.twins import Pairs, Twins
from ggmi_callbacks.functional import Interval, loss_difference_information
from ggmi_callbacks.functional._interval import mean_interval
from ggmi_callbacks.functional.closed_forms.twins import noisy_mean_twin_information
from ggmi_callbacks.model import CrossFit, Probe
from ggmi_callbacks.tasks import SAMPLE_KEY, SampleLoss
from tests._batches import VOCABULARY, padded, samples
from tests._loop import Fixed, Loop, builder, runs, stream

CPU = torch.device("cpu")


@pytest.fixture
def build(make_model):
    return builder(make_model)


class Mean(nn.Module):
    """A number, and half the squared distance of samples from it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, 0] - self.w).square() / 2


def mean_twins(reference: float = math.nan) -> tuple[Mean, Twins]:
    model = Mean()
    probe = Probe(model, SampleLoss(lambda model, batch: model(batch["x"])))
    return model, Twins(probe, {"w": torch.tensor(reference)}, [], seed=0, device=CPU)


def meet(twins: Twins, step: int, x: Tensor, first: Tensor | None = None) -> None:
    fresh = torch.ones(len(x), dtype=torch.bool) if first is None else first
    twins.meet(step, visit_of(twins.probe, x), fresh)


def visit_of(probe: Probe, x: Tensor) -> Visit:
    inputs = {"x": x}
    layout = probe.task.layout(inputs)
    source, identity = torch.zeros(layout.n, dtype=torch.long), probe.task.fingerprint(inputs, layout)
    return Visit(inputs, layout, torch.empty(0), source, identity)


def noisy_mean_pairs(n: int, q2: float, worlds: int, reference: float = math.nan) -> Pairs:
    """In each world the weights are the mean of n samples, and noise; n twins come after them."""
    draw = torch.Generator().manual_seed(1)
    model, twins = mean_twins(reference)
    for world in range(1, worlds + 1):
        twins.past.visits.clear()
        past, coming = torch.randn(2, n, 1, generator=draw)
        meet(twins, world, past)
        with torch.no_grad():
            model.w.copy_(past.mean() + q2**0.5 * torch.randn((), generator=draw))
        twins.look(world)
        meet(twins, world, coming)
    assert twins.collect()
    return twins.pairs()


@pytest.mark.parametrize(("n", "q2"), [(1, 0.1), (2, 0.01)])
def test_information_is_the_quadrature_for_gaussian_twins(n: int, q2: float) -> None:
    inside, outside = noisy_mean_pairs(n, q2, worlds=4000 // n).losses()
    found = loss_difference_information(inside, outside, confidence=0.999)
    assert isinstance(found, Interval)
    assert found.low < noisy_mean_twin_information(n, 1.0, q2) < found.high


def test_the_gap_is_the_closed_form_for_gaussian_twins() -> None:
    # E[out] - E[in] = ((s2 + s2 / n + q2) - (s2 - s2 / n + q2)) / 2 = s2 / n
    inside, outside = noisy_mean_pairs(4, 0.1, worlds=1000).losses()
    gap = mean_interval(outside - inside, 0.999)
    assert gap.low < 1 / 4 < gap.high


def test_calibration_keeps_the_gap_and_narrows_its_interval() -> None:
    gaps = []
    for reference in (math.nan, 0.1):
        inside, outside = noisy_mean_pairs(16, 0.01, worlds=200, reference=reference).losses()
        gaps.append(mean_interval(outside - inside, 0.999))
    plain, calibrated = gaps
    assert calibrated.low < 1 / 16 < calibrated.high
    assert calibrated.high - calibrated.low < 0.5 * (plain.high - plain.low)


def test_two_unseen_sets_tell_nothing() -> None:
    one, other = noisy_mean_pairs(4, 0.01, worlds=500).unseen().losses()
    gap, information = mean_interval(other - one, 0.999), loss_difference_information(one, other, confidence=0.999)
    assert isinstance(information, Interval)
    assert len(one) == 999  # of 2000 numbers two are equal, and count as one
    assert gap.low < 0 < gap.high
    assert information.low < 0 < information.high


def test_intervals_cover_where_looks_come_back_to_the_same_samples() -> None:
    """Nothing is learnt, so the gap is zero; 16 looks at a past of 3 batches, 200 runs: a standard error of 1.5 %."""
    draw = torch.Generator().manual_seed(3)
    anchors = CrossFit(*torch.rand(3, 8, generator=draw), tokens=torch.ones(8), first_half=4, seconds=0.0)
    covered = 0
    for _ in range(200):
        _, twins = mean_twins()
        for step in range(3):
            meet(twins, step, torch.randn(8, 1, generator=draw))
        for step in range(100, 116):
            twins.look(step)
            twins.past.visits, kept = [], twins.past.visits
            meet(twins, step, torch.randn(8, 1, generator=draw))
            twins.past.visits = kept
        gap = LiveGGMI(twins, anchors).window(116, torch.tensor([152.0, 152.0]), 152.0)["generalization_gap"]
        covered += bool(gap.low < 0 < gap.high)
    assert covered / 200 > 0.95 - 3 * 0.015


def test_null_pairs_are_of_one_look_whatever_their_numbers() -> None:
    step = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0])
    ones, names = torch.ones(2, 10), torch.arange(20.0).view(2, 10)
    pairs = Pairs(step, step.expand(2, -1), ones, ones, ones, names).unseen()
    assert pairs.step.tolist() == [0, 1, 3, 3]
    assert torch.equal(*pairs.nll)
    assert len(pairs.sample.unique()) == 8


def test_samples_that_were_trained_on_before_are_no_twins() -> None:
    _, twins = mean_twins()
    meet(twins, 0, torch.zeros(4, 1))
    twins.look(1)
    assert twins.waits
    meet(twins, 1, torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([True, False, True, False]))
    assert twins.collect()
    assert not twins.collect()
    assert twins.pairs().nll[1].tolist() == [0.5, 4.5]


def watched(build, policy=None, looks: bool = True, **settings) -> Loop:
    """A loop that looks back at each log, whatever the clock says."""
    loop = build(policy, **settings)
    if looks:
        loop.engine.schedule.looks_back = lambda step: True
    return loop


def test_a_model_that_memorises_has_a_gap_and_one_that_stands_still_has_none(build) -> None:
    found = {}
    for lr in (0.0, 1e-2):
        loop = watched(build, sources=None, heldout=[padded(samples(4, seed=s)) for s in range(100, 116)])
        loop.optimiser = torch.optim.AdamW(loop.model.parameters(), lr=lr)
        batches = [padded(samples(4, seed=s)) for s in range(16)]
        for _ in range(12):
            for batch in batches:
                loop.step(batch)
        found[lr] = loop.engine.finish()
    still, moved = found[0.0], found[1e-2]
    assert still["ggmi/generalization_gap_low"] < 0 < still["ggmi/generalization_gap_high"]
    assert moved["ggmi/generalization_gap_low"] > 0.5
    assert moved["ggmi/synthetic_information"] > still["ggmi/synthetic_information"]


def test_without_learning_the_gap_is_zero_over_seeds(build) -> None:
    """In a first pass, where nothing is held out: at most one of eight 95 % intervals may miss zero."""
    misses = 0
    for seed in range(8):
        loop = watched(build, sources=None, seed=seed)
        loop.optimiser = torch.optim.SGD(loop.model.parameters(), lr=0.0)
        for step in range(24):
            loop.step(padded(samples(4, seed=1000 * seed + step)))
            loop.engine.log()
        results = loop.engine.results()
        misses += not results["ggmi/generalization_gap_low"] < 0 < results["ggmi/generalization_gap_high"]
    assert misses <= 1


def test_ggmi_is_logged_at_every_look_of_the_first_pass_and_no_more_in_the_second(build, caplog) -> None:
    loop = watched(build)
    logs = []
    for _ in range(2):
        for batch in stream(20):
            loop.step(batch)
            logs.append(loop.engine.log())
    names = [f"ggmi/{name}" for name in KEYS]
    assert set(names) <= logs[19].keys()
    assert logs[19]["ggmi/ggmi_low"] < logs[19]["ggmi/ggmi"] < logs[19]["ggmi/ggmi_high"]
    assert logs[19]["ggmi/twins"] >= 20
    assert not set(names) & logs[39].keys()
    final = loop.engine.finish()
    assert not set(names) & (final.keys() | loop.engine.results().keys())
    assert loop.engine.results()["estimators"]["ggmi"].startswith("none: samples come again")
    assert {"ggmi/anchor_gap", "ggmi/anchor_advantage", "ggmi/ggmi_mixture"} <= final.keys()
    said = [r for r in caplog.records if r.name == "ggmi_callbacks" and r.levelno == logging.WARNING]
    assert len(said) == 1
    assert "heldout=" in said[0].getMessage()


def test_the_end_of_a_first_pass_has_the_null_control(build) -> None:
    loop = watched(build)
    for batch in stream(20):
        loop.step(batch)
        loop.engine.log()
    final = loop.engine.finish()
    assert final["ggmi/null_gap_low"] < 0 < final["ggmi/null_gap_high"]
    assert {"ggmi/ggmi", "ggmi/generalization_gap"} <= final.keys()


def test_looks_change_no_bit_of_a_monitored_run(build, make_model) -> None:
    loop = watched(build, Monitor(), heldout=stream(8)[7:])
    plain = Loop(make_model(vocab_size=VOCABULARY, attention_dropout=0.2), None)
    state = random.getstate()
    for run in (plain, loop):
        torch.manual_seed(1)
        for batch in stream(6):
            run.step(batch)
            if run.engine:
                run.engine.log()
    assert len(loop.engine.recorder.live.twins.pairs()) > 0
    assert plain.losses == loop.losses
    assert torch.equal(plain.weights(), loop.weights())
    assert random.getstate() == state


def test_a_run_resumed_between_a_look_and_its_twins_goes_on_bit_for_bit(build) -> None:
    data = stream(20)
    whole = watched(build, Reweight(), scorer=Fixed(1.0, 2.0, 3.0, 4.0))
    for batch in data[:14]:
        whole.step(batch)
        whole.engine.log()
    assert whole.engine.recorder.live.twins.waits
    buffer = io.BytesIO()
    torch.save(whole.engine.state_dict(), buffer)
    tensors = [{k: v.clone() for k, v in whole.model.state_dict().items()}, torch.get_rng_state()]
    resumed = watched(build, Reweight(), looks=False, scorer=Fixed(1.0, 2.0, 3.0, 4.0), prepare=False)
    resumed.model.load_state_dict(tensors[0])
    buffer.seek(0)
    resumed.engine.load_state_dict(torch.load(buffer, weights_only=True))
    resumed.engine.schedule.looks_back = lambda step: True
    found = []
    for loop in (whole, resumed):
        loop.optimiser = torch.optim.SGD(loop.model.parameters(), lr=1e-2)
        torch.set_rng_state(tensors[1])
        logs = []
        for batch in data[14:]:
            loop.step(batch)
            logs.append({**loop.engine.log(), "ggmi/overhead": 0.0})
        found.append((logs, loop.engine.finish()))
    assert "ggmi/ggmi" in found[0][1]
    assert found[0] == found[1]


HELD = [padded(samples(2, seed=s)) for s in range(200, 208)]
BATCHES = [{**padded(runs(2, s) + samples(2, seed=s)), SAMPLE_KEY: torch.arange(4 * s, 4 * s + 4)} for s in range(6)]


def finish_on(rank: int, size: int, path: str, stored: str) -> None:
    """Train on this rank's rows of BATCHES, with averaged gradients, and write the last numbers of rank 0."""
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{path}.init", rank=rank, world_size=size)
    model = torch.load(stored, weights_only=False)
    anchors = [padded(runs(2, start)) for start in range(6)]
    engine = GainEngine(model, anchors, learning_rate=3e-3, progress=False, overhead=0.9, heldout=HELD, num_samples=24)
    engine.prepare()
    loop = Loop(model, engine)
    loop.optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    own = slice(rank * 4 // size, (rank + 1) * 4 // size)
    for batch in BATCHES * 3:
        count = batch["labels"][:, 1:].ne(-100).sum()
        inputs = engine.observe({k: v[own] for k, v in batch.items()})
        log_probs = engine.probe.task.log_probs(model, inputs)
        engine.record_log_probs(log_probs)
        (-log_probs.sum() / count).backward()
        if size > 1:
            for p in model.parameters():
                dist.all_reduce(p.grad)
        loop.optimiser.step()
        loop.optimiser.zero_grad()
        engine.end_step()
    engine.log()
    numbers = engine.finish()
    if rank == 0:
        torch.save(numbers, path)
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_find_the_gap_of_one_process(make_model, tmp_path) -> None:
    torch.save(make_model(vocab_size=VOCABULARY), tmp_path / "model")
    for size in (1, 2):
        arguments = (size, str(tmp_path / f"{size}"), str(tmp_path / "model"))
        if size == 1:
            finish_on(0, *arguments)
        else:
            torch.multiprocessing.spawn(finish_on, arguments, nprocs=2)
    one, two = (torch.load(tmp_path / f"{size}") for size in (1, 2))
    assert one["ggmi/generalization_gap"] > 0
    names = ("generalization_gap", "anchor_gap", "anchor_advantage", "anchor_information", "synthetic_samples")
    for name in names:
        assert two[f"ggmi/{name}"] == pytest.approx(one[f"ggmi/{name}"], rel=1e-3, abs=1e-5)
