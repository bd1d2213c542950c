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


class Module(lightning.LightningModule):  # type: ignore[name-defined]
    """Learns nothing; logs the metrics of each batch it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stored = WeightInformation()
        self.ggmi = GGMI()
        self.gain = InformationGain("matrix")
        self.diversity = EffectiveDiversity()
        self.with_interval = WeightInformation(confidence=0.9)

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        first, final = batch[:, 0], batch[:, 1]
        self.stored.update(first, final)
        self.ggmi.update(first, final, split=("anchor", "synthetic")[index % 2])
        self.gain.update(batch[:, :2], batch[:, 2:])
        self.diversity.update(batch)
        for name in ("stored", "ggmi", "gain", "diversity"):
            self.log(name, getattr(self, name), on_step=False, on_epoch=True)
        self.with_interval(first, final)
        self.log("with_interval", self.with_interval, on_step=True, on_epoch=True, prog_bar=True)
        return self.weight.square()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


ROWS = torch.rand(24, 4, generator=torch.Generator().manual_seed(0))


def logged(tmp_path: Any) -> dict[str, torch.Tensor]:
    """What two epochs leave in ``callback_metrics``."""
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
        trainer.fit(Module(), DataLoader(ROWS, batch_size=6))
    return trainer.callback_metrics


def test_logged_values_are_those_of_the_last_epoch(tmp_path: Any) -> None:
    rows, values = ROWS, logged(tmp_path)
    gap = rows[:, 0] - rows[:, 1]
    anchors = torch.arange(24) // 6 % 2 == 0
    assert values["stored"] == pytest.approx(gap.sum().item(), abs=1e-5)
    assert values["ggmi"] == pytest.approx((gap[anchors].sum() - gap[~anchors].sum()).item(), abs=1e-5)
    assert 0 < values["gain"] < 4
    assert 1 < values["diversity"] <= 4


def test_a_metric_with_an_interval_is_logged_by_its_value(tmp_path: Any) -> None:
    values, gap = logged(tmp_path), ROWS[:, 0] - ROWS[:, 1]
    assert values["with_interval_epoch"] == pytest.approx(gap.sum().item(), abs=1e-5)
    assert values["with_interval_step"] == pytest.approx(gap[-6:].sum().item(), abs=1e-5)
