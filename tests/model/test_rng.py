"""Global random streams, kept as they were."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import torch

from ggmi_callbacks.model import preserved_rng


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 - the global streams


def test_the_global_streams_go_on_as_if_the_block_had_not_run() -> None:
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    expected = [draws() for _ in range(3)]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    found = [draws()]
    with preserved_rng():
        draws()
    found.append(draws())
    with contextlib.suppress(KeyError), preserved_rng():
        draws()
        raise KeyError
    assert [*found, draws()] == expected
