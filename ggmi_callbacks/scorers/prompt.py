"""What a sample's prompt says about its answer.

    information(z) = log p(y | p) - log p(y)        z = (p, y); nats; pointwise I(p; y)

p(y) is the same model's, which sees nothing of the prompt but its last token, the one that starts the answer. The mean
over samples of that model is I(p; y) plus a divergence: an upper bound.

In a conversation of several turns only what comes before the first answer counts as the prompt.

Cost: two forwards without gradient. Sees: an answer to another question. Blind to: whether the answer is right, and to
prompts that say nothing in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ggmi_callbacks.model import Parameters, Probe, Shadow
from ggmi_callbacks.scorers._base import Normalize, TokenScorer, autocast, checked
from ggmi_callbacks.tasks import Inputs, Layout


class PromptInformationScorer(TokenScorer):
    """information(z) = log p_W(y | p) - log p_W(y), what a sample's prompt p tells about its answer y, in nats.

    A sample without a prompt has none: zero.

    Args:
        reference: which W: the ``"shadow"``, which knows the form of the anchors (the default), or the ``"current"``
            weights.
        dtype: autocast the scoring forwards to it.
        normalize: see :class:`Scorer`.

    """

    def __init__(
        self,
        reference: Literal["shadow", "current"] = "shadow",
        dtype: torch.dtype | None = None,
        normalize: Normalize = None,
    ) -> None:
        super().__init__(normalize)
        if reference not in ("shadow", "current"):
            raise ValueError(f"`reference` must be 'shadow' or 'current', got {reference!r}.")
        self.reference, self.dtype = reference, checked(dtype)
        self.static = reference == "shadow"

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Keep the shadow, and the present weights of what it has not trained."""
        self._probe, self._shadow = probe, shadow.parameters
        missing = probe.trainable.keys() - shadow.parameters.keys() if self.reference == "shadow" else ()
        self._rest = {name: probe.trainable[name].detach().clone() for name in sorted(missing)}

    @property
    def _weights(self) -> Parameters | None:
        if self.reference == "current":
            return None
        return {**self._rest, **self._shadow} if self._rest else self._shadow  # the same object for all who remember

    @torch.no_grad()
    def token_gain(self, inputs: Inputs, layout: Layout) -> tuple[Tensor, Layout]:
        """See :meth:`TokenScorer.token_gain`."""
        probe = self._probe
        alone = probe.task.promptless(inputs, layout)
        weights = self._weights
        with probe.quiet(), autocast(layout.target.device, self.dtype):
            given, without = (probe.log_probs(batch, weights) for batch in (inputs, alone))
        return given - without, layout

    def state_dict(self) -> dict[str, Any]:
        """The initial weights of what the shadow has not trained."""
        return {"rest": self._rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the initial weights."""
        self._rest = state["rest"]
