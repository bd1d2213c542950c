"""The budget keeps the engine's share of step time, told by a clock that the test turns."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ggmi_callbacks.engine.budget import Budget

CPU = torch.device("cpu")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("ggmi_callbacks.engine.budget.time", SimpleNamespace(perf_counter=clock))
    return clock


def train(budget: Budget, clock: Clock, steps: int, cost: dict[str, float], length: float = 1.0) -> dict[str, int]:
    """Steps of ``length`` seconds, in each of which every kind of work is done if it is allowed."""
    done = dict.fromkeys(cost, 0)
    for _ in range(steps):
        budget.begin_step()
        for kind, seconds in cost.items():
            if budget.allows(kind):
                done[kind] += 1
                with budget.spend(kind):
                    clock.now += seconds
        clock.now += length
        budget.end_step()
    return done


@pytest.mark.parametrize("overhead", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("cost", [{"score": 0.3}, {"score": 0.4, "probe": 1.4}, {"score": 0.001}])
def test_the_share_is_kept_and_made_use_of(clock: Clock, overhead: float, cost: dict[str, float]) -> None:
    budget, steps = Budget(overhead, CPU), 1000
    done = train(budget, clock, steps, cost)
    spent = sum(done[kind] * seconds for kind, seconds in cost.items())
    assert budget.share == pytest.approx(spent / (spent + steps))
    assert budget.share <= overhead
    # The last refusal found no room for one piece of work, and one more step has passed since; or all work fits.
    idle = overhead - (max(cost.values()) + overhead) / budget.elapsed
    assert budget.share >= idle or all(count == steps for count in done.values())


def test_work_that_follows_from_other_work_has_to_fit_too(clock: Clock) -> None:
    budget = Budget(0.1, CPU)
    train(budget, clock, 100, {"probe": 1.0, "twins": 1.0})  # both are spent when eleven seconds of 110 are
    while not budget.allows("probe"):
        train(budget, clock, 1, {})
    assert not budget.allows("probe", then="twins")
    train(budget, clock, 10, {})
    assert budget.allows("probe", then="twins")


def test_without_a_limit_everything_is_allowed(clock: Clock) -> None:
    assert train(Budget(None, CPU), clock, 20, {"score": 9.0}) == {"score": 20}


def test_the_first_of_each_kind_is_allowed_and_the_second_waits(clock: Clock) -> None:
    budget = Budget(0.05, CPU)
    assert train(budget, clock, 1, {"score": 1.0}) == {"score": 1}
    assert budget.share == pytest.approx(0.5)
    assert budget.allows("probe")
    assert not budget.allows("score")
    # Two pieces of work must fit: 2 <= 0.05 x elapsed, elapsed >= 40, and 2 s have passed.
    train(budget, clock, 37, {})
    assert not budget.allows("score")
    train(budget, clock, 1, {})
    assert budget.allows("score")


def test_steps_are_timed_from_their_first_begin_to_their_end(clock: Clock) -> None:
    budget = Budget(0.05, CPU)
    budget.begin_step()
    clock.now += 2
    budget.begin_step()  # the next micro-batch of the same step
    clock.now += 3
    assert budget.elapsed == pytest.approx(5)
    budget.end_step()
    clock.now += 100  # evaluation, checkpoints: no step is under way
    budget.end_step()
    assert budget.elapsed == pytest.approx(5)


def test_work_between_steps_counts_on_both_sides(clock: Clock) -> None:
    budget = Budget(0.5, CPU)
    train(budget, clock, 3, {})
    with budget.spend("probe"):
        clock.now += 1
    assert budget.share == pytest.approx(1 / 4)


def test_work_within_a_step_counts_once(clock: Clock) -> None:
    budget = Budget(0.5, CPU)
    train(budget, clock, 1, {"score": 1.0}, length=3.0)
    assert budget.elapsed == pytest.approx(4)
    assert budget.share == pytest.approx(1 / 4)


def test_work_that_fails_is_counted(clock: Clock) -> None:
    budget = Budget(0.5, CPU)
    budget.begin_step()

    def fail() -> None:
        clock.now += 1
        raise KeyError

    with pytest.raises(KeyError), budget.spend("score"):
        fail()
    assert budget.share == pytest.approx(1)


def test_no_time_is_no_share() -> None:
    assert Budget(0.05, CPU).share == 0


@pytest.mark.parametrize("overhead", [0.0, 1.0, -0.1, 5, float("nan")])
def test_a_share_outside_zero_and_one_is_refused(overhead: float) -> None:
    with pytest.raises(ValueError, match=r"`overhead` must be a share of step time in \(0, 1\)"):
        Budget(overhead, CPU)


class Event:
    """A CUDA event that reads the clock when it is recorded, and is known only once waited for."""

    clock: Clock
    waited = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = self.clock.now

    def synchronize(self) -> None:
        Event.waited += 1

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at - self.at)


def test_on_cuda_only_settling_waits_and_open_work_counts_with_its_mean(clock: Clock, monkeypatch) -> None:
    Event.clock, Event.waited = clock, 0
    monkeypatch.setattr(torch.cuda, "Event", Event)
    budget = Budget(0.25, torch.device("cuda"))
    train(budget, clock, 1, {"score": 1.0})
    assert not budget.allows("score")  # its cost is not known before the first settlement
    assert Event.waited == 0
    budget.settle()
    assert Event.waited == 1
    assert budget.share == pytest.approx(0.5)
    done = train(budget, clock, 20, {"score": 1.0})
    assert Event.waited == 1
    budget.settle()
    assert budget.share == pytest.approx((1 + done["score"]) / budget.elapsed)
    assert 0.2 < budget.share <= 0.25
