"""What a LightningModule holds: a language model, however deep, or a loss of its own that has to be said."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ggmi_callbacks import Filter, GradientScorer, Monitor, Reweight
from ggmi_callbacks.integrations.lightning import GGMICallback

from .._loop import Pattern
from .._sums import sums
from ._lightning import Classifier, Wrapper, fit, parameters, point_callback, points, text_loader

EACH = pytest.mark.parametrize("policy", [Monitor, lambda: Filter(keep=0.5), Reweight], ids=["monitor", "filter", "re"])


class Holder(nn.Module):
    def __init__(self, lm):
        super().__init__()
        self.lm = lm


class Nested(Wrapper):
    """The language model is one module down."""

    def __init__(self, model, **others):
        super().__init__(Holder(model))
        for name, other in others.items():
            setattr(self, name, other)

    def training_step(self, batch, index):
        return self.model.lm(**batch).loss


@pytest.fixture
def run(make_model, tokenizer, tmp_path):
    """Fit a module on eight sums; returns the callback's rows and the module's parameters."""

    def run(module, policy=None, **settings):
        callback = GGMICallback(text_loader(tokenizer, sums(8, 1, bad=False)), policy=policy, **settings)
        fit(module, callback, text_loader(tokenizer, sums(8)), tmp_path)
        rows = callback.ledger.table.to_pylist()
        names = ("id", "gain", "weight", "nll")  # the length of a dropped sample is null
        columns = [[row[name] or 0.0 for name in names] for row in rows]
        return torch.tensor(columns, dtype=torch.float64), parameters(callback.engine.probe.model)

    return run


# -- finding the language model --------------------------------------------------------------------------------------


@EACH
def test_a_language_model_one_module_down_is_found(policy, run, make_model):
    flat, deep = run(Wrapper(make_model()), policy()), run(Nested(make_model()), policy())
    assert torch.equal(flat[0], deep[0])
    assert torch.equal(flat[1], deep[1])
    assert len(deep[0][:, 1].unique()) == 8  # not the mean of a batch for each of its samples


def test_several_language_models_are_refused_by_name_and_one_is_named(run, make_model):
    def module():
        return Nested(make_model(), teacher=make_model(seed=1))

    with pytest.raises(ValueError, match=r"several language models \(model\.lm, teacher\).*model_attribute="):
        run(module())
    with pytest.raises(ValueError, match=r"'student' is no module of Nested; .* in it: model\.lm, teacher"):
        run(module(), model_attribute="student")
    assert torch.equal(run(module(), model_attribute="model.lm")[0], run(Wrapper(make_model()))[0])


def test_adapters_belong_to_the_language_model(run, make_model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    rows, _ = run(Nested(adapted))
    assert len(rows[:, 1].unique()) == 8


@EACH
def test_an_encoder_is_no_language_model(policy, run, make_model):
    """Its loss is made by whoever holds it."""

    class Tagger(Wrapper):
        def __init__(self, model):
            super().__init__(model.model)
            self.head = nn.Linear(32, 2)

    with pytest.raises(ValueError, match=r"Tagger holds no Hugging Face causal LM.*sample_loss=Tagger\.losses"):
        run(Tagger(make_model()), policy())


@EACH
def test_a_loss_made_outside_the_model_is_refused_with_the_way_out(policy, run, make_model):
    class Own(Wrapper):
        def training_step(self, batch, index):
            logits = self.model(input_ids=batch["input_ids"]).logits
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())

    with pytest.raises(RuntimeError, match=r"called without.*`sample_loss=` of Lightning's GGMICallback"):
        run(Own(make_model()), policy())


def test_a_language_model_with_a_loss_of_its_own_is_scored_through_it(run, make_model):
    class Own(Wrapper):
        def losses(self, batch):
            logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            return F.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none").sum(1)

        def training_step(self, batch, index):
            losses = self.losses(batch)
            return {"loss": losses.mean(), "sample_loss": losses}

    ours, _ = run(Own(make_model()), Reweight(), sample_loss=Own.losses)
    theirs, _ = run(Wrapper(make_model()), Reweight())
    assert torch.allclose(ours[:4, 3], theirs[:4, 3], rtol=1e-5)  # before the first step, which is another


# -- a loss of its own -----------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("returns", ["dict", "number"])
def test_a_module_whose_samples_losses_are_not_known_is_refused(policy, returns, tmp_path):
    """Under Monitor too: the batch's mean is no sample's loss, and no training step runs outside training."""
    callback = GGMICallback(points(16, 1), policy=policy())
    with pytest.raises(ValueError, match=r"sample_loss=Classifier\.losses.*'sample_loss': losses"):
        fit(Classifier(returns), callback, DataLoader(points(32), 8), tmp_path)


@EACH
def test_the_training_step_runs_once_for_each_batch_that_is_trained_on(policy, tmp_path):
    """Metrics that it updates see neither anchors nor dropped samples, and its logs go on."""

    class Counting(Classifier):
        seen = 0

        def training_step(self, batch, index):
            self.seen += len(batch[0])
            return super().training_step(batch, index)

    module, callback = Counting(), point_callback(policy=policy())
    trainer = fit(module, callback, DataLoader(points(32), 8), tmp_path)
    assert module.seen == sum(row["kept"] for row in callback.ledger.table.to_pylist())
    assert "train_loss" in trainer.logged_metrics


@pytest.mark.parametrize("returns", ["dict", "number"])
def test_monitor_knows_each_samples_length_and_changes_nothing(returns, tmp_path):
    runs, lengths = [], []
    for callback in (None, point_callback(overhead=0.9)):
        module = Classifier(returns)
        fit(module, callback, DataLoader(points(32), 8), tmp_path)
        runs.append(parameters(module))
    assert torch.equal(*runs)
    lengths = callback.ledger.table["nll"].to_pylist()
    first = Classifier().losses(points(32)[:8]).tolist()
    assert lengths[:8] == pytest.approx(first, rel=1e-5)
    assert len(set(lengths)) == 32
    assert callback.results()["ggmi/weight_information"] != 0


@pytest.mark.parametrize("policy", [Filter, Reweight])
def test_a_loss_that_is_one_number_cannot_be_weighted(policy, tmp_path):
    with pytest.raises(ValueError, match=r"return \{'loss': losses\.mean\(\), 'sample_loss': losses\}"):
        fit(Classifier("number"), point_callback(policy=policy()), DataLoader(points(32), 8), tmp_path)


def test_what_is_in_the_loss_beside_the_samples_is_not_lost_in_silence(tmp_path):
    class Regularised(Classifier):
        def training_step(self, batch, index):
            out = super().training_step(batch, index)
            return {**out, "loss": out["loss"] + self.net.weight.square().sum()}

    with pytest.raises(ValueError, match="what else is in the loss would be lost"):
        fit(Regularised(), point_callback(policy=Reweight()), DataLoader(points(32), 8), tmp_path)
    fit(Regularised(), point_callback(), DataLoader(points(32), 8), tmp_path)


def test_losses_that_are_not_one_a_sample_are_refused(tmp_path):
    class Wrong(Classifier):
        def training_step(self, batch, index):
            out = super().training_step(batch, index)
            return {**out, "sample_loss": out["sample_loss"][:, None]}

    for policy in (Monitor(), Reweight()):
        with pytest.raises(ValueError, match=r"'sample_loss' .*must have shape \[n\], got \(8, 1\)"):
            fit(Wrong(), point_callback(policy=policy), DataLoader(points(32), 8), tmp_path)


def test_a_skipped_batch_stays_skipped(tmp_path):
    class Skipping(Classifier):
        def training_step(self, batch, index):
            return None if index == 1 else super().training_step(batch, index)

    callback = point_callback(policy=Reweight())
    fit(Skipping(), callback, DataLoader(points(32), 8), tmp_path)
    assert len(callback.ledger) == 32


@EACH
def test_gradient_scores_need_no_language_model(policy, tmp_path):
    callback = point_callback(policy=policy(), scorer=GradientScorer())
    fit(Classifier(), callback, DataLoader(points(32), 8), tmp_path)
    assert len(set(callback.ledger.table["gain"].to_pylist())) > 16


def test_batch_norm_survives_a_filter_that_leaves_one_sample(tmp_path):
    class Normed(Classifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    callback = point_callback(
        policy=Pattern(0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, drops=True), sample_loss=Normed.losses
    )
    fit(Normed(), callback, DataLoader(points(32), 8), tmp_path)
    assert callback.ledger.table["kept"].to_pylist().count(True) == 4


# -- compiled --------------------------------------------------------------------------------------------------------


class Silent(Wrapper):
    """Lightning's own ``self.log`` cannot be compiled."""

    def training_step(self, batch, index):
        return self.model(**batch).loss


