"""One fit after another: what a callback takes from a trainer, what it leaves behind, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR, StepLR
from torch.utils.data import DataLoader

from ggmi_callbacks import Filter, Monitor, Reweight
from ggmi_callbacks.integrations._own_loss import own_loss
from ggmi_callbacks.integrations.lightning import GGMICallback

from .._sums import sums
from ._lightning import (
    Classifier,
    Wrapper,
    fit,
    make_trainer,
    point_callback,
    points,
    text_loader,
)

EACH = pytest.mark.parametrize("policy", [Monitor, lambda: Filter(keep=0.5), Reweight], ids=["monitor", "filter", "re"])
KINDS = pytest.mark.parametrize("kind", ["language model", "own loss"])


@pytest.fixture
def job(make_model, tokenizer):
    """Module, callback and loader of either kind."""

    def job(kind, policy=None, anchors=1, **settings):
        if kind == "own loss":
            loader = DataLoader(points(32), 8)
            return Classifier(), point_callback(points(192, anchors), policy=policy, **settings), loader
        human = text_loader(tokenizer, sums(12, anchors, bad=False))
        return Wrapper(make_model()), GGMICallback(human, policy=policy, **settings), text_loader(tokenizer, sums(32))

    return job


def state_of(module):
    """Names of everything that hangs on a module and on those in it."""
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks), len(m._backward_hooks)) for m in module.modules()]
    return hooks, [sorted(vars(m)) for m in module.modules()], [m.training for m in module.modules()]


class Stop(Callback):
    def __init__(self, error, after=2):
        self.error, self.after = error, after

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == self.after:
            raise self.error


# -- before, during and after a fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ledger", "engine"])
def test_before_the_first_fit_there_is_nothing_to_read(name):
    callback = GGMICallback([])
    with pytest.raises(RuntimeError, match=r"call `trainer\.fit` first"):
        getattr(callback, name)
    with pytest.raises(RuntimeError, match=r"call `trainer\.fit` first"):
        callback.results()


@KINDS
@EACH
def test_after_a_fit_module_and_trainer_are_as_without_the_callback(kind, policy, job, tmp_path):
    module, callback, loader = job(kind, policy())
    plain, _, _ = job(kind)
    trainer, other = fit(module, callback, loader, tmp_path), fit(plain, None, loader, tmp_path)
    assert state_of(module) == state_of(plain)
    assert sorted(vars(trainer)) == sorted(vars(other))
    fit(module, None, loader, tmp_path)  # and train on alone
    assert len(callback.ledger) == 32


@KINDS
@EACH
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=["exception", "ctrl-c"])
def test_after_an_error_module_and_trainer_are_as_without_the_callback(kind, policy, error, job, tmp_path):
    stopped = SystemExit if isinstance(error, KeyboardInterrupt) else type(error)  # Lightning leaves the program
    states = []
    for with_callback in (True, False):
        module, callback, loader = job(kind, policy())
        trainer = make_trainer([*([callback] if with_callback else []), Stop(error)], tmp_path)
        with pytest.raises(stopped):
            trainer.fit(module, loader)
        states.append((state_of(module), sorted(vars(trainer))))
        if with_callback:
            assert len(callback.ledger) >= 8
            fit(module, callback, loader, tmp_path)
            assert len(callback.ledger) == 32
    assert states[0] == states[1]


def test_an_error_before_the_first_step_leaves_nothing_behind(job, tmp_path):
    module, callback, loader = job("language model", Reweight(), shadow_learning_rate=1e-30)
    before = state_of(module)
    with pytest.raises(ValueError, match="did not shorten"):
        fit(module, callback, loader, tmp_path)
    assert state_of(module)[0] == before[0]
    assert not hasattr(module.model, "_loss_function")


def test_a_training_step_of_the_instances_own_comes_back():
    module = Classifier()
    module.training_step = mine = lambda batch, index: None
    with own_loss(None, module):
        assert module.training_step is not mine
    assert vars(module)["training_step"] is mine


@KINDS
@EACH
def test_a_second_fit_starts_anew(kind, policy, job, tmp_path):
    module, callback, loader = job(kind, policy())
    fit(module, callback, loader, tmp_path)
    first = callback.ledger.table
    fit(job(kind)[0], callback, loader, tmp_path)
    assert callback.ledger.table.equals(first)


def test_a_trainer_that_fits_again_goes_on_counting(job, tmp_path):
    module, callback, loader = job("own loss", Reweight())
    trainer = fit(module, callback, loader, tmp_path)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader)
    assert sorted(set(callback.ledger.table["step"].to_pylist())) == [4, 5, 6, 7]


def test_steps_are_logged_where_the_trainer_logs_none(job, tmp_path):
    module, callback, loader = job("own loss")
    fit(
        module,
        callback,
        loader,
        tmp_path,
        barebones=True,
        logger=None,
        enable_checkpointing=None,
        log_every_n_steps=None,
    )
    assert "ggmi/ggmi_mixture" in callback.results()


# -- what is refused -------------------------------------------------------------------------------------------------


def test_two_callbacks_on_one_trainer_are_refused(job, tmp_path):
    module, callback, loader = job("own loss")
    _, other, _ = job("own loss", Reweight())
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `GGMICallback`"):  # Lightning's own
        make_trainer([callback, other], tmp_path)
    for second in (other, callback):
        trainer = make_trainer([callback], tmp_path)
        trainer.callbacks.append(second)
        with pytest.raises(RuntimeError, match=r"the trainer has 2 GGMICallbacks.*take out all but one"):
            trainer.fit(module, loader)
    fit(module, callback, loader, tmp_path)


@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
def test_strategies_that_shard_the_model_are_refused(name, job, tmp_path):
    from lightning.pytorch import strategies

    kind = getattr(strategies, name)
    trainer = make_trainer([], tmp_path)
    trainer._accelerator_connector.strategy = kind.__new__(kind)  # they cannot be set up without their hardware
    with pytest.raises(ValueError, match=rf"`strategy` {name} shards the model, which the probe reads whole: use"):
        job("own loss")[1].setup(trainer, None, "fit")


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"policy": "filter"}, TypeError, r"`policy` must be a policy .* got 'filter': write Filter\(\)"),
        ({"policy": Filter}, TypeError, r"got the class Filter: write Filter\(\)"),
        ({"shadow_learning_rate": 0.0}, ValueError, "`shadow_learning_rate` must be positive, got 0.0"),
        ({"model_attribute": "net", "sample_loss": Classifier.losses}, ValueError, "not both"),
    ],
)
def test_arguments_that_cannot_be_are_refused_at_once(settings, error, said):
    with pytest.raises(error, match=said):
        GGMICallback([], **settings)


# -- the shadow's rate and precision ---------------------------------------------------------------------------------


def schedules():
    warm = {"start_factor": 1e-6, "total_iters": 3}
    return {
        "none": (0.3, lambda o: None, 0.3),
        "warm-up": (0.3, lambda o: LinearLR(o, **warm), 0.3),
        "warm-up and decay": (0.3, lambda o: SequentialLR(o, [LinearLR(o, **warm), StepLR(o, 1)], [3]), 0.3),
        "lambda from zero": (0.3, lambda o: LambdaLR(o, lambda t: min(1.0, t / 2)), 0.3),
        "lambda of the whole rate": (1.0, lambda o: LambdaLR(o, lambda t: 0.3 * min(1.0, t / 2)), 0.3),
        "one cycle": (1.0, lambda o: OneCycleLR(o, max_lr=0.3, total_steps=4), 0.3),
        "cycles": (1e-3, lambda o: CyclicLR(o, 1e-3, 0.3, step_size_up=2, cycle_momentum=False), 0.3),
    }


@pytest.mark.parametrize("name", schedules())
def test_the_shadow_learns_at_the_highest_rate_of_the_schedule(name, job, tmp_path):
    lr, make, wanted = schedules()[name]

    class Scheduled(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=lr)
            scheduler = make(optimizer)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}] if scheduler else []

    callback = point_callback(shadow_learning_rate=None)
    fit(Scheduled(), callback, DataLoader(points(32), 8), tmp_path)
    assert callback.engine.learning_rate == pytest.approx(wanted)


@pytest.mark.parametrize("optimizer", ["none", "at rest"])
def test_without_a_rate_the_shadows_own_is_asked_for(optimizer, job, tmp_path):
    class Resting(Classifier):
        def configure_optimizers(self):
            return None if optimizer == "none" else torch.optim.SGD(self.parameters(), lr=0.0)

    loader = DataLoader(points(32), 8)
    with pytest.raises(ValueError, match=r"give `shadow_learning_rate`: (there is no|the optimiser's rate is 0\.0)"):
        fit(Resting(), point_callback(shadow_learning_rate=None), loader, tmp_path)
    fit(Resting(), point_callback(), loader, tmp_path)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", None), ("bf16-mixed", torch.bfloat16), ("bf16-true", None)]
)
def test_code_lengths_have_the_precision_of_the_training_forward(precision, dtype, job, tmp_path):
    module, callback, loader = job("own loss")
    fit(module, callback, loader, tmp_path, precision=precision)
    assert callback.engine.probe.autocast_dtype is dtype
