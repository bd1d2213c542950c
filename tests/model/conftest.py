"""Probes on a tiny Llama in training mode."""

from __future__ import annotations

import pytest

from ggmi_callbacks.model import Probe
from tests._batches import VOCABULARY
from tests.model._shadows import TASK


@pytest.fixture
def build(make_model):
    def make(**changes) -> Probe:
        return Probe(make_model(**{"vocab_size": VOCABULARY, "attention_dropout": 0.4, **changes}).train(), TASK)

    return make
