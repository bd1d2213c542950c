"""Modules, loaders and a fit that the tests of Lightning share."""

from __future__ import annotations

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from ggmi_callbacks import CarryIds, Numbered
from ggmi_callbacks.integrations.lightning import GGMICallback

from ._jobs import tokenised


class Wrapper(lightning.LightningModule):
    """Around a language model, with nothing that knows of GGMI."""

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
    """With a loss of its own; ``training_step`` returns the samples' losses beside it, or the loss alone."""

    def __init__(self, returns="dict"):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.returns = nn.Linear(4, 2), returns

    def losses(self, batch):
        return F.cross_entropy(self.net(batch[0]), batch[1], reduction="none")

    def training_step(self, batch, index):
        losses = self.losses(batch)
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


def point_callback(anchors=None, **settings):
    """A callback for :class:`Classifier`, whose shadow learns something."""
    settings = {"sample_loss": Classifier.losses, "shadow_learning_rate": 0.1, "shadow_epochs": 8, **settings}
    return GGMICallback(points(192, seed=1) if anchors is None else anchors, **settings)


def text_loader(tokenizer, rows, shuffle=False, batch=4):
    from datasets import Dataset
    from transformers import DataCollatorForSeq2Seq

    data = tokenised(Dataset.from_list(rows), tokenizer).remove_columns("source")
    return DataLoader(Numbered(data), batch, shuffle=shuffle, collate_fn=CarryIds(DataCollatorForSeq2Seq(tokenizer)))


def make_trainer(callbacks, tmp_path, **settings):
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
    return lightning.Trainer(callbacks=callbacks, **options)


def fit(module, callback, loader, tmp_path, ckpt_path=None, val=None, **settings):
    trainer = make_trainer([callback] if callback else [], tmp_path, **settings)
    trainer.fit(module, loader, val, ckpt_path=ckpt_path)
    return trainer


def parameters(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])
