"""Two gloo ranks for the whole session: joining them once is what costs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import pytest
import torch

from tests.metrics._tester import WORLD, join

matplotlib.use("Agg")


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[..., list[Any]]]:
    """Run a module-level function on two ranks at once and return both results."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with torch.multiprocessing.get_context("spawn").Pool(WORLD) as pool:
        pool.starmap_async(join, [(rank, address) for rank in range(WORLD)], chunksize=1).get(timeout=90)

        def run(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            # Both calls meet in a collective, so neither worker can take the two of them.
            return pool.starmap_async(function, [arguments] * WORLD, chunksize=1).get(timeout=90)

        yield run
