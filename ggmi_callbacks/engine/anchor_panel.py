"""The anchors under the weights of the moment, and under their own: have the synthetic data taught the task more?

    advantage = E[loss of an anchor that W' was not trained on, under W'] - E[its loss under W]
    gap       = E[loss of an anchor under weights that did not see it] - E[its loss under weights that did]

Nats per token, with 95 % intervals. The advantage is positive where the synthetic data have taught more about the task
than the anchors could.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ggmi_callbacks.functional._interval import Interval, mean_interval
from ggmi_callbacks.model import CrossFit, Probe, Shadow
from ggmi_callbacks.tasks import Inputs

_PANEL = 32  # anchors that are followed during the run


class AnchorPanel:
    """Follows the same anchors through a run, those first that the shadow was not trained on.

    Args:
        probe: the model and its task.
        anchors: batches of model inputs.
        shadow: trained on some of them.
        cross: trained on one half of them and on the other.

    """

    def __init__(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow, cross: CrossFit) -> None:
        self.probe = probe
        self._gap = mean_interval(cross.gaps, 0.95)
        others = [i for i in range(len(anchors)) if i not in shadow.heldout]
        self._batches = [anchors[i] for i in (*shadow.heldout, *others)]
        layouts = [probe.task.layout(batch) for batch in self._batches]
        before = torch.tensor([0, *(layout.n for layout in layouts)]).cumsum(0)
        self._layouts, self._few = layouts, max(1, int((before[:-1] < _PANEL).sum()))
        self._all = max(self._few, len(shadow.heldout))
        self._tokens = torch.cat([layout.tokens for layout in layouts])
        self._shadow_nll = shadow.heldout_lengths[shadow.best]
        self.nll: Tensor | None = None
        """Code lengths at the present look, nats, [m]; None between looks."""
        self.best: Tensor | None = None
        """Those of the look at which their mean was least, [m]."""

    def look(self, whole: bool = False) -> None:
        """Evaluate the panel under the present weights; ``whole``: with all anchors that the shadow held out."""
        size = self._all if whole else self._few
        batches = zip(self._batches[:size], self._layouts, strict=False)
        self.nll = torch.cat([self.probe.nll(batch, layout) for batch, layout in batches])
        if not whole and (self.best is None or bool(self.nll.mean() < self.best.mean())):
            self.best = self.nll

    @property
    def rise(self) -> Interval | None:
        """By how much the present look is longer than the shortest one, nats per token at 99.9 %; None if none is."""
        if self.nll is None or self.best is None:
            return None
        longer = (self.nll[: len(self.best)] - self.best).double() / self._tokens[: len(self.best)]
        return mean_interval(longer, 0.999)

    def values(self) -> dict[str, Tensor | Interval]:
        """Mean code length, advantage and gap of the present look; empty between looks."""
        if self.nll is None:
            return {}
        n = min(len(self.nll), len(self._shadow_nll))
        ahead = (self._shadow_nll[:n] - self.nll[:n]).double() / self._tokens[:n]
        return {
            "anchor_nll": self.nll.mean(),
            "anchor_advantage": mean_interval(ahead, 0.95),
            "anchor_gap": self._gap,
        }
