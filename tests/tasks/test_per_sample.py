"""Samples with a loss each, of models that are no language models."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ggmi_callbacks.tasks import SampleLoss, unwrap_batch, wrap_batch

BATCH = {"x": torch.ones(4, 3), "y": torch.tensor([0, 1, 0, 1])}


@pytest.mark.parametrize(
    "loss",
    [
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        lambda model, batch: model(batch["x"]),
        lambda model, batch: model(batch["x"]).flatten(),
    ],
    ids=["one number", "of each target", "more than one a sample"],
)
def test_a_loss_that_is_not_one_number_a_sample_is_refused(loss) -> None:
    with pytest.raises(ValueError, match=r"must have shape \[4\], one entry a sample, got .*reduction='none'"):
        SampleLoss(loss).log_probs(nn.Linear(3, 2), BATCH)


@pytest.mark.parametrize(
    "batch", [{"batch": torch.zeros(2), "x": torch.zeros(2)}, {"batch": torch.zeros(2)}, (torch.zeros(2),), [1]]
)
def test_a_batch_comes_out_as_it_went_in(batch) -> None:
    """A key named "batch", as graph libraries have it, is the user's own."""
    assert unwrap_batch(wrap_batch(batch)) == batch
