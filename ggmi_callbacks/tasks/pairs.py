"""Pairs: a sample is a chosen and a rejected answer to one prompt.

A batch of n pairs has 2n rows, the n chosen ones first, then the n rejected ones in the same order, [2n, T]. What has n
entries, such as a reference model's log-probabilities, belongs to the pairs.

    nll(pair) = nll(chosen) - nll(rejected)               :class:`PairedCausalLM`, a log-odds, nats
    nll(pair) = -log sigmoid(r(chosen) - r(rejected))     :class:`PairedReward`, a code length, nats
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ggmi_callbacks.tasks.base import IGNORE, Inputs, Layout, Task, mixed, wide
from ggmi_callbacks.tasks.causal_lm import CausalLM

COMPLETION = "completion_mask"
"""Key of the mask of completion tokens [2n, T], by which a batch of pairs is told from one of demonstrations."""


class Pairs(Task):
    """What tasks on pairs have in common."""

    rows_stand_alone = False  # the rejected rows stand behind all chosen ones

    def select(self, inputs: Mapping[str, Any], layout: Layout, weights: Tensor) -> tuple[Inputs, Tensor]:
        """See :meth:`Task.select`; both rows of a pair go. A batch that loses every pair keeps its first one, whole."""
        plan = torch.stack([weights.gt(0).long(), layout.lengths]).tolist()
        kept = [i for i, keep in enumerate(plan[0]) if keep]
        pairs = torch.tensor(kept or [0], device=weights.device)
        rows, n = torch.cat([pairs, pairs + layout.n]), layout.n
        full, width = inputs["input_ids"].shape[1], max(plan[1][i] for i in kept or [0])

        def cut(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.dim() == 0 or len(value) not in (n, 2 * n):
                return value
            value = value[pairs if len(value) == n else rows]
            return value[:, :width] if value.dim() == 2 and value.shape[1] == full else value

        return {key: cut(value) for key, value in inputs.items()}, pairs[: len(kept)]

    def fingerprint(self, inputs: Mapping[str, Any], layout: Layout) -> Tensor:
        """See :meth:`Task.fingerprint`: of the tokens of both rows, and which of them are targets."""
        tokens, attended = inputs["input_ids"], _attended(inputs)
        is_target = inputs.get(COMPLETION, attended)
        place = attended.cumsum(1) * attended - 1
        rows = (mixed(tokens * 2 + is_target, place) * attended).sum(1)
        sides = torch.stack(rows.chunk(2), 1)
        return mixed(sides, torch.arange(2, device=sides.device).expand_as(sides)).sum(1).abs()


class PairedCausalLM(Pairs):
    """Scores pairs by a causal language model: nll(pair) = nll(chosen) - nll(rejected), nats.

    The targets of a pair [n, 2(T - 1)] are those of its chosen row and behind them those of its rejected row, whose
    log-probabilities count with the opposite sign. A gain is then gain(chosen) - gain(rejected), whichever scorer finds
    it. It is a log-odds and no code length. Batches with ``labels`` in place of a ``"completion_mask"`` are
    *demonstrations*, each row a sample with its own code length: so the anchors come, by :func:`chosen_side`.

    Args:
        rows: how a row is scored.

    Example:
        >>> import torch
        >>> tokens, completion = torch.tensor([[5, 6, 7], [5, 8, 0]]), torch.tensor([[0, 1, 1], [0, 1, 0]])
        >>> batch = {"input_ids": tokens, "completion_mask": completion}
        >>> task = PairedCausalLM()
        >>> task.layout(batch).n, task.layout(batch).target.tolist()
        (1, [[True, True, True, False]])
        >>> chosen_side(batch)["labels"]
        tensor([[-100,    6,    7]])

    """

    is_code_length = False

    def __init__(self, rows: CausalLM | None = None) -> None:
        self.rows = CausalLM() if rows is None else rows

    def check(self, model: nn.Module) -> None:
        """See :meth:`CausalLM.check`."""
        self.rows.check(model)

    def layout(self, inputs: Mapping[str, Any], n: int | None = None) -> Layout:
        """See :meth:`Task.layout`."""
        if COMPLETION not in inputs:
            return self.rows.layout(inputs, n)
        found = self.rows.layout(labelled(inputs))
        return replace(
            found, target=_side_by_side(found.target), n=found.n // 2, lengths=torch.maximum(*found.lengths.chunk(2))
        )

    def log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.log_probs`; those of rejected rows with the opposite sign."""
        if COMPLETION not in inputs:
            return self.rows.log_probs(model, inputs)
        return _signed(self.rows.log_probs(model, labelled(inputs)), inputs)

    def plain_log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.plain_log_probs`."""
        if COMPLETION not in inputs:
            return self.rows.plain_log_probs(model, inputs)
        return _signed(self.rows.plain_log_probs(model, labelled(inputs)), inputs)

    def output_log_probs(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.output_log_probs`."""
        if COMPLETION not in inputs:
            return self.rows.output_log_probs(outputs, inputs)
        return _signed(self.rows.output_log_probs(outputs, labelled(inputs)), inputs)

    def select(self, inputs: Mapping[str, Any], layout: Layout, weights: Tensor) -> tuple[Inputs, Tensor]:
        """See :meth:`Pairs.select`."""
        if COMPLETION not in inputs:
            return self.rows.select(inputs, layout, weights)
        return super().select(inputs, layout, weights)

    def fingerprint(self, inputs: Mapping[str, Any], layout: Layout) -> Tensor:
        """See :meth:`Pairs.fingerprint`."""
        if COMPLETION not in inputs:
            return self.rows.fingerprint(inputs, layout)
        return super().fingerprint(inputs, layout)

    def sides(self, values: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Sums of signed per-target ``values`` over the chosen and the rejected row of each pair, [2, n].

        A demonstration has a chosen side alone; the other is NaN.
        """
        if COMPLETION not in inputs:
            chosen = wide(values).sum(1)
            return torch.stack([chosen, torch.full_like(chosen, float("nan"))])
        chosen, rejected = wide(values).chunk(2, 1)
        return torch.stack([chosen.sum(1), -rejected.sum(1)])


