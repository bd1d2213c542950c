"""Causal language models: the samples in a batch of token ids, and how likely each is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ggmi_callbacks.tasks.base import IGNORE, SAMPLE_KEY, Inputs, Layout, Task, mixed, wide
from ggmi_callbacks.tasks.packing import select_segments

_SOME = "logits_to_keep"  # Hugging Face's name for the positions whose logits are wanted
_CHUNK = 4096  # positions whose logits are held in float32 at once


def target_log_probs(logits: Tensor, labels: Tensor, wanted: Tensor | None = None) -> Tensor:
    """Log-probability of the next-token ``labels``, in float32 or wider.

    Args:
        logits: [B, T, V], position t predicts the token at t + 1.
        labels: [B, T], ``-100`` where there is no target.
        wanted: the label that each position predicts [B, K], if ``logits`` [B, K, V] are those of some positions only.

    Returns:
        log p in nats, zero where ignored, [B, T - 1] or [B, K].

    Example:
        >>> import torch
        >>> target_log_probs(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]]))
        tensor([[-1.3863, -0.0000]])

    """
    # The last position predicts nothing, and is scored all the same: cutting it off would copy all the logits.
    target = (F.pad(labels[:, 1:], (0, 1), value=IGNORE) if wanted is None else wanted).to(logits.device)
    chunks = [
        F.cross_entropy(wide(chunk), targets, reduction="none", ignore_index=IGNORE)
        for chunk, targets in zip(logits.flatten(0, 1).split(_CHUNK), target.flatten().split(_CHUNK), strict=True)
    ]
    found = -torch.cat(chunks).view_as(target)
    return found[:, :-1] if wanted is None else found


class CausalLM(Task):
    """A causal language model called with ``input_ids``, ``labels`` and an attention mask or packed positions.

    Works with any module that returns ``logits`` [B, T, V] (as Hugging Face's ``*ForCausalLM`` do).
    """

    def check(self, model: nn.Module) -> None:
        """Raise for encoder-decoders and for models without a language-model head."""
        config = getattr(model, "config", None)
        name = type(model).__name__
        if getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"`model` is an encoder-decoder ({name}), whose targets are not next tokens of its input. "
                "GGMI scores causal language models; for others pass a `Task` of your own to `GainEngine`."
            )
        if getattr(model, "loss_type", None) == "ForMaskedLM":
            raise ValueError(f"`model` ({name}) is a masked language model; GGMI scores causal ones.")
        head = getattr(model, "get_output_embeddings", lambda: True)
        if head() is None:
            raise ValueError(
                f"`model` ({name}) has no language-model head, so its samples have no likelihood. "
                "Load it with `AutoModelForCausalLM`, or pass a `Task` with a per-sample loss to `GainEngine`."
            )

    def has_targets(self, inputs: Mapping[str, Any]) -> bool:
        """See :meth:`Task.has_targets`."""
        return inputs.get("labels") is not None

    def layout(self, inputs: Mapping[str, Any], n: int | None = None) -> Layout:
        """See :meth:`Task.layout`; packed batches need ``n``, since counting segments would wait for the device."""
        labels = self._labels(inputs)
        target = labels[:, 1:] != IGNORE
        positions = inputs.get("position_ids")
        if positions is None or inputs.get("attention_mask") is not None:
            mask = inputs.get("attention_mask")
            if mask is None:
                mask = torch.ones_like(labels)
            if mask.dim() != 2:
                raise ValueError(
                    f"`attention_mask` must be [B, T] (1 where a token is attended), got {tuple(mask.shape)}: in a row "
                    "with a mask of its own nobody can see where one sample ends. Give one sample a row, or a packed "
                    "batch, whose `position_ids` restart and which has no `attention_mask`."
                )
            lengths = (mask.bool() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).amax(1)
            return Layout(target, len(labels), None, lengths)
        if n is None:
            raise ValueError(
                "a packed batch (`position_ids` without `attention_mask`) must say how many samples it holds: "
                f"put their ids under {SAMPLE_KEY!r}, a tensor [n]."
            )
        token_segment = ((positions == 0).flatten().cumsum(0) - 1).clamp_max(n).view_as(positions)
        lengths = torch.zeros(n + 1, dtype=torch.long, device=labels.device)
        lengths.index_add_(0, token_segment.flatten(), torch.ones_like(token_segment.flatten()))
        return Layout(target, n, token_segment[:, 1:], lengths[:n])

    def fingerprint(self, inputs: Mapping[str, Any], layout: Layout) -> Tensor:
        """See :meth:`Task.fingerprint`: of tokens and labels, whatever the padding and the neighbours in a row."""
        tokens, labels = inputs["input_ids"], self._labels(inputs)
        if layout.segment is None:
            mask = inputs.get("attention_mask")
            attended = torch.ones_like(tokens) if mask is None else mask.long()
            place = attended.cumsum(1) * attended - 1
        else:
            place = inputs["position_ids"]
        # The first token of a sample is left out: in a row of segments the first of all has no predecessor.
        hashed = mixed(tokens * 2 + (labels != IGNORE), place)[:, 1:] * (place[:, 1:] > 0)
        if layout.segment is None:
            return hashed.sum(1).abs()
        return hashed.new_zeros(layout.n + 1).index_add_(0, layout.segment.flatten(), hashed.flatten())[:-1].abs()

    def log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.log_probs`."""
        return self.plain_log_probs(model, inputs)

    def plain_log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.plain_log_probs`; the model builds its logits, without a loss of its own."""
        forward = {k: v for k, v in inputs.items() if k not in ("labels", "num_items_in_batch", "use_cache")}
        logits, labels = model(**forward, use_cache=False).logits, self._labels(inputs)
        kept = inputs.get(_SOME)
        if kept is None:
            return target_log_probs(logits, labels)
        if logits.shape[1] != len(kept):
            raise ValueError(f"`stride`: {type(model).__name__} does not know `logits_to_keep`; leave `stride` out.")
        found = target_log_probs(logits, labels, labels[:, kept + 1])
        return found.new_zeros(labels[:, 1:].shape).index_copy_(1, kept, found)

    def thin(self, inputs: Mapping[str, Any], layout: Layout, stride: int) -> tuple[Inputs, Layout]:
        """See :meth:`Task.thin`; the language-model head runs on the chosen positions alone.

        Raises:
            ValueError: for a packed batch, where a sample's positions would depend on its neighbours.

        """
        if layout.segment is not None:
            raise ValueError(f"`stride={stride}` needs one sample a row; this batch is packed. Leave `stride` out.")
        kept = torch.arange(0, layout.target.shape[1], stride, device=layout.target.device)
        chosen = torch.zeros_like(layout.target[0]).index_fill_(0, kept, True)
        return {**inputs, _SOME: kept}, replace(layout, target=layout.target & chosen)

    def promptless(self, inputs: Mapping[str, Any], layout: Layout) -> Inputs:
        """See :meth:`Task.promptless`: prompts are masked, or in a packed batch become segments of their own."""
        labels = self._labels(inputs)
        is_target = (labels != IGNORE).long()
        begun = is_target.cumsum(1)
        if layout.segment is None:
            mask = inputs.get("attention_mask")
            seen = F.pad(begun[:, 1:], (0, 1), value=1) > 0  # from the token before the first target on
            visible = seen.long() if mask is None else mask * seen
            return {**inputs, "attention_mask": visible, "position_ids": (visible.cumsum(1) - 1).clamp_min(0)}
        positions = inputs["position_ids"]
        starts = positions == 0
        # Targets before the segment, carried along it: the running count never falls.
        before = torch.where(starts, begun - is_target, 0).cummax(1).values
        first = F.pad(is_target[:, 1:], (0, 1)) * (begun == before) * (1 - is_target)
        place = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
        restarted = place - torch.where(starts | (first > 0), place, 0).cummax(1).values
        bounds = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")  # then read off the positions
        out = {k: v for k, v in inputs.items() if k not in bounds} | {"position_ids": restarted}
        if "seq_idx" in out:
            out["seq_idx"] = ((restarted == 0).cumsum(1) - 1).int()
        return out

    def output_log_probs(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """See :meth:`Task.output_log_probs`."""
        logits = getattr(outputs, "logits", None)
        if logits is None:
            raise ValueError(
                f"the model's output ({type(outputs).__name__}) has no `logits`, so per-sample likelihoods cannot be "
                "read from it. Switch off the fused loss (`use_liger_kernel=False`) or use TRL's `SFTTrainer`."
            )
        labels = self._labels(inputs)
        own = logits.shape[1] - labels.shape[1]  # virtual tokens of a soft prompt stand in front
        return target_log_probs(logits[:, own:].detach(), labels)

    def prompt_mask(self, inputs: Mapping[str, Any], layout: Layout) -> Tensor | None:
        """Attended positions that are no target."""
        mask = inputs.get("attention_mask")
        ignored = self._labels(inputs)[:, 1:] == IGNORE
        return ignored if mask is None else ignored & mask[:, 1:].bool()

    def select(self, inputs: Mapping[str, Any], layout: Layout, weights: Tensor) -> tuple[Inputs, Tensor]:
        """See :meth:`Task.select`. A batch that loses every sample keeps its first one, with no target."""
        plan = torch.stack([weights.gt(0).long(), layout.lengths]).tolist()
        kept = [i for i, keep in enumerate(plan[0]) if keep]
        rows = kept or [0]
        index = torch.tensor(rows, device=weights.device)
        if layout.segment is None:
            out = _select_rows(inputs, index, layout.n, max(plan[1][i] for i in rows))
        else:
            out = select_segments(inputs, rows, plan[1])
        if not kept:
            out["labels"] = torch.full_like(out["labels"], IGNORE)
        return out, index[: len(kept)]

    @staticmethod
    def _labels(inputs: Mapping[str, Any]) -> Tensor:
        labels = inputs.get("labels")
        if labels is None:
            raise ValueError(
                "the batch has no `labels`, so there is nothing to score. Use a collator that makes them, "
                f"or name the column so; it holds {sorted(k for k, v in inputs.items() if v is not None)}."
            )
        return labels


def _select_rows(inputs: Mapping[str, Any], index: Tensor, n: int, width: int) -> Inputs:
    """Rows ``index`` of every batched tensor, without the columns that only padded on their right."""
    full = inputs["labels"].shape[1]

    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] != n:
            return value
        value = value.index_select(0, index)
        return value[:, :width] if value.dim() == 2 and value.shape[1] == full else value

    return {key: cut(value) for key, value in inputs.items()}
