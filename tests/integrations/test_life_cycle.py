"""A callback is made, installed and taken off as one thing: the trainer is always as it was before."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import TrainerCallback

from ggmi_callbacks import Filter, Monitor, Reweight

from .._loop import Pattern
from ._jobs import BOTH, callback_class, losses, weights

EACH = pytest.mark.parametrize("policy", [Monitor, Reweight, Filter])

pytestmark = pytest.mark.slow


def state_of(trainer) -> dict[str, object]:
    """All that a callback could leave behind: attributes set on trainer, handler and model, and the user's data."""
    places = {
        f"trainer.{name}": value
        for name, value in vars(trainer).items()
        if callable(value) or name in ("train_dataset", "data_collator", "args", "callback_handler")
    }
    places |= {f"handler.{name}": value for name, value in vars(trainer.callback_handler).items() if callable(value)}
    places |= {f"model.{name}": None for name in vars(trainer.model)}
    places |= {f"hooks.{name}": len(module._forward_hooks) for name, module in trainer.model.named_modules()}
    places["columns"] = tuple(trainer.train_dataset.column_names)
    places["ids"] = "ggmi_sample" in (trainer._signature_columns or ())
    places.pop("model._is_accelerate_prepared", None)  # the trainer's own mark
    return places


def same(one: dict[str, object], other: dict[str, object]) -> bool:
    return one.keys() == other.keys() and all(one[name] == other[name] for name in one)


class At(TrainerCallback):
    """Calls a function at the end of a step."""

    def __init__(self, step, function):
        self.step, self.function = step, function

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.function()


def fail(error):
    def function():
        raise error

    return function


def clean_loss(make_trainer, kind, model) -> list[float]:
    """What a training without any callback says of ``model``."""
    trainer, _ = make_trainer(kind, model=model, max_steps=2)
    trainer.train()
    return losses(trainer)


@BOTH
def test_making_and_removing_a_callback_leaves_the_trainer_as_it_was(kind, make_trainer):
    trainer, _ = make_trainer(kind)
    before = dict(vars(trainer)), dict(vars(trainer.callback_handler)), dict(vars(trainer.model))
    for remove in (trainer.remove_callback, trainer.pop_callback):
        for what in (lambda callback: callback, type):
            callback = callback_class(kind)(trainer, trainer.train_dataset.select(range(8)), policy=Reweight())
            trainer.add_callback(callback)
            remove(what(callback))
            after = vars(trainer), vars(trainer.callback_handler), vars(trainer.model)
            assert all(then == now for then, now in zip(before, after, strict=True))
    trainer.train()
    plain, _ = make_trainer(kind)
    plain.train()
    assert torch.equal(weights(trainer), weights(plain))


@BOTH
@EACH
def test_after_training_the_trainer_is_as_it_was(kind, policy, make_trainer):
    trainer, callback = make_trainer(kind, policy(), max_steps=2)
    before = state_of(trainer)
    trainer.train()
    assert same(state_of(trainer), before)
    trainer.log({"loss": 1.0})
    assert not any(name.startswith("ggmi/") for name in trainer.state.log_history[-1])
    assert callback.ledger.table["kept"].to_pylist().count(True) == 8


@BOTH
@EACH
@pytest.mark.parametrize("error", [RuntimeError("a step failed"), KeyboardInterrupt()], ids=["exception", "ctrl-c"])
def test_an_exception_or_ctrl_c_leaves_the_trainer_as_it_was(kind, policy, error, make_trainer):
    trainer, _ = make_trainer(kind, policy(), max_steps=4)
    trainer.add_callback(At(1, fail(error)))
    before = state_of(trainer)
    with pytest.raises(type(error)):
        trainer.train()
    assert same(state_of(trainer), before)


@BOTH
def test_a_training_without_callback_after_an_exception_is_a_plain_one(kind, make_trainer):
    trainer, _ = make_trainer(kind, Pattern(0.5), max_steps=4)
    trainer.add_callback(At(1, fail(RuntimeError("a step failed"))))
    with pytest.raises(RuntimeError, match="a step failed"):
        trainer.train()
    twin = copy.deepcopy(trainer.model)
    assert "_loss_function" not in vars(twin)
    assert clean_loss(make_trainer, kind, trainer.model) == clean_loss(make_trainer, kind, twin)


@BOTH
@EACH
def test_auto_find_batch_size_retries(kind, policy, make_trainer):
    """A batch of four is too much, one of three is not; the retry is a run of its own."""

    def run(policy, **callback):
        trainer, added = make_trainer(kind, policy, max_steps=3, auto_find_batch_size=True, callback=callback)
        seen = []

        def limit(module, args, kwargs):
            if module.training:
                seen.append(len(kwargs["input_ids"]))
                if seen[-1] > 3:
                    raise RuntimeError("CUDA out of memory. Tried to allocate")

        hook = trainer.model.register_forward_pre_hook(limit, with_kwargs=True)
        before = state_of(trainer)
        trainer.train()
        assert same(state_of(trainer), before)
        assert seen[0] == 4
        assert max(seen[1:]) <= 3
        hook.remove()
        return trainer, added

    if policy is not Filter:
        trainer, callback = run(policy())
        assert len(callback.ledger) == 9
        assert max(len(batch["input_ids"]) for batch in callback.engine.anchors) <= 3
    else:  # a filter's first batch may be small enough: what it drops never meets the limit
        trainer, callback = run(Pattern(1.0, drops=True))
    assert set(callback.ledger.table["step"].to_pylist()) == {0, 1, 2}
    if policy is Monitor:
        plain, _ = run(None)
        assert losses(trainer) == losses(plain)
        assert torch.equal(weights(trainer), weights(plain))