class PairedReward(Pairs):
    """Scores pairs by a reward model: nll(pair) = -log sigmoid(r(chosen) - r(rejected)), nats (Bradley and Terry).

    That is the code length of the answer to "which is the better one?", also where a margin is trained on: with a
    margin in it the two answers would have no probabilities that sum to one. A pair has one target.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> rewards = SimpleNamespace(logits=torch.tensor([[1.0], [1.0]]))
        >>> PairedReward().output_log_probs(rewards, {"input_ids": torch.tensor([[5, 6], [5, 7]])})
        tensor([[-0.6931]])

    """

    def layout(self, inputs: Mapping[str, Any], n: int | None = None) -> Layout:
        """See :meth:`Task.layout`."""
        attended = _attended(inputs)
        lengths = (attended * torch.arange(1, attended.shape[1] + 1, device=attended.device)).amax(1)
        chosen, rejected = lengths.chunk(2)
        return Layout(torch.ones_like(chosen, dtype=torch.bool)[:, None], len(chosen), None, chosen.maximum(rejected))

    def log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.log_probs`, [n, 1]."""
        return _preference(model(**_of_rows(inputs), use_cache=False).logits)

    def output_log_probs(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.output_log_probs`, [n, 1]."""
        return _preference(outputs.logits.detach())


def labelled(inputs: Mapping[str, Any]) -> Inputs:
    """The rows of a batch of pairs as one of a causal language model, [2n, T], their completions its targets."""
    rows = _of_rows(inputs)
    completion = rows.pop(COMPLETION)
    return {**rows, "labels": inputs["input_ids"].masked_fill(completion == 0, IGNORE)}


def chosen_side(inputs: Mapping[str, Any]) -> Inputs:
    """The chosen rows of a batch of pairs as a batch of demonstrations, [n, T]."""
    n = len(inputs["input_ids"]) // 2
    return {k: v[:n] if isinstance(v, Tensor) and v.dim() else v for k, v in labelled(inputs).items()}


def _of_rows(inputs: Mapping[str, Any]) -> Inputs:
    """``inputs`` without what belongs to pairs."""
    n = len(inputs["input_ids"]) // 2
    return {k: v for k, v in inputs.items() if not (isinstance(v, Tensor) and v.dim() and len(v) == n)}


def _attended(inputs: Mapping[str, Any]) -> Tensor:
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask.long()


def _side_by_side(values: Tensor) -> Tensor:
    """[2n, T] as [n, 2T]."""
    return torch.cat(values.chunk(2), 1)


def _signed(log_probs: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Log-probabilities of rows [2n, >= T - 1] as those of pairs, [n, 2(T - 1)]."""
    kept = log_probs[:, log_probs.shape[1] - inputs["input_ids"].shape[1] + 1 :]  # virtual tokens stand in front
    chosen, rejected = kept.chunk(2)
    return torch.cat([chosen, -rejected], 1)


def _preference(rewards: Tensor) -> Tensor:
    """log p(the chosen one is better) from the rewards of rows [2n, 1], [n, 1]."""
    chosen, rejected = wide(rewards).chunk(2)
    return F.logsigmoid(chosen - rejected)
