"""What the engine has to know of a model and its batches: which samples are in one, and how likely they are.

A *task* answers these questions about a batch of model inputs and knows no trainer: where its samples are
(:meth:`Task.layout`), the log-probability of each of their targets (:meth:`Task.log_probs`), the same read off a
forward that has already run (:meth:`Task.output_log_probs`), and the batch without some of its samples
(:meth:`Task.select`).

Shapes: ``B`` rows, ``T`` tokens a row, ``n`` samples. One row is one sample in a padded batch; in a padding-free or
packed batch (``position_ids`` restart at zero, no ``attention_mask``) a sample is a segment of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORE = -100
SAMPLE_KEY = "ggmi_sample"
"""Key under which sample ids [n] ride in a batch; :meth:`GainEngine.observe` takes them out again."""

GAIN_KEY = "ggmi_gain"
"""Key under which scores [n, 2 + parts] of samples that were screened before ride in a batch."""

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Where the samples of a batch are.

    Args:
        target: positions with a target, bool, [B, T'].
        n: number of samples.
        segment: sample of each position, long, [B, T']; ``None`` if each row is one sample. A position of no sample
            (padding behind the last segment) carries ``n``.
        lengths: tokens of each segment, or of each row up to its last attended one, long, [n].
        ids: of the samples, long, [n], where the engine knows them.

    """

    target: Tensor
    n: int
    segment: Tensor | None
    lengths: Tensor
    ids: Tensor | None = None

    def total(self, values: Tensor) -> Tensor:
        """Sum of per-position ``values`` [B, T', ...] over each sample, [n, ...], in float32 or wider."""
        values = wide(values)
        if self.segment is None:
            return values.sum(1)
        out = values.new_zeros(self.n + 1, *values.shape[2:])
        return out.index_add_(0, self.segment.flatten(), values.flatten(0, 1))[: self.n]

    def spread(self, weights: Tensor) -> Tensor:
        """Per-sample ``weights`` [n] at each position, [B, T'] (or [B, 1] where rows are samples)."""
        if self.segment is None:
            return weights[:, None]
        return F.pad(weights, (0, 1))[self.segment]

    @property
    def tokens(self) -> Tensor:
        """Number of targets of each sample, [n]."""
        return self.total(self.target)


def wide(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are if wider."""
    return values if values.dtype == torch.float64 else values.float()


def mixed(content: Tensor, place: Tensor) -> Tensor:
    """Hash of whole numbers ``content`` at their places ``place``, long, of one shape; its sums tell contents apart."""
    value = content.long() * -7046029254386353131 + place.long() * -4265267296055464877  # odd constants of splitmix64
    value = (value ^ (value >> 30)) * -4658895280553007687
    return value ^ (value >> 27)


class Task(ABC):
    """How the samples of a batch are found and scored. Subclass it for a model that is not a causal LM."""

    is_code_length = True
    """Whether the negative sum of a sample's log-probabilities is a code length, as the mixture form of I(S; W) needs.

    It is none where some of them count with the opposite sign; that form is then not reported.
    """

    rows_stand_alone = True
    """Whether some rows of a batch can be run without the others, as where memory does not suffice for all."""

    @abstractmethod
    def layout(self, inputs: Mapping[str, Any], n: int | None = None) -> Layout:
        """Where the samples of ``inputs`` are; ``n`` is their number if the caller knows it."""

    @abstractmethod
    def log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """Run ``model`` and return log p of each target in nats, zero where there is none, [B, T']."""

    @abstractmethod
    def output_log_probs(self, outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
        """Read the same off the ``outputs`` of a forward over ``inputs``, [B, T']."""

    @abstractmethod
    def select(self, inputs: Mapping[str, Any], layout: Layout, weights: Tensor) -> tuple[Inputs, Tensor]:
        """Return ``inputs`` without the samples whose weight is zero, and the indices of those that are left.

        This is the one host synchronisation of a filtered step.
        """

    @abstractmethod
    def fingerprint(self, inputs: Mapping[str, Any], layout: Layout) -> Tensor:
        """A number for each sample's content, long, [n], not negative, by which it is known when it comes again."""

    def plain_log_probs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """:meth:`log_probs` from plain operations only, so that forward-mode differentiation goes through."""
        return self.log_probs(model, inputs)

    def thin(self, inputs: Mapping[str, Any], layout: Layout, stride: int) -> tuple[Inputs, Layout]:
        """Return inputs and layout of every ``stride``-th position alone, for :meth:`log_probs`."""
        raise ValueError(f"`stride={stride}`: {type(self).__name__} cannot score some positions of a sample alone.")

    def promptless(self, inputs: Mapping[str, Any], layout: Layout) -> Inputs:
        """Return ``inputs`` with the same targets, which see nothing of their prompts but the last token."""
        raise ValueError(f"{type(self).__name__} has no prompts to leave out.")

    def has_targets(self, inputs: Mapping[str, Any]) -> bool:
        """Whether ``inputs`` say what their targets are, so that a forward over them can be scored."""
        return True

    def check(self, model: nn.Module) -> None:  # noqa: B027
        """Raise where ``model`` cannot be scored by this task."""

    def prompt_mask(self, inputs: Mapping[str, Any], layout: Layout) -> Tensor | None:
        """Positions [B, T'] that belong to a prompt, or None if the task has no prompts."""
        return None

    def fewest(self, model: nn.Module) -> int:
        """Fewest samples that a training forward of ``model`` can do with; 0 if what :meth:`select` leaves will do."""
        return 0