@BOTH
def test_train_again_starts_anew_also_after_an_exception(kind, make_trainer):
    trainer, callback = make_trainer(kind, Reweight(), max_steps=3)
    stop = At(2, fail(RuntimeError("a step failed")))
    trainer.add_callback(stop)
    with pytest.raises(RuntimeError, match="a step failed"):
        trainer.train()
    trainer.remove_callback(stop)
    trainer.train()
    assert callback.ledger.table["step"].to_pylist() == [0] * 4 + [1] * 4 + [2] * 4


@BOTH
def test_a_training_set_exchanged_between_trainings_is_read_again(kind, make_trainer):
    trainer, callback = make_trainer(kind, Monitor(), callback={"source": "source"})
    trainer.train()
    trainer.train_dataset = (
        trainer.train_dataset.select(range(8)).remove_columns("source").add_column("source", [1] * 8)
    )
    trainer.train()
    assert sorted(callback.ledger.table["id"].to_pylist()) == list(range(8))
    assert set(callback.ledger.table["source"].to_pylist()) == {"1"}


@BOTH
def test_the_users_data_set_never_gets_a_column(kind, make_trainer):
    trainer, _ = make_trainer(kind, Monitor(), max_steps=1)
    data, collator, seen = trainer.train_dataset, trainer.data_collator, []
    trainer.add_callback(At(1, lambda: seen.append((trainer.train_dataset, trainer.data_collator))))
    trainer.train()
    assert seen == [(data, collator)]
    assert "ggmi_sample" not in data.column_names


@BOTH
def test_results_before_training_say_what_to_do(kind, make_trainer):
    trainer, callback = make_trainer(kind, Monitor(), max_steps=1)
    for ask in (callback.results, lambda: callback.ledger, lambda: callback.engine):
        with pytest.raises(RuntimeError, match=r"call `trainer\.train\(\)` first"):
            ask()
    trainer.train()
    trainer.remove_callback(callback)
    assert callback.results()["policy"] == "Monitor()"
    assert len(callback.ledger) == 4


@BOTH
def test_a_second_callback_on_one_trainer_is_refused_by_name(kind, make_trainer):
    trainer, callback = make_trainer(kind, Monitor(), max_steps=1)
    human = trainer.train_dataset.select(range(8))
    with pytest.raises(ValueError, match=r"has a GGMICallback already.*remove_callback\(GGMICallback\)"):
        callback_class(kind)(trainer, human, policy=Filter())
    trainer.remove_callback(callback)
    first = callback_class(kind)(trainer, human)  # made, and never added: gives way
    second = callback_class(kind)(trainer, human, policy=Reweight())
    trainer.add_callback(second)
    trainer.train()
    assert second.results()["policy"] == "Reweight()"
    trainer.add_callback(first)
    with pytest.raises(RuntimeError, match="has GGMICallbacks, 2 times"):
        trainer.train()


@BOTH
def test_a_callback_added_twice_is_refused_by_name(kind, make_trainer):
    trainer, callback = make_trainer(kind, Monitor(), max_steps=1)
    trainer.add_callback(callback)
    with pytest.raises(RuntimeError, match="has the same GGMICallback 2 times"):
        trainer.train()
    trainer.remove_callback(callback)
    trainer.train()
    assert len(callback.ledger) == 4


@BOTH
@pytest.mark.parametrize("own", [False, True])
def test_a_callback_of_another_trainer_is_refused_by_name(kind, own, make_trainer):
    _, stranger = make_trainer(kind, Monitor())
    trainer, _ = make_trainer(kind, Monitor() if own else None, max_steps=1)
    trainer.add_callback(stranger)
    with pytest.raises(RuntimeError, match="a GGMICallback of another trainer"):
        trainer.train()
    trainer.remove_callback(stranger)
    trainer.train()


@BOTH
def test_a_removed_callback_does_not_come_back(kind, make_trainer):
    trainer, callback = make_trainer(kind, Monitor(), max_steps=1)
    trainer.remove_callback(callback)
    trainer.add_callback(callback)
    with pytest.raises(RuntimeError, match="taken off its trainer: make another"):
        trainer.train()


@BOTH
@EACH
def test_a_callback_removed_in_the_middle_of_a_run_leaves_a_plain_run(kind, policy, make_trainer):
    trainer, callback = make_trainer(kind, policy(), max_steps=4)
    trainer.add_callback(At(2, lambda: trainer.remove_callback(callback)))
    trainer.train()
    assert losses(trainer)[2:]
    logged = [any(name.startswith("ggmi/") for name in entry) for entry in trainer.state.log_history if "loss" in entry]
    assert logged == [True, False, False, False]
    assert "_loss_function" not in vars(trainer.model)
    assert "compute_loss" not in vars(trainer)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_model_that_train_makes_is_the_one_that_is_scored_and_weighed(share, make_trainer, make_model):
    """``model_init``: the trainer makes a model when it is built, and a new one when training begins."""
    args = {"max_steps": 2, "trainer_kwargs": {"model_init": lambda: make_model()}}
    trainer, callback = make_trainer("trainer", Pattern(share) if share < 1 else Monitor(), **args)
    first = trainer.model
    trainer.train()
    assert trainer.model is not first
    assert callback.engine.probe.model is trainer.model
    plain, _ = make_trainer("trainer", **args)
    plain.train()
    assert losses(trainer)[0] == pytest.approx(share * losses(plain)[0], rel=1e-3)
    assert torch.equal(weights(trainer), weights(plain)) == (share == 1.0)
