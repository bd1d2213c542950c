"""Scores that the training set brings, known before training and free in the step."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.scorers._base import Score, Scorer
from ggmi_callbacks.tasks import Inputs, Layout


class DataScorer(Scorer):
    """A scorer that needs no model: subclasses read each sample's score off the training set."""

    static = True
    needs_ids = True
    needs_anchors = False

    def __init__(self) -> None:
        super().__init__()
        self._values: Tensor | None = None

    @abstractmethod
    def values(self, data: SampleData) -> Tensor:
        """Score of each sample by id, [N]; NaN where it is not known."""

    @property
    def unit(self) -> str:
        """See :attr:`Scorer.unit`."""
        return f"{self.name}, in its own unit"

    def read(self, data: SampleData) -> None:
        """See :meth:`Scorer.read`."""
        self._values = self.values(data).float()

    def known(self) -> Score:
        """See :meth:`Scorer.known`."""
        found = self._require()
        return Score(found, torch.zeros_like(found))

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """See :meth:`Scorer.gain`."""
        found = self._require()
        if layout.ids is None:
            raise ValueError(f"{type(self).__name__} looks samples up by id, and this batch carries none.")
        if found.device != layout.ids.device:
            found = self._values = found.to(layout.ids.device)
        return found[layout.ids]

    def _require(self) -> Tensor:
        if self._values is None:
            raise ValueError(
                f"{type(self).__name__} reads the training set, and the engine was given none: "
                "GainEngine(..., data=rows), with sample ids in the batches. A stream cannot be read beforehand."
            )
        return self._values
