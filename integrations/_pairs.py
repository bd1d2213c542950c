"""Pairs of TRL's trainers: their loss, which is a mean over the pairs of a batch, and their answers, read as texts.

A batch has the chosen rows first and as many rejected ones behind them. Weights go on the gradient of what each row
gives to the loss (log-probabilities, rewards): the gradient is that of sum_i w_i loss_i / n for every loss whose
terms each depend on one pair. The loss that is logged is the unweighted one: its terms are never there one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ggmi_callbacks.integrations._install import Installation
from ggmi_callbacks.integrations._loss import Reached, ScoredLoss
from ggmi_callbacks.tasks import IGNORE, Inputs
from ggmi_callbacks.weighting.loss import scale_gradient

_CHUNK = 1000  # rows read at once


class PairLoss(ScoredLoss):
    """Stands between a trainer and its loss where that is a mean over pairs."""

    def install(self, installation: Installation) -> None:
        """See :meth:`ScoredLoss.install`; the model's own loss is not asked for."""
        installation.replace(self.trainer, "compute_loss", self.compute_loss)

    def compute_loss(self, model: nn.Module, inputs: Inputs, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`ScoredLoss.compute_loss`; the mean over the pairs that were there before any was dropped."""
        if not (model.training and torch.is_grad_enabled()):
            return self._original(model, inputs, *args, **kwargs)
        whole = len(inputs["input_ids"])
        inputs = self.engine.observe(inputs)
        left = 0 if self.engine.is_empty else len(inputs["input_ids"])
        with self._listening(model, inputs):
            loss = self._original(model, dict(inputs), *args, **kwargs)
        if left == whole:
            return loss
        return (loss[0] * left / whole, *loss[1:]) if isinstance(loss, tuple) else loss * left / whole

    def _weigh(self, outputs: Any, weights: Tensor, reached: Reached) -> None:
        name = "logits" if getattr(outputs, "log_probs", None) is None else "log_probs"
        values = scale_gradient(getattr(outputs, name), weights.repeat(2, 1))
        values.register_hook(reached)
        setattr(outputs, name, values)


class ChosenRows:
    """The chosen answers of a prepared data set as rows of tokens and labels, made when they are read.

    Args:
        data: the trainer's training set.
        read: prompt and chosen answer of a row, token ids.

    """

    column_names = ("input_ids", "labels")

    def __init__(self, data: Any, read: Callable[[dict[str, Any]], tuple[list[int], list[int]]]) -> None:
        self._data, self._read = data, read

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, int):
            return self._row(self._data[key])
        starts = range(0, len(self), _CHUNK)
        return [self._row(row)[key] for i in starts for row in _rows(self._data[i : i + _CHUNK])]

    def _row(self, row: dict[str, Any]) -> dict[str, list[int]]:
        prompt, chosen = self._read(row)
        return {"input_ids": [*prompt, *chosen], "labels": [*[IGNORE] * len(prompt), *chosen]}


def _rows(columns: Any) -> list[dict[str, Any]]:
    """Rows of a slice of a data set."""
    if not isinstance(columns, dict):
        return list(columns)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
