"""Lightning: language models unchanged, other modules through their per-sample losses."""

from __future__ import annotations

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ggmi_callbacks import CarryIds, Filter, Monitor, Numbered, Reweight
from ggmi_callbacks.integrations.lightning import GGMICallback

from .._sums import sums
from ._jobs import tokenised

pytestmark = pytest.mark.filterwarnings("ignore")


class Wrapper(lightning.LightningModule):
    def __init__(self, model, lr=1e-2):
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch, index):
        loss = self.model(**batch).loss
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Classifier(lightning.LightningModule):
    def __init__(self, returns="dict"):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.returns = nn.Linear(4, 2), returns

    def training_step(self, batch, index):
        x, y = batch
        losses = F.cross_entropy(self.net(x), y, reduction="none")
        self.log("train_loss", losses.mean())
        return {"loss": losses.mean(), "sample_loss": losses} if self.returns == "dict" else losses.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


class Manual(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        out = super().training_step(batch, index)
        if self.training and torch.is_grad_enabled():
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(out["loss"])
            optimizer.step()
        return out


def points(n, seed=0, flipped=0.0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=draw)
    y = (x[:, 0] > 0).long()
    flip = torch.arange(n) < flipped * n
    return TensorDataset(x, torch.where(flip, 1 - y, y))


def text_loader(tokenizer, rows, shuffle=False, batch=4):
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq

    data = tokenised(Dataset.from_list(rows), tokenizer).remove_columns("source")
    return DataLoader(Numbered(data), batch, shuffle=shuffle, collate_fn=CarryIds(DataCollatorForSeq2Seq(tokenizer)))


def fit(module, callback, loader, tmp_path, ckpt_path=None, val=None, **settings):
    options = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "devices": 1,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
        "logger": CSVLogger(tmp_path),
        "default_root_dir": tmp_path,
        **settings,
    }
    trainer = lightning.Trainer(callbacks=[callback] if callback else [], **options)
    trainer.fit(module, loader, val, ckpt_path=ckpt_path)
    return trainer


def parameters(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("policy", [Monitor, lambda: Filter(keep=0.5), Reweight])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_language_model_unchanged(policy, precision, make_model, tokenizer, tmp_path):
    rows = sums(24)
    callback = GGMICallback(
        text_loader(tokenizer, sums(12, 1, bad=False)), policy=policy(), sources=[r["source"] for r in rows]
    )
    module = Wrapper(make_model())
    loader = text_loader(tokenizer, rows)
    trainer = fit(module, callback, loader, tmp_path, precision=precision, val=loader, max_epochs=2)
    assert len(callback.ledger) == 48
    assert {"ggmi/gain", "ggmi/coverage", "ggmi/gain/right", "ggmi/anchor_nll"} <= set(trainer.logged_metrics)
    assert "ggmi/ggmi" in callback.results()
    assert not hasattr(module.model, "_loss_function")
    if callback.policy.acts:
        assert len(set(callback.ledger.table["weight"].to_pylist())) > 1


def test_monitor_is_bit_equal_to_no_callback(make_model, tokenizer, tmp_path):
    runs = []
    for callback in (None, GGMICallback(text_loader(tokenizer, sums(12, 1, bad=False)), overhead=0.9)):
        lightning.seed_everything(7)
        module = Wrapper(make_model(attention_dropout=0.1))
        loader = text_loader(tokenizer, sums(24), shuffle=True)
        fit(module, callback, loader, tmp_path, val=text_loader(tokenizer, sums(4)))
        runs.append(parameters(module))
    assert torch.equal(*runs)


def test_dropped_and_weighted_samples_train_alike(make_model, tokenizer, tmp_path):
    from ._jobs import Fixed

    runs = []
    for drops in (True, False):
        module = Wrapper(make_model())
        anchors = text_loader(tokenizer, sums(12, 1, bad=False))
        fit(
            module,
            GGMICallback(anchors, policy=Fixed(1.0, 0.0, drops=drops)),
            text_loader(tokenizer, sums(24)),
            tmp_path,
        )
        runs.append(parameters(module))
    assert (runs[0] - runs[1]).norm() <= 1e-6 * runs[0].norm()


def test_run_resumed_at_an_epoch_is_bit_equal_to_one_never_stopped(make_model, tokenizer, tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    def run(ckpt_path=None):
        module = Wrapper(make_model())
        callback = GGMICallback(text_loader(tokenizer, sums(12, 1, bad=False)), policy=Reweight())
        keep = ModelCheckpoint(tmp_path / "c", filename="{step}", every_n_train_steps=6, save_top_k=-1)
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback, keep],
            log_every_n_steps=1,
        )
        trainer.fit(module, text_loader(tokenizer, sums(24)), ckpt_path=ckpt_path)
        return parameters(module), callback.ledger.table

    whole, ledger = run()
    again, second = run(str(tmp_path / "c" / "step=6.ckpt"))
    assert torch.equal(whole, again)
    assert ledger.equals(second)


