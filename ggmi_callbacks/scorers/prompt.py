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
from typing import Literal

import torch
from torch import Tensor

from ggmi_callbacks.model import Parameters, Probe, Shadow
from ggmi_callbacks.scorers._base import Normalize, TokenScorer, check_dtype
from ggmi_callbacks.tasks import Inputs, Layout


class PromptInformationScorer(TokenScorer):
    """information(z) = log p_W(y | p) - log p_W(y), what a sample's prompt p tells about its answer y, in nats.

    A sample without a prompt (nothing before its answer but the one token that starts it) has no such number: NaN,
    not scored.

    Args:
        reference: which W: the ``"shadow"``, which knows the form of the anchors (the default), or the ``"current"``
            weights.
        dtype: autocast both forwards to it; None for :attr:`Probe.autocast_dtype`, the precision of the run.
        normalize: see :class:`Scorer`.

    Raises:
        ValueError: if an argument is out of its range; in :meth:`prepare`, if no anchor has a prompt or the task
            knows no prompts.

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
        check_dtype(dtype)
        self.reference, self.dtype = reference, dtype
        self.static = reference == "shadow"

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Keep the shadow.

        Raises:
            ValueError: if no anchor has a prompt.

        """
        self._probe = probe
        self._weights: Parameters | None = shadow.weights(probe) if self.static else None
        task = probe.task
        layouts = [task.layout(batch) for batch in anchors]
        pairs = zip(anchors, layouts, strict=True)
        if not any(_has_prompt(batch, task.promptless(batch, layout), layout).any() for batch, layout in pairs):
            raise ValueError(
                f"`PromptInformationScorer`: none of the {sum(layout.n for layout in layouts)} `anchors` has a prompt, "
                "so there is nothing that it could say about an answer. Give prompt-completion data, in which the "
                "prompt's labels are -100, or leave this scorer out: `LikelihoodScorer()`, or "
                "`JointScorer([LikelihoodScorer(), DistinctScorer()])`."
            )

    @torch.no_grad()
    def token_gain(self, inputs: Inputs, layout: Layout) -> tuple[Tensor, Layout]:
        """See :meth:`TokenScorer.token_gain`; NaN at the targets of a sample without a prompt."""
        probe = self._probe
        alone = probe.task.promptless(inputs, layout)
        with probe.quiet(), probe.precision(self.dtype or probe.autocast_dtype):
            given, without = (probe.log_probs(batch, self._weights) for batch in (inputs, alone))
        unknown = layout.spread((~_has_prompt(inputs, alone, layout)).float()) > 0
        return (given - without).masked_fill(unknown & layout.target, float("nan")), layout


def _has_prompt(inputs: Inputs, alone: Inputs, layout: Layout) -> Tensor:
    """Whether a sample of ``inputs`` has lost anything in ``alone``, the batch without prompts, bool, [n]."""
    if layout.segment is not None:  # the positions of an answer without its prompt start again
        return layout.total(alone["position_ids"][:, 1:] != inputs["position_ids"][:, 1:]) > 0
    visible = alone["attention_mask"]
    before = inputs.get("attention_mask")
    return (visible != (torch.ones_like(visible) if before is None else before)).any(1)
