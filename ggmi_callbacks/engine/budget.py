"""The engine's account of its own time, and the allowance that it keeps to.

share = seconds spent by the engine / seconds of training steps, its own included
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_Mark = Any  # a torch.cuda.Event, or seconds


class Budget:
    """Measures the engine and says whether another piece of work still fits.

    On CUDA the work is timed with events, read only when :meth:`settle` is called (at a logging step, when the host
    waits for the device anyway); until then a piece of work counts with the mean of its kind.

    Args:
        overhead: allowed share of step time in (0, 1), or None for no limit.
        device: where the work runs.

    """

    def __init__(self, overhead: float | None, device: torch.device) -> None:
        if overhead is not None and not 0 < overhead < 1:
            raise ValueError(f"`overhead` must be a share of step time in (0, 1), got {overhead}.")
        self.overhead = overhead
        self._cuda = device.type == "cuda"
        self._open: list[tuple[str, _Mark, _Mark]] = []
        self._spent: dict[str, float] = defaultdict(float)
        self._count: dict[str, int] = defaultdict(int)
        self._elapsed = 0.0
        self._step_began: float | None = None

    def begin_step(self) -> None:
        """Note the start of a training step, unless one is under way."""
        if self._step_began is None:
            self._step_began = time.perf_counter()

    def end_step(self) -> None:
        """Note its end: after the optimiser's update."""
        if self._step_began is not None:
            self._elapsed += time.perf_counter() - self._step_began
            self._step_began = None

    @contextmanager
    def spend(self, kind: str) -> Iterator[None]:
        """Time a piece of work of this ``kind``."""
        outside = self._step_began is None  # at a logging step
        start, begun = self._mark(), time.perf_counter()
        try:
            yield
        finally:
            self._open.append((kind, start, self._mark()))
            if outside:
                self._elapsed += time.perf_counter() - begun
            if not self._cuda:
                self.settle()

    def allows(self, kind: str, then: str | None = None) -> bool:
        """Whether work of ``kind`` fits; the first of each kind always does, since its cost is not known yet.

        Args:
            kind: of the work.
            then: of the work that follows from it, if there is any.

        """
        if self.overhead is None or not (self._count[kind] or self._open_of(kind)):
            return True
        if not self._count[kind]:
            return False
        following = 0.0 if then is None else self._mean(then)
        estimate = sum(self._mean(k) for k, _, _ in self._open) + self._mean(kind) + following
        return sum(self._spent.values()) + estimate <= self.overhead * self.elapsed

    def settle(self) -> None:
        """Read the open timings; on CUDA this waits for them."""
        for kind, start, end in self._open:
            if self._cuda:
                end.synchronize()
            self._spent[kind] += start.elapsed_time(end) / 1e3 if self._cuda else end - start
            self._count[kind] += 1
        self._open.clear()

    @property
    def elapsed(self) -> float:
        """Seconds of training steps so far."""
        return self._elapsed + (time.perf_counter() - self._step_began if self._step_began is not None else 0.0)

    @property
    def share(self) -> float:
        """The engine's own share of step time so far."""
        return sum(self._spent.values()) / max(self.elapsed, 1e-9)

    def _open_of(self, kind: str) -> int:
        return sum(k == kind for k, _, _ in self._open)

    def _mean(self, kind: str) -> float:
        return self._spent[kind] / self._count[kind] if self._count[kind] else 0.0

    def _mark(self) -> _Mark:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
