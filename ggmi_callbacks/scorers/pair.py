"""Gain of a pair of answers, and of each of the two."""

from __future__ import annotations

from collections.abc import Sequence

from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.scorers._base import Score
from ggmi_callbacks.scorers.likelihood import LikelihoodScorer
from ggmi_callbacks.tasks import Inputs, Layout, PairedCausalLM


class PairScorer(LikelihoodScorer):
    """gain(pair) = gain(chosen) - gain(rejected), the gain of a side z being nll_W(z) - nll_W'(z), nats.

    :class:`LikelihoodScorer` finds the same gain. This one also tells the sides apart: the ledger has
    ``gain/chosen`` and ``gain/rejected``, in nats per answer whatever ``normalize``. Positive: the anchors make the
    chosen answer likelier by more than the rejected one, so the pair is the way round that they would have it.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from ggmi_callbacks.model import Probe, train_shadow
        >>> class Bias(torch.nn.Module):  # all tokens alike, until it learns
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.bias = torch.nn.Parameter(torch.zeros(4))
        ...     def forward(self, input_ids, **unused):
        ...         return SimpleNamespace(logits=self.bias.expand(*input_ids.shape, 4))
        >>> probe, human = Probe(Bias(), PairedCausalLM()), torch.tensor([[0, 1, 1], [0, 1, 1]])
        >>> anchors = [{"input_ids": human, "labels": human}] * 4
        >>> scorer = PairScorer()
        >>> scorer.prepare(probe, anchors, train_shadow(probe, anchors, learning_rate=0.1, progress=False))
        >>> pair = {"input_ids": torch.tensor([[0, 1], [0, 2]]), "completion_mask": torch.tensor([[0, 1], [0, 1]])}
        >>> score = scorer.score(pair, probe.task.layout(pair))
        >>> bool(score.gain > 0), score.parts.sign().tolist()
        (True, [[1.0], [-1.0]])

    """

    parts = ("chosen", "rejected")

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """See :meth:`LikelihoodScorer.prepare`.

        Raises:
            ValueError: if samples are no pairs.

        """
        if not isinstance(probe.task, PairedCausalLM):
            raise ValueError("`PairScorer` scores pairs, and here samples are single answers: use `LikelihoodScorer`.")
        super().prepare(probe, anchors, shadow)

    def noisy_gain(self, inputs: Inputs, layout: Layout) -> Score:
        """See :meth:`TokenScorer.noisy_gain`; with the gain of each side, NaN for the rejected one of an anchor."""
        values, scored = self.token_gain(inputs, layout)
        assert isinstance(self._probe.task, PairedCausalLM)
        return self._sum(values, scored, layout)._replace(parts=self._probe.task.sides(values, inputs))
