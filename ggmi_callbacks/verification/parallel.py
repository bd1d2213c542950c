"""Jobs side by side, each on one thread: their operations are short, and shared threads would wait for each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from tqdm import tqdm

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's operations on one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_parallel(
    work: Callable[[Job], Result], jobs: Sequence[Job], device: str, label: str | None = None
) -> list[Result]:
    """Results of all jobs in order: on a CPU as many at once as it has cores, on another device one by one.

    Args:
        work: what to do with a job; it must draw from generators of its own.
        jobs: the jobs.
        device: where the work is done.
        label: of the progress bar; None for no bar.

    Example:
        >>> in_parallel(abs, [-1, -2], "cpu")
        [1, 2]
    """
    hidden = label is None
    if device != "cpu":
        return [work(job) for job in tqdm(jobs, desc=label, disable=hidden)]
    with one_thread(), ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(tqdm(pool.map(work, jobs), desc=label, total=len(jobs), disable=hidden))
