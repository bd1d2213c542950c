"""Losses by source of Lightning's validation, from the forwards that it runs anyway.

val_ggmi/nll/<source>                        with one validation loader
val_ggmi/nll/<source>/dataloader_idx_<i>     with several, as Lightning names them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ggmi_callbacks.engine import SourceLoss
from ggmi_callbacks.integrations._own_loss import SAMPLE_LOSS, sample_losses
from ggmi_callbacks.tasks import SAMPLE_KEY

Sources = Sequence[str | None]


class Validation:
    """Hears one validation at a time.

    Args:
        sources: of each sample by id, a sequence of names; or a sequence of these, one for each validation loader;
            with none at all nothing is heard.

    """

    def __init__(self, sources: Sequence[Any]) -> None:
        one = len(sources) > 0 and (sources[0] is None or isinstance(sources[0], str))
        self._sources: list[Sources] = [sources] if one else list(sources)
        self._losses: list[SourceLoss] = []
        self._model: nn.Module | None = None
        self._batch = ExitStack()  # hears the forwards of one batch

    def begin(self, device: torch.device, model: nn.Module | None) -> None:
        """Begin a validation; forwards of ``model`` tell the losses, or without it ``validation_step`` returns them."""
        self.close()
        self._model = model
        self._losses = [SourceLoss(sources, device=device) for sources in self._sources]

    def begin_batch(self, batch: Any, loader: int) -> None:
        """Say that a ``batch`` of the loader number ``loader`` is evaluated.

        Raises:
            ValueError: if the loader has no sources, or the batch no ids.

        """
        if not self._sources:
            return
        if loader >= len(self._losses):
            raise ValueError(
                f"`val_sources` holds the sources of {len(self._losses)} validation loaders, and there is a number "
                f"{loader}: give a list of one sequence for each."
            )
        if not isinstance(batch, Mapping) or SAMPLE_KEY not in batch:
            raise ValueError(
                f"`val_sources` are known by id, and a batch of validation loader {loader} carries none under "
                f"{SAMPLE_KEY!r}: make it with `Numbered` and `CarryIds`."
            )
        if self._model is not None:
            self._batch.enter_context(self._losses[loader].listen(self._model))

    def end_batch(self, batch: Any, outputs: Any, loader: int) -> None:
        """Take the losses of the samples that ``validation_step`` returned, if no model is heard.

        Raises:
            ValueError: if it returned none.

        """
        self.close()
        if self._model is not None or not self._sources:
            return
        losses = sample_losses(outputs)
        if losses is None:
            raise ValueError(
                "losses by source are those of the samples: let `validation_step` return their losses [n], "
                f"`return {{{SAMPLE_LOSS!r}: losses}}`, or leave `val_sources` out."
            )
        self._losses[loader].add(batch[SAMPLE_KEY].flatten(), losses, torch.ones_like(losses))

    def compute(self) -> dict[str, float]:
        """The losses of this validation; every rank must call it."""
        if len(self._losses) == 1:
            return self._losses[0].compute("val_")
        found = [losses.compute("val_") for losses in self._losses]
        return {f"{key}/dataloader_idx_{i}": value for i, each in enumerate(found) for key, value in each.items()}

    def close(self) -> None:
        """Hear no more."""
        self._batch.close()
