"""The table by source in the loggers that a Hugging Face trainer reports to."""

from __future__ import annotations

import sys
from typing import Any

from transformers import integrations

from ggmi_callbacks.integrations import _panels
from ggmi_callbacks.integrations._install import Installation


def tell_apart(installation: Installation, trainer: Any) -> None:
    """Until ``installation`` is undone, hand MLflow the names that its store can hold beside those of sources."""
    for reporter in trainer.callback_handler.callbacks:
        if isinstance(reporter, integrations.MLflowCallback):
            installation.replace(reporter, "on_log", _Renamed(reporter.on_log))


class _Renamed:
    """Stands in for a reporter's ``on_log``."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __call__(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> Any:
        return self._original(args, state, control, logs=logs and _panels.told_apart(logs), **kwargs)


def show_sources(trainer: Any, table: _panels.Table) -> None:
    """Hand ``table`` to each reporter of ``trainer`` that has tables; nothing on other ranks than the first."""
    if not table[1] or not trainer.is_world_process_zero():
        return
    for reporter in trainer.callback_handler.callbacks:
        if isinstance(reporter, integrations.TensorBoardCallback) and reporter.tb_writer is not None:
            _panels.to_tensorboard(reporter.tb_writer, table, trainer.state.global_step)
        elif isinstance(reporter, integrations.WandbCallback) and (run := sys.modules["wandb"].run) is not None:
            _panels.to_wandb(run, table)
        elif isinstance(reporter, integrations.TrackioCallback):
            _panels.to_trackio(sys.modules["trackio"].log, table)
        elif isinstance(reporter, integrations.MLflowCallback) and (mlflow := sys.modules["mlflow"]).active_run():
            _panels.to_mlflow(mlflow.log_text, table)
