"""Scoring that runs out of memory goes on with fewer rows, and finds the same."""

from __future__ import annotations

import pytest
import torch

from ggmi_callbacks.model import Probe
from ggmi_callbacks.tasks import CausalLM, PairedCausalLM
from tests._batches import packed, padded, samples


@pytest.fixture
def small(make_model):
    """A probe of a model that has memory for two rows, and how many rows each of its forwards had."""
    model, sizes = make_model(), []

    def refuse(module, args, kwargs):
        rows = len(kwargs["input_ids"])
        sizes.append(rows)
        if rows > 2:
            raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(refuse, with_kwargs=True)
    return Probe(model, CausalLM()), sizes


def test_a_batch_that_does_not_fit_is_scored_in_halves_from_then_on(small, make_model, caplog) -> None:
    probe, sizes = small
    batch = padded(samples(8))
    layout = CausalLM().layout(batch)
    expected = Probe(make_model(), CausalLM()).nll(batch, layout)
    assert torch.allclose(probe.nll(batch, layout), expected)
    assert sizes == [8, 4, 2, 2, 2, 2]
    sizes.clear()
    assert torch.allclose(probe.nll(batch, layout), expected)
    assert sizes == [2, 2, 2, 2]
    assert [r.getMessage().partition(" rows")[0][-1] for r in caplog.records] == ["8", "4"]


def test_one_row_that_does_not_fit_is_an_error(make_model) -> None:
    model = make_model()

    def refuse(*args):
        raise torch.OutOfMemoryError("no memory")

    model.register_forward_pre_hook(refuse)
    probe = Probe(model, CausalLM())
    for batch, n in ((padded(samples(1)), 1), (packed(samples(4)), 4)):
        with pytest.raises(torch.OutOfMemoryError):
            probe.nll(batch, CausalLM().layout(batch, n))


def test_a_training_forward_is_not_parted(small) -> None:
    probe, sizes = small
    with torch.enable_grad(), pytest.raises(torch.OutOfMemoryError):
        probe.log_probs(padded(samples(4)))
    assert sizes == [4]


def test_pairs_are_not_parted_since_their_rows_stand_in_both_halves(small) -> None:
    probe, sizes = small
    pairs = Probe(probe.model, PairedCausalLM())
    batch = padded(samples(4))
    labels = batch.pop("labels")
    batch["completion_mask"] = (labels != -100).long()
    with pytest.raises(torch.OutOfMemoryError):
        pairs.nll(batch, pairs.task.layout(batch))
    assert sizes == [4]
