"""A trainer with a ``compute_loss`` of its own: weights reach its loss, or the run stops before the optimiser steps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ggmi_callbacks import Filter, Monitor, Reweight

from .._loop import Pattern
from ._jobs import BOTH, gradients_of_first_step, handwritten_gradients, weights

PATTERN = (0.5, 2.0, 0.0, 1.25)

pytestmark = pytest.mark.slow


def nll(logits, labels):
    return F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), labels[:, 1:], reduction="sum")


def forward(model, inputs, **more):
    return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **more)


def of_super(trainer, base, model, inputs, items):
    return base.compute_loss(trainer, model, inputs, num_items_in_batch=items)


def of_outputs_loss(trainer, base, model, inputs, items):
    return forward(model, inputs, labels=inputs["labels"], num_items_in_batch=items).loss


def of_logits(trainer, base, model, inputs, items):
    return nll(forward(model, inputs).logits, inputs["labels"]) / items


def of_hidden_states(trainer, base, model, inputs, items):
    hidden = forward(model, inputs, output_hidden_states=True).hidden_states[-1]
    return nll(model.get_output_embeddings()(hidden), inputs["labels"]) / items


def of_another_forward(trainer, base, model, inputs, items):
    hidden = forward(model.model, inputs).last_hidden_state
    return nll(model.get_output_embeddings()(hidden), inputs["labels"]) / items


def of_the_fused_loss(trainer, base, model, inputs, items):
    return model(**inputs, fused_lm_head=True, num_items_in_batch=items).loss


REACHED, MISSED = [of_super, of_outputs_loss, of_logits], [of_hidden_states, of_another_forward]


def with_loss(make):
    def subclass(base):
        class Own(base):
            def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
                return make(self, base, model, inputs, num_items_in_batch)

        return Own

    return subclass


@BOTH
@pytest.mark.parametrize("loss", REACHED)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_weights_reach_a_loss_made_of_the_outputs(kind, loss, accumulation, make_trainer, make_model):
    args = {"max_grad_norm": 0, "gradient_accumulation_steps": accumulation, "max_steps": 1}
    trainer, _ = make_trainer(kind, Pattern(*PATTERN), subclass=with_loss(loss), **args)
    wanted = handwritten_gradients(make_trainer(kind, **args)[0], make_model(), PATTERN, accumulation)
    got = gradients_of_first_step(trainer)
    assert (got - wanted).norm() <= 1e-6 * wanted.norm()


@BOTH
@pytest.mark.parametrize("loss", MISSED)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_weights_that_do_not_reach_the_loss_stop_the_run_before_the_optimiser_steps(
    kind, loss, accumulation, make_trainer, make_model
):
    trainer, _ = make_trainer(
        kind, Reweight(), subclass=with_loss(loss), gradient_accumulation_steps=accumulation, max_steps=2
    )
    with pytest.raises(RuntimeError, match=r"did not reach the loss of step 0: `Own\.compute_loss`.*Filter\(\)"):
        trainer.train()
    assert torch.equal(weights(trainer), torch.cat([p.flatten() for p in make_model().parameters()]))


@BOTH
@pytest.mark.parametrize("loss", REACHED + MISSED)
def test_a_filter_needs_no_weights_in_the_loss(kind, loss, make_trainer, make_model):
    args, pattern = {"max_grad_norm": 0, "max_steps": 1}, (1.0, 0.0, 0.0, 1.0)
    trainer, _ = make_trainer(kind, Pattern(*pattern, drops=True), subclass=with_loss(loss), **args)
    wanted = handwritten_gradients(make_trainer(kind, **args)[0], make_model(), pattern, 1)
    got = gradients_of_first_step(trainer)
    assert (got - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.filterwarnings("ignore:the policy kept none")
@BOTH
def test_a_mean_of_ones_own_over_an_emptied_batch_trains_on_nothing(kind, make_trainer, make_model):
    def mean(trainer, base, model, inputs, items):
        logits = forward(model, inputs).logits
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), inputs["labels"][:, 1:])  # NaN without targets

    trainer, _ = make_trainer(kind, Pattern(0.0, drops=True), subclass=with_loss(mean), max_steps=2)
    trainer.train()
    assert torch.equal(weights(trainer), torch.cat([p.flatten() for p in make_model().parameters()]))


@BOTH
@pytest.mark.parametrize("loss", REACHED + MISSED)
def test_monitor_watches_any_loss(kind, loss, make_trainer):
    plain, _ = make_trainer(kind, subclass=with_loss(loss), max_steps=2)
    plain.train()
    watched, callback = make_trainer(kind, Monitor(), subclass=with_loss(loss), callback={"overhead": 0.9}, max_steps=2)
    watched.train()
    assert torch.equal(weights(watched), weights(plain))
    assert len(callback.ledger) == 8


def test_the_loss_of_the_fused_head_is_made_before_weights_and_told(make_trainer):
    trainer, _ = make_trainer("sft", Reweight(), subclass=with_loss(of_the_fused_loss), max_steps=2)
    with pytest.raises(RuntimeError, match="did not reach the loss of step 0"):
        trainer.train()


def test_an_old_signature_is_called_as_the_trainer_calls_it(make_trainer):
    def subclass(base):
        class Old(base):
            def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
                return super().compute_loss(model, inputs, return_outputs, **kwargs)

        return Old

    trainer, _ = make_trainer("trainer", Filter(keep=0.5), subclass=subclass, max_steps=1)
    trainer.train()
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] > 0


@BOTH
def test_the_loss_per_trained_token_is_logged_beside_the_objective(kind, make_trainer, make_model):
    """Under a filter the objective falls with the share kept; what a trained token costs does not."""
    args = {"max_steps": 1, "max_grad_norm": 0}
    pattern = (1.0, 0.0, 0.0, 1.0)
    trainer, _ = make_trainer(kind, Pattern(*pattern, drops=True), **args)
    trainer.train()
    batch = next(iter(make_trainer(kind, **args)[0].get_train_dataloader()))
    rows = {key: batch[key][[0, 3]] for key in ("input_ids", "attention_mask", "labels")}
    total = nll(make_model()(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits, rows["labels"])
    tokens = rows["labels"][:, 1:].ne(-100).sum()
    entry = trainer.state.log_history[0]
    assert entry["ggmi/loss_per_trained_token"] == pytest.approx(float((total / tokens).detach()), rel=1e-5)
    assert entry["loss"] == pytest.approx(float((total / batch["labels"][:, 1:].ne(-100).sum()).detach()), rel=1e-3)