@pytest.mark.parametrize("how", ["key", "adapter"])
@pytest.mark.parametrize("policy", [Monitor, lambda: Filter(keep=0.5), Reweight])
def test_a_classifier_with_per_sample_losses(how, policy, tmp_path):
    loader = DataLoader(points(64, flipped=0.25), 8)
    adapter = None
    if how == "adapter":
        adapter = lambda module, batch: F.cross_entropy(module.net(batch[0]), batch[1], reduction="none")  # noqa: E731
    callback = GGMICallback(
        points(32, seed=1), policy=policy(), sample_loss=adapter, shadow_learning_rate=0.3, shadow_epochs=8
    )
    module = Classifier()
    trainer = fit(module, callback, loader, tmp_path)
    rows = callback.ledger.table.to_pylist()
    assert len(rows) == 64
    flipped, clean = ([r["gain"] for r in rows if (r["id"] < 16) == wrong] for wrong in (True, False))
    assert sum(flipped) / len(flipped) < sum(clean) / len(clean)
    if how == "key" or not callback.policy.acts:
        assert "train_loss" in trainer.logged_metrics
    assert "training_step" not in vars(module)


def test_weights_act_on_the_loss_of_a_classifier(tmp_path):
    """Filter at weight zero for wrong labels equals training on the rest with the same N."""
    from ._jobs import Fixed

    runs = []
    for drops in (True, False):
        module = Classifier()
        fit(
            module,
            GGMICallback(points(64, 1), policy=Fixed(1.0, 0.0, 0.0, drops=drops), shadow_learning_rate=0.03),
            DataLoader(points(32), 8),
            tmp_path,
        )
        runs.append(parameters(module))
    assert (runs[0] - runs[1]).norm() <= 1e-6 * runs[0].norm()
    plain = Classifier()
    fit(plain, None, DataLoader(points(32), 8), tmp_path)
    assert not torch.allclose(parameters(plain), runs[0], rtol=1e-2)


def test_without_per_sample_losses_monitor_works_and_filter_shows_how(tmp_path):
    loader = DataLoader(points(32), 8)
    monitor = GGMICallback(points(16, 1))
    fit(Classifier("scalar"), monitor, loader, tmp_path)
    assert len(monitor.ledger) == 32
    for policy in (Filter(), Reweight()):
        with pytest.raises(ValueError, match=r"'sample_loss': losses.*sample_loss=lambda module, batch"):
            fit(Classifier("scalar"), GGMICallback(points(16, 1), policy=policy), loader, tmp_path)


def test_manual_optimisation_is_watched_and_not_acted_upon(tmp_path):
    loader = DataLoader(points(32), 8)
    with pytest.raises(ValueError, match="manual optimisation"):
        fit(Manual(), GGMICallback(points(16, 1), policy=Filter()), loader, tmp_path)
    plain, watched = Manual(), Manual()
    fit(plain, None, loader, tmp_path)
    fit(watched, GGMICallback(points(16, 1)), loader, tmp_path)
    assert torch.equal(parameters(plain), parameters(watched))


def test_the_model_is_named_if_there_are_several(make_model, tokenizer, tmp_path):
    class Two(Wrapper):
        def __init__(self, model, teacher):
            super().__init__(model)
            self.teacher = teacher

    loader, anchors = text_loader(tokenizer, sums(8)), text_loader(tokenizer, sums(8, 1, bad=False))
    with pytest.raises(ValueError, match=r"model, teacher.*model_attribute="):
        fit(Two(make_model(), make_model()), GGMICallback(anchors), loader, tmp_path)
    with pytest.raises(ValueError, match="`model_attribute` 'student' is no module of Two"):
        fit(Two(make_model(), make_model()), GGMICallback(anchors, model_attribute="student"), loader, tmp_path)
    callback = GGMICallback(anchors, model_attribute="model")
    fit(Two(make_model(), make_model()), callback, loader, tmp_path)
    assert len(callback.ledger) == 8


def test_a_loss_made_outside_the_model_is_not_silently_unweighted(make_model, tokenizer, tmp_path):
    class Own(Wrapper):
        def training_step(self, batch, index):
            labels = batch.pop("labels")
            logits = self.model(**{k: v for k, v in batch.items() if k != "ggmi_sample"}).logits
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    loader, anchors = text_loader(tokenizer, sums(8)), text_loader(tokenizer, sums(8, 1, bad=False))
    with pytest.raises(RuntimeError, match="called with keyword arguments and `labels`"):
        fit(Own(make_model()), GGMICallback(anchors, policy=Reweight()), loader, tmp_path)


def test_accumulation_averages_micro_batches(make_model, tokenizer, tmp_path):
    """With equal token counts in every micro-batch, Lightning's mean of means is the mean of all."""
    rows = [sums(1)[0]] * 16
    runs = []
    for batch, accumulate in ((2, 4), (8, 1)):
        module = Wrapper(make_model())
        anchors = text_loader(tokenizer, sums(12, 1, bad=False))
        loader = text_loader(tokenizer, rows, batch=batch)
        callback = GGMICallback(anchors, policy=Reweight())
        fit(module, callback, loader, tmp_path, accumulate_grad_batches=accumulate)
        assert set(callback.ledger.table["step"].to_pylist()) == {0, 1}
        runs.append(parameters(module))
    assert (runs[0] - runs[1]).norm() <= 1e-5 * runs[0].norm()


def test_pytorch_lightning_takes_the_callback_too(tmp_path):
    import pytorch_lightning

    class Module(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)

        training_step, configure_optimizers, returns = Classifier.training_step, Classifier.configure_optimizers, "dict"

    callback = GGMICallback(points(16, 1), policy=Filter(keep=0.5))
    trainer = pytorch_lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False
    )
    trainer.fit(Module(), DataLoader(points(32), 8))
    assert len(callback.ledger) == 32


def test_too_few_anchors(tmp_path):
    with pytest.raises(ValueError, match="`anchors` must hold at least two"):
        fit(Classifier(), GGMICallback(points(1)), DataLoader(points(8), 4), tmp_path)
