"""The table by source in Lightning's loggers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ggmi_callbacks.integrations import _panels
from ggmi_callbacks.integrations._install import Installation


def tell_apart(installation: Installation, trainer: Any) -> None:
    """Until ``installation`` is undone, hand MLflow the names that its store can hold beside those of sources."""
    for logger in trainer.loggers:
        if "MLFlowLogger" in _kinds(logger):
            original = logger.log_metrics
            installation.replace(logger, "log_metrics", partial(_log_renamed, original))


def _log_renamed(original: Callable[..., Any], metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    return original(_panels.told_apart(metrics), *args, **kwargs)


def _kinds(logger: Any) -> set[str]:
    """Names of the logger's classes, which are of either of Lightning's two packages."""
    return {kind.__name__ for kind in type(logger).__mro__}


def show_sources(trainer: Any, table: _panels.Table) -> None:
    """Hand ``table`` to each logger of ``trainer`` that has tables; nothing on other ranks than the first."""
    if not table[1] or not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        kinds = _kinds(logger)
        if "WandbLogger" in kinds:
            _panels.to_wandb(logger.experiment, table)
        elif "TensorBoardLogger" in kinds:
            _panels.to_tensorboard(logger.experiment, table, trainer.global_step)
        elif "MLFlowLogger" in kinds:
            _panels.to_mlflow(partial(logger.experiment.log_text, logger.run_id), table)
