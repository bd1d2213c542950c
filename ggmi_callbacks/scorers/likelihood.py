"""Gain as a likelihood ratio against a shadow.

    gain(z) = nll_W(z) - nll_W'(z)        (nats; W' has seen the anchors)

Cost: one forward without gradient for W' and one for W. Sees: whether a sample is what the anchors would make
likelier. Blind to: what the shadow is too small to judge (a wrong figure in a right-looking solution).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from ggmi_callbacks.probe import Parameters, Probe
from ggmi_callbacks.scorers._base import Normalize, Scorer
from ggmi_callbacks.scorers.shadow import Shadow
from ggmi_callbacks.tasks import Inputs, Layout


class LikelihoodScorer(Scorer):
    """gain(z) = nll_W(z) - nll_W'(z), with a shadow W' that saw the anchors (:class:`Shadow`).

    Args:
        reference: which W. ``"initial"``, the weights before training (the default): both terms are fixed, a
            sample's gain does not drift as the model learns the synthetic data. ``"current"``, the live weights: what
            the anchors could *still* teach; after some epochs it says more about W than about z.
        normalize: see :class:`Scorer`.

    """

    def __init__(self, reference: Literal["initial", "current"] = "initial", normalize: Normalize = None) -> None:
        super().__init__(normalize)
        if reference not in ("initial", "current"):
            raise ValueError(f"`reference` must be 'initial' or 'current', got {reference!r}.")
        self.reference = reference
        self.static = reference == "initial"
        self._initial: Parameters | None = None

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Keep the shadow and, if they are the reference, the initial weights."""
        self._probe, self._shadow = probe, shadow.parameters
        self._initial = probe.snapshot() if self.reference == "initial" else None

    def gain(self, inputs: Inputs, layout: Layout) -> Tensor:
        """See :meth:`Scorer.gain`."""
        without = self._probe.nll(inputs, layout, self._initial)
        return without - self._probe.nll(inputs, layout, self._shadow)

    def state_dict(self) -> dict[str, Any]:
        """The initial weights."""
        return {"initial": self._initial}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the initial weights."""
        self._initial = state["initial"]
