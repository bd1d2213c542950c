"""What a Lightning trainer knows that an engine needs: its precision, its rate, its batches; and what it may not be."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import CyclicLR, LambdaLR

_SHARDS = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAFSDPStrategy"}
_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
_POINTS = 1000  # of a schedule that are looked at


def check_strategy(trainer: Any) -> None:
    """Raise ValueError where ranks hold shards of the model."""
    strategy = type(trainer.strategy)
    if any(kind.__name__ in _SHARDS for kind in strategy.__mro__):
        raise ValueError(
            f"`strategy` {strategy.__name__} shards the model, which the probe reads whole: use strategy='ddp', or one "
            "device."
        )


def autocast_dtype(trainer: Any) -> torch.dtype | None:
    """What the training forward is autocast to; None if its tensors have their precision themselves."""
    return _AUTOCAST.get(str(getattr(trainer.precision_plugin, "precision", "")))


def batch_capacity(loader: Any) -> int | None:
    """Most samples in a batch of ``loader``, if it tells."""
    size = getattr(loader, "batch_size", None)
    return size if size is not None else getattr(getattr(loader, "batch_sampler", None), "batch_size", None)


def peak_rate(trainer: Any) -> float:
    """The highest learning rate of the run, where its schedule says so, or that which the schedule multiplies.

    A warm-up starts as low as 1e-6 of it, so the rate of the moment is none to train a shadow with.

    Raises:
        ValueError: if there is no optimiser, or its rate is zero.

    """
    groups = [group for optimizer in trainer.optimizers[:1] for group in optimizer.param_groups]
    rates = [group.get("max_lr", group.get("initial_lr", group["lr"])) for group in groups]
    for config in trainer.lr_scheduler_configs:
        if config.scheduler.optimizer in trainer.optimizers[:1]:
            rates = _scheduled(rates, config, trainer)
    peak = max((float(rate) for rate in rates), default=0.0)
    if not peak > 0:
        why = f"the optimiser's rate is {peak}" if groups else "there is no optimiser whose rate it could have"
        raise ValueError(f"give `shadow_learning_rate`: {why}, which teaches the shadow nothing.")
    return peak


def _scheduled(rates: list[Any], config: Any, trainer: Any) -> list[Any]:
    """``rates`` as the schedule of ``config`` lifts them: cycles know their top, lambdas are asked."""
    scheduler = config.scheduler
    if isinstance(scheduler, CyclicLR):
        return list(scheduler.max_lrs)
    if not isinstance(scheduler, LambdaLR):
        return rates
    length = _steps(trainer) if config.interval == "step" else trainer.max_epochs
    length = int(length) if length and 0 < length < math.inf else 10 * _POINTS
    points = range(0, length, max(1, length // _POINTS))
    return [
        base * max(float(factor(t)) for t in points)
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]


def _steps(trainer: Any) -> float:
    """Optimiser steps of the whole run, infinite if nobody knows."""
    epochs = math.inf if trainer.max_epochs is None or trainer.max_epochs < 0 else trainer.max_epochs
    steps = math.inf if trainer.max_steps < 0 else trainer.max_steps
    return min(steps, trainer.num_training_batches / trainer.accumulate_grad_batches * epochs)
