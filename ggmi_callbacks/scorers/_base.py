"""What a scorer is: gain of the samples in a live batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from ggmi_callbacks.probe import Probe
from ggmi_callbacks.scorers.shadow import Shadow
from ggmi_callbacks.tasks import Inputs, Layout

Normalize = Literal["token"] | None


class Scorer(ABC):
    """Estimates gain(z) = log p(z | W, A) - log p(z | W), what the anchors A tell the model about sample z, in nats.

    Mutual information is symmetric, so this is also what z tells the model about the anchors. Subclasses say how the
    right-hand side is had; :meth:`gain` is the only method that a scorer must have.

    Args:
        normalize: ``"token"`` divides each gain by the sample's number of targets (nats per token); ``None`` leaves
            nats per sample.

    """

    static = False
    """Whether a sample's gain is the same throughout a run, so that it need be found only once."""

    def __init__(self, normalize: Normalize = None) -> None:
        if normalize not in (None, "token"):
            raise ValueError(f"`normalize` must be None or 'token', got {normalize!r}.")
        self.normalize = normalize

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:  # noqa: B027
        """Do once, before the first training step, what can be done once; forget any earlier run."""

    def refresh(self, step: int) -> None:  # noqa: B027
        """Called before the first scored batch of each optimiser step ``step``."""

    @abstractmethod
    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """Gain of each sample of a batch in nats, [n]; evaluates, never trains."""

    def __call__(self, inputs: Inputs, layout: Layout) -> Tensor:
        """Return :meth:`gain`, normalised as asked."""
        gain = self.gain(inputs, layout)
        return gain / layout.tokens.clamp_min(1) if self.normalize == "token" else gain

    def state_dict(self) -> dict[str, Any]:
        """What a restart cannot compute again."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what :meth:`state_dict` gave, after :meth:`prepare`."""
