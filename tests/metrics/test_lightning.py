"""Metrics inside a LightningModule: logged by ``self.log``, synchronised and reset by Lightning itself."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from ggmi_callbacks.metrics import GGMI, EffectiveDiversity, InformationGain, WeightInformation

lightning = pytest.importorskip("lightning")


class Module(lightning.LightningModule):
    """Learns nothing; logs the metrics of each batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stored = WeightInformation()
        self.ggmi = GGMI()
        self.gain = InformationGain("matrix")
        self.diversity = EffectiveDiversity()

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        first, final = batch[:, 0], batch[:, 1]
        self.stored.update(first, final)
        self.ggmi.update(first, final, split=("anchor", "synthetic")[index % 2])
        self.gain.update(batch[:, :2], batch[:, 2:])
        self.diversity.update(batch)
        for name in ("stored", "ggmi", "gain", "diversity"):
            self.log(name, getattr(self, name), on_step=False, on_epoch=True)
        return self.weight.square()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_logged_values_are_those_of_the_last_epoch(tmp_path: Any) -> None:
    rows = torch.rand(24, 4, generator=torch.Generator().manual_seed(0))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own advice on workers and logging intervals
        trainer.fit(Module(), DataLoader(rows, batch_size=6))
    gap = rows[:, 0] - rows[:, 1]
    anchors = torch.arange(24) // 6 % 2 == 0
    assert trainer.callback_metrics["stored"] == pytest.approx(gap.sum().item(), abs=1e-5)
    assert trainer.callback_metrics["ggmi"] == pytest.approx(
        (gap[anchors].sum() - gap[~anchors].sum()).item(), abs=1e-5
    )
    assert 0 < trainer.callback_metrics["gain"] < 4
    assert 1 < trainer.callback_metrics["diversity"] <= 4
