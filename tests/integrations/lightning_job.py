"""A Lightning run of two ranks, and the same resumed half way; each rank writes what came of both to a file."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ggmi_callbacks import CarryIds, Numbered, Reweight
from ggmi_callbacks.integrations.lightning import GGMICallback


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)

    def losses(self, batch):
        return F.cross_entropy(self.net(batch["x"]), batch["y"], reduction="none")

    def training_step(self, batch, index):
        losses = self.losses(batch)
        return {"loss": losses.mean(), "sample_loss": losses}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.3)


def points(n, seed):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    return [{"x": row, "y": int(row[0] > 0)} for row in x]


def run(folder: Path, name: str, ckpt_path: str | None = None) -> None:
    shadow = {"shadow_learning_rate": 0.1, "shadow_epochs": 8}
    callback = GGMICallback(points(192, 1), policy=Reweight(), sample_loss=Classifier.losses, **shadow)
    keep = ModelCheckpoint(folder / "c", filename="{step}", every_n_train_steps=4, save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[callback, keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=folder,
    )
    loader = DataLoader(Numbered(points(32, 0)), 4, collate_fn=CarryIds(), shuffle=False)
    module = Classifier()
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    found = {"rows": callback.ledger.table.to_pylist(), "parameters": module.net.weight.detach()}
    torch.save(found, folder / f"{name}-{trainer.global_rank}.pt")
    trainer.strategy.barrier()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    run(target, "whole")
    run(target, "again", str(target / "c" / "step=4.ckpt"))
    if torch.distributed.is_initialized():  # a rank that leaves while gloo's threads still run may be aborted
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
