"""A row of the ledger: its columns, and those of a batch while they wait on the device."""

from __future__ import annotations

import pyarrow as pa
from torch import Tensor

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("id", pa.int64()),
        ("source", pa.string()),
        ("gain", pa.float64()),
        ("weight", pa.float64()),
        ("kept", pa.bool_()),
        ("nll", pa.float64()),
    ]
)


NLL = 5
"""Place of code lengths among the columns that wait on the device."""


class Rows:
    """Rows of one batch that wait on the device."""

    def __init__(self, values: Tensor) -> None:
        self._nll = values[NLL]

    def complete(self, nll: Tensor, which: Tensor | None = None) -> None:
        """Fill in code lengths ``nll`` [m], nats, of the rows ``which`` [m]; of all rows if None."""
        lengths = nll.double().nan_to_num(nan=float("inf"), posinf=float("inf"), neginf=float("inf"))
        if which is None:
            self._nll.copy_(lengths)
        else:
            self._nll.index_copy_(0, which, lengths)