class SilentClassifier(Classifier):
    def training_step(self, batch, index):
        losses = self.losses(batch)
        return {"loss": losses.mean(), "sample_loss": losses}


@pytest.mark.slow
@pytest.mark.parametrize("policy", [lambda: Filter(keep=0.5), Reweight], ids=["filter", "re"])
@pytest.mark.parametrize("what", ["model", "module"])
def test_a_compiled_language_model_is_scored_and_weighted_like_a_plain_one(policy, what, run, make_model):
    torch.compiler.reset()
    plain = run(Silent(make_model()), policy())
    if what == "model":
        compiled = run(Silent(torch.compile(make_model(), backend="eager")), policy())
    else:
        compiled = run(torch.compile(Silent(make_model()), backend="eager"), policy())
    assert torch.allclose(compiled[0], plain[0], rtol=1e-5, atol=1e-5)
    assert (compiled[1] - plain[1]).norm() <= 1e-6 * plain[1].norm()


@EACH
def test_a_compiled_module_with_a_loss_of_its_own(policy, tmp_path):
    torch.compiler.reset()
    runs = []
    for wrap in (lambda module: module, lambda module: torch.compile(module, backend="eager")):
        module = SilentClassifier()
        fitted = wrap(module)
        fit(fitted, point_callback(policy=policy()), DataLoader(points(32), 8), tmp_path)
        runs.append(parameters(module))
    assert (runs[0] - runs[1]).norm() <= 1e-6 * runs[0].norm()
