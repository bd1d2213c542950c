"""Batches that are too large to be scored beside what training holds are scored in parts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_WHOLE = "logits_to_keep"  # positions, the same for all rows
_logger = logging.getLogger("ggmi_callbacks")


class RowLimit:
    """Halves a batch for which memory does not suffice, and remembers how many rows did.

    Training never pays for scoring: a forward without gradient that runs out of memory is run again in halves, and
    later batches come in parts of that size from the start. One row alone has to fit.

    Example:
        >>> def forward(batch):
        ...     if len(batch["x"]) > 2:
        ...         raise torch.OutOfMemoryError("no memory")
        ...     return batch["x"] + 1
        >>> limit = RowLimit()
        >>> limit.run({"x": torch.zeros(5)}, forward), limit.rows
        (tensor([1., 1., 1., 1., 1.]), 2)

    """

    def __init__(self) -> None:
        self.rows: float = math.inf
        """Rows of the largest batch that is tried."""

    def run(self, inputs: Mapping[str, Any], forward: Callable[[Mapping[str, Any]], Tensor]) -> Tensor:
        """``forward(inputs)`` [B, ...], of all rows at once or of some at a time.

        Raises:
            torch.OutOfMemoryError: if one row does not fit, or the batch has no rows to be parted by.

        """
        rows = _rows(inputs)
        if rows is None or rows <= self.rows:
            try:
                return forward(inputs)
            except torch.OutOfMemoryError:
                if rows is None or rows < 2:
                    raise
            # Only here, where the traceback is gone, is the memory of the failed forward free.
            self.rows = rows // 2
            _logger.warning(
                "GGMI: memory did not suffice to score %d rows at once; from now on they are scored %d at a time.",
                rows,
                self.rows,
            )
        size = int(self.rows)
        return torch.cat([self.run(_part(inputs, start, size), forward) for start in range(0, rows or 0, size)])


def _rows(inputs: Mapping[str, Any]) -> int | None:
    """Rows of a batch of tensors; None if it holds anything else."""
    parted = {key: value for key, value in inputs.items() if key != _WHOLE}
    if not parted or not all(isinstance(value, Tensor) and value.dim() for value in parted.values()):
        return None
    tables = [value for value in parted.values() if value.dim() > 1]  # vectors beside them may tell ends of segments
    return max(len(value) for value in tables or parted.values())


def _part(inputs: Mapping[str, Any], start: int, size: int) -> dict[str, Any]:
    """Some rows of a batch; what has one row is shared by all."""
    rows = _rows(inputs)
    return {
        key: value[start : start + size] if key != _WHOLE and len(value) == rows else value
        for key, value in inputs.items()
    }
