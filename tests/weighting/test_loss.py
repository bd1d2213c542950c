"""A weighted loss is sum_i w_i sum_t nll_it / N, in value and in gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ggmi_callbacks.weighting.loss import WeightedCausalLMLoss, fit_columns, scale_gradient, weigh_loss
from tests._batches import VOCABULARY, padded, samples

BATCH = padded(samples(4, seed=2))
W = torch.tensor([0.0, 0.3, 1.0, 2.5])


@pytest.fixture
def model(make_model):
    return make_model(vocab_size=VOCABULARY)


def gradient(model: torch.nn.Module, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def by_hand(model: torch.nn.Module, weights: Tensor, count: float | None = None) -> Tensor:
    """The definition, sample by sample."""
    logits = model(**{k: v for k, v in BATCH.items() if k != "labels"}).logits
    total = logits.new_zeros(())
    for b, weight in enumerate(weights):
        for t in range(1, BATCH["labels"].shape[1]):
            if BATCH["labels"][b, t] != -100:
                total = total - weight * logits[b, t - 1].log_softmax(0)[BATCH["labels"][b, t]]
    return total / (count or BATCH["labels"][:, 1:].ne(-100).sum())


def weighted(model: torch.nn.Module, weights: Tensor | None, **kwargs: Any) -> Tensor:
    model.loss_function = WeightedCausalLMLoss(type(model).loss_function.fget(model), lambda: weights)  # type: ignore[attr-defined]
    try:
        return model(**BATCH, **kwargs).loss
    finally:
        del model._loss_function


COUNTS = pytest.mark.parametrize("count", [None, 37, torch.tensor(37)], ids=["mean", "int", "tensor"])


@COUNTS
@pytest.mark.parametrize("columns", ["rows", "positions"])
def test_the_weighted_loss_is_its_definition(model, count: Any, columns: str) -> None:
    weights = W[:, None] if columns == "rows" else W[:, None].expand(-1, BATCH["labels"].shape[1] - 1)
    kwargs = {} if count is None else {"num_items_in_batch": count}
    loss = weighted(model, weights, **kwargs)
    expected = by_hand(model, W, count)
    assert torch.allclose(loss, expected, rtol=1e-6)
    ours, theirs = gradient(model, loss), gradient(model, expected)
    assert torch.linalg.norm(ours - theirs) < 1e-6 * torch.linalg.norm(theirs)


@COUNTS
def test_weights_of_one_change_no_bit_of_the_gradient(model, count: Any) -> None:
    kwargs = {} if count is None else {"num_items_in_batch": count}
    plain = model(**BATCH, **kwargs).loss
    ones = weighted(model, torch.ones(4, 1), **kwargs)
    assert torch.allclose(ones, plain, rtol=1e-6)
    assert torch.equal(gradient(model, ones), gradient(model, plain))


def test_undoing_leaves_the_models_own_loss_and_one_that_was_set(model) -> None:
    for before in ({}, {"_loss_function": model.loss_function}):
        vars(model).update(before)
        undo = weigh_loss(model, lambda: W[:, None])
        with pytest.raises(ValueError, match=r"weighted already: leave the other `attach` block"):
            weigh_loss(model, lambda: None)
        undo()
        assert {name: value for name, value in vars(model).items() if name == "_loss_function"} == before


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_it_is_known_whether_a_loss_was_made_with_gradient_compiled_or_not(model, compiled: bool) -> None:
    undo = weigh_loss(model, lambda: W[:, None])
    run = torch.compile(model, backend="aot_eager") if compiled else model
    for _ in range(2):
        run(**BATCH)
        assert model.loss_function.take_called()
        assert not model.loss_function.take_called()
        run(**{key: value for key, value in BATCH.items() if key != "labels"})
        with torch.no_grad():
            run(**BATCH)
        assert not model.loss_function.take_called()
    undo()


def test_without_weights_or_without_gradient_the_original_is_called(model) -> None:
    plain = model(**BATCH).loss
    assert torch.equal(weighted(model, None), plain)
    with torch.no_grad():
        assert torch.equal(weighted(model, W[:, None]), plain)


def test_labels_that_come_shifted_are_not_shifted_again(model) -> None:
    original = type(model).loss_function.fget(model)
    logits = torch.randn(4, BATCH["labels"].shape[1], VOCABULARY, generator=torch.Generator().manual_seed(0))
    shifted = F.pad(BATCH["labels"], (0, 1), value=-100)[:, 1:]
    loss = WeightedCausalLMLoss(original, lambda: W[:, None])
    at_once = loss(logits=logits, labels=BATCH["labels"], vocab_size=VOCABULARY)
    assert torch.equal(loss(logits=logits, labels=None, vocab_size=VOCABULARY, shift_labels=shifted), at_once)


def test_a_sample_of_weight_zero_contributes_nothing_and_raises_no_other(model) -> None:
    loss = weighted(model, torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
    alone = {k: v[:1] for k, v in BATCH.items()}
    share = alone["labels"][:, 1:].ne(-100).sum() / BATCH["labels"][:, 1:].ne(-100).sum()
    assert torch.allclose(loss, model(**alone).loss * share, rtol=1e-6)


def test_scaling_the_gradient_leaves_the_value_and_weighs_a_smoothed_loss(model) -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    smoother = LabelSmoother(epsilon=0.1)
    forward = {k: v for k, v in BATCH.items() if k != "labels"}

    def smoothed(weights: Tensor | None) -> Tensor:
        outputs = model(**forward)
        if weights is not None:
            outputs["logits"] = scale_gradient(
                outputs["logits"], fit_columns(weights, outputs["logits"].shape[1])[..., None]
            )
        return smoother(outputs, BATCH["labels"], shift_labels=True)

    assert torch.equal(smoothed(W[:, None]), smoothed(None))

    log_probs = model(**forward).logits[:, :-1].log_softmax(-1)
    labels = BATCH["labels"][:, 1:]
    nll = -log_probs.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    tokenwise = (0.9 * nll - 0.1 * log_probs.mean(-1)) * labels.ne(-100)
    expected = gradient(model, (W[:, None] * tokenwise).sum() / labels.ne(-100).sum())
    for weights in (W[:, None], W[:, None].expand(-1, labels.shape[1])):
        ours = gradient(model, smoothed(weights))
        assert torch.linalg.norm(ours - expected) < 1e-6 * torch.linalg.norm(expected)


def test_scaling_the_gradient_keeps_its_precision() -> None:
    x = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    scale_gradient(x, torch.tensor([0.5, 1.0, 2.0])).sum().backward()
    assert x.grad.dtype == torch.bfloat16
    assert x.grad.tolist() == [0.5, 1, 2]


@pytest.mark.parametrize(("given", "expected"), [((4, 1), (4, 1)), ((4, 7), (4, 8)), ((4, 8), (4, 8))])
def test_weights_fit_the_columns_of_the_logits(given: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_columns(torch.ones(given), 8).shape == expected
