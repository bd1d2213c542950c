"""A score that the data bring: a verifier, a reward model, a judge, or scores made beforehand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.scorers._data import DataScorer


class ColumnScorer(DataScorer):
    """gain(z) = value of a column - threshold, in the column's own unit.

    Args:
        column: of the training set: booleans (passed or not), probabilities or any other numbers; a missing value
            (``None``, NaN) means that nothing is known, and the sample is then not judged by it.
        threshold: at or above which a value speaks for a sample; 0.5 for booleans and for values that all lie in
            [0, 1], else 0.

    Raises:
        ValueError: if the column is missing, has no value at all, or holds something that is no number.

    Example:
        >>> from ggmi_callbacks.data import SampleData
        >>> scorer = ColumnScorer("correct")
        >>> scorer.read(SampleData([{"correct": True}, {"correct": False}, {"correct": None}]))
        >>> scorer.known().gain
        tensor([ 0.5000, -0.5000,     nan])

    """

    def __init__(self, column: str, threshold: float | None = None) -> None:
        super().__init__()
        self.column, self.threshold = column, threshold

    @property
    def name(self) -> str:
        """The column's."""
        return self.column

    def values(self, data: SampleData) -> Tensor:
        """See :meth:`DataScorer.values`."""
        values = torch.tensor([self._number(i, value) for i, value in enumerate(data.column(self.column, "column"))])
        known = values[~values.isnan()]
        if not len(known):
            raise ValueError(f"column {self.column!r} has no value in any of {len(values)} samples.")
        share = bool(((known >= 0) & (known <= 1)).all())
        bar = self.threshold if self.threshold is not None else 0.5 if share else 0.0
        return values - bar

    def _number(self, position: int, value: Any) -> float:
        if value is None:
            return float("nan")
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"column {self.column!r} must hold numbers or booleans, sample {position} has {value!r}."
            ) from None
