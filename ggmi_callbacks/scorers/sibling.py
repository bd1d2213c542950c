"""What the other answers to its prompt tell the model itself about an answer.

    gain(z) = mean over siblings y' of log p(y | p, y', p) - log p(y | p)        z = (p, y); nats

The model sees the prompt p, a sibling y', another answer to p, and then z as it stands. Siblings share what the
generator knows and not its noise, so the mean over samples is *shared information*, I(y; y' | p), as the model sees it.
Under the true laws it is that (:func:`~ggmi_callbacks.functional.table_shared_information`,
:func:`~ggmi_callbacks.functional.gaussian_shared_information`); under a model it is no bound.
:func:`~ggmi_callbacks.functional.sibling_information` is the same with n-gram models in place of this one.

Cost: 1 + k forwards without gradient, k of them over rows about twice as long, once; and one wait for the device in
each batch that is scored, to look up ids. Sees: an answer whose siblings say the like, in other words too. Blind to: an
error that siblings share, and what the model is too small to read off its context.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ggmi_callbacks.data import SampleData
from ggmi_callbacks.functional._siblings import Ints, as_rows, strangers
from ggmi_callbacks.model import Probe, Shadow
from ggmi_callbacks.scorers._base import Normalize, TokenScorer, check_dtype
from ggmi_callbacks.tasks import IGNORE, CausalLM, Inputs, Layout

Pieces = tuple[Ints, Ints]
"""Where pieces of texts begin, and their lengths, in tokens."""


class SiblingScorer(TokenScorer):
    """gain(z) = log p(y | p, y', p) - log p(y | p), the mean over up to k siblings y' of z, in nats.

    The weights are those before training, so a sample's gain never changes. An answer that is alone with its prompt, or
    that fits into the model's context with none of its siblings, is not scored. In a conversation of several turns the
    prompt is what comes before the first answer, and the rest is the answer.

    Args:
        siblings: k, how many siblings are asked at most.
        group: column that says which samples answer the same prompt; by default equal prompts do (equal token ids),
            and a sample without a prompt is alone.
        seed: of the draw of siblings in large groups, and of strangers.
        dtype: autocast the forwards to it; None for :attr:`Probe.autocast_dtype`, the precision of the run.
        normalize: see :class:`Scorer`.

    Raises:
        ValueError: if an argument is out of its range; in :meth:`read`, if the column is missing or no prompt has two
            answers; in :meth:`prepare`, if the training set was not read, the task is no causal language model, or no
            sibling fits into the model's context.

    Example:
        >>> from dataclasses import replace
        >>> from types import SimpleNamespace
        >>> import torch
        >>> from ggmi_callbacks.data import SampleData
        >>> from ggmi_callbacks.model import Probe, train_shadow
        >>> from ggmi_callbacks.tasks import CausalLM
        >>> class Counts(torch.nn.Module):  # a token is as likely as it was frequent before, by Laplace's rule
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.prior = torch.nn.Parameter(torch.ones(4))
        ...     def forward(self, input_ids, **unused):
        ...         return SimpleNamespace(logits=(self.prior + torch.eye(4)[input_ids].cumsum(1)).log())
        >>> rows = [{"input_ids": [0, y], "labels": [-100, y]} for y in (1, 1, 2)]
        >>> scorer, probe = SiblingScorer(), Probe(Counts(), CausalLM())
        >>> scorer.read(SampleData(rows))  # which the engine does
        >>> batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
        >>> shadow = train_shadow(probe, [batch, batch], learning_rate=1e-3, progress=False)
        >>> scorer.prepare(probe, [batch, batch], shadow)
        >>> layout = replace(probe.task.layout(batch), ids=torch.arange(3))
        >>> scorer(batch, layout)  # to the first: (log 2/7 + log 1/7) / 2 - log 1/5
        tensor([ 0.0101,  0.0101, -0.3365])

    """

    static = True
    needs_ids = True

    def __init__(
        self,
        siblings: int = 2,
        group: str | None = None,
        seed: int = 0,
        dtype: torch.dtype | None = None,
        normalize: Normalize = None,
    ) -> None:
        super().__init__(normalize)
        if siblings < 1:
            raise ValueError(f"`siblings` must be at least 1, got {siblings}.")
        check_dtype(dtype)
        self.siblings, self.group, self.seed, self.dtype = siblings, group, seed, dtype
        self._texts: _Texts | None = None

    def read(self, data: SampleData) -> None:
        """Take the tokens of all samples, and who is whose sibling."""
        self._texts = _Texts(data)
        groups: Sequence[Any] = data.groups if self.group is None else data.column(self.group, "group")
        self._groups = as_rows(groups, groups)[1]
        if np.bincount(self._groups).max() == 1:
            raise ValueError(
                f"each of the {len(groups)} prompts has one answer, so no answer has a sibling: ask the generator "
                "several times, or name a column of groups with `group=`."
            )

    def prepare(self, probe: Probe, anchors: Sequence[Inputs], shadow: Shadow) -> None:
        """Keep the initial weights, and choose the siblings that fit into the model's context."""
        self._require()
        if not isinstance(probe.task, CausalLM):
            raise ValueError(
                f"SiblingScorer puts answers into the context of others, which {type(probe.task).__name__} does not "
                "have: use `AgreementScorer(group=..., text=...)`, which needs no model."
            )
        self._probe, self._start, self._room = probe, probe.snapshot(), _context(probe.model)
        drawn = _drawn(self._groups, self.siblings, self.seed)
        self._partners = self._fitting(drawn)
        asked, left = (int((partners >= 0).any(1).sum()) for partners in (drawn, self._partners))
        what = f"{asked - left} of {asked} answers with siblings do not fit, with any of them,"
        if not left:
            raise ValueError(f"{what} into the model's context of {self._room} tokens: leave SiblingScorer out.")
        if left < asked:
            warnings.warn(f"{what} into the model's context of {self._room} tokens: not scored.", stacklevel=2)

    def token_gain(self, inputs: Inputs, layout: Layout) -> tuple[Tensor, Layout]:
        """See :meth:`TokenScorer.token_gain`; the targets of all samples stand in one row, [1, T']."""
        return self._information(layout, self._partners)

    def null(self, inputs: Inputs, layout: Layout) -> Tensor:
        """The same with an answer to another prompt for a sibling, where the truth is zero, [n].

        NaN for an answer without siblings.

        Raises:
            ValueError: if there are no two prompts with several answers.

        """
        others = strangers(self._groups, self.seed)
        others[others == np.arange(len(others))] = -1
        values, scored = self._information(layout, self._fitting(others[:, None]))
        return scored.total(values) / (scored.tokens if self.normalize == "token" else 1)

    def _fitting(self, partners: Ints) -> Ints:
        """``partners`` [N, k], with -1 for those that are empty, or do not fit into the context."""
        texts, all_of_them = self._require(), np.arange(len(partners))[:, None]
        answer = texts.answers(partners)[1]
        length = texts.prompts(all_of_them)[1] + answer + texts.samples(all_of_them)[1]
        return np.where((answer > 0) & (length <= self._room), partners, -1)

    @torch.no_grad()
    def _information(self, layout: Layout, partners: Ints) -> tuple[Tensor, Layout]:
        """What the ``partners`` [N, k] of each sample say of its targets, [1, T'], NaN if nothing; and their layout."""
        if layout.ids is None:
            raise ValueError("SiblingScorer looks samples up by id, and this batch carries none.")
        texts, device = self._require(), layout.target.device
        ids = layout.ids.cpu().numpy()
        alone, sample = self._log_probs(texts.rows(texts.samples(ids)), device)
        given = alone.new_full((partners.shape[1], len(alone)), float("nan"))
        for slot, partner in enumerate(partners[ids].T):
            known = partner >= 0
            if known.any():
                to, of = ids[known], partner[known]
                batch = texts.rows(texts.prompts(to), texts.answers(of), texts.samples(to))
                places = torch.from_numpy(known)[sample].nonzero()[:, 0]
                given[slot, places.to(device)] = self._log_probs(batch, device)[0]
        counts, segment = torch.bincount(sample, minlength=len(ids)), sample[None].to(device)
        scored = Layout(torch.ones_like(segment, dtype=torch.bool), len(ids), segment, counts.to(device))
        return (given.nanmean(0) - alone)[None], scored

    def _log_probs(self, batch: Inputs, device: torch.device) -> tuple[Tensor, Tensor]:
        """Log-probability of each target of a batch on the host, [T'], and the row that it is in, on the host too."""
        probe = self._probe
        rows, places = (batch["labels"][:, 1:] != IGNORE).nonzero(as_tuple=True)
        with probe.quiet(), probe.precision(self.dtype or probe.autocast_dtype):
            found = probe.log_probs({name: value.to(device) for name, value in batch.items()}, self._start)
        return found[rows.to(device), places.to(device)], rows

    def _require(self) -> _Texts:
        if self._texts is None:
            raise ValueError(
                "SiblingScorer reads the training set, and the engine was given none: GainEngine(..., data=rows), with "
                "sample ids in the batches. A stream cannot be read beforehand."
            )
        return self._texts

    def state_dict(self) -> dict[str, Any]:
        """The initial weights."""
        return {"start": self._start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back the initial weights."""
        self._start = state["start"]


class _Texts:
    """Tokens of all samples, up to their last targets, on the host; and rows made of pieces of them."""

    def __init__(self, data: SampleData) -> None:
        tokens, target, bounds = [], [], []
        for ids, labels in data.tokens():
            targets = np.asarray(labels) != IGNORE
            places = targets.nonzero()[0]
            first, end = (places[0], places[-1] + 1) if len(places) else (len(ids), len(ids))
            targets[:1] = False  # nothing comes before the first token, which could predict it
            tokens.append(np.asarray(ids[:end], np.int32))
            target.append(targets[:end])
            bounds.append((first, end))
        self._tokens, self._target = np.concatenate(tokens), np.concatenate(target)
        self._first, self._end = np.asarray(bounds, np.int64).T
        self._offset = np.cumsum(self._end) - self._end

    def prompts(self, ids: Ints) -> Pieces:
        """What comes before the first target of each sample."""
        return self._offset[ids], self._first[ids]

    def answers(self, ids: Ints) -> Pieces:
        """What comes from its first target to its last."""
        return self._offset[ids] + self._first[ids], (self._end - self._first)[ids]

    def samples(self, ids: Ints) -> Pieces:
        """Both."""
        return self._offset[ids], self._end[ids]

    def rows(self, *pieces: Pieces) -> Inputs:
        """A padded batch of rows, each made of one of each of ``pieces``; the targets are those in the last ones."""
        start, length = (np.stack(each, 1) for each in zip(*pieces, strict=True))  # [n, pieces]
        each = length.ravel()
        place = np.arange(each.sum()) + np.repeat(start.ravel() - np.cumsum(each) + each, each)
        last = np.repeat(np.arange(len(each)) % len(pieces) == len(pieces) - 1, each)
        tokens = torch.from_numpy(self._tokens[place]).long()
        labels = tokens.where(torch.from_numpy(self._target[place] & last), IGNORE)
        sizes = length.sum(1).tolist()

        def padded(values: Tensor, filler: int) -> Tensor:
            return pad_sequence(list(values.split(sizes)), batch_first=True, padding_value=filler)

        mask = torch.ones_like(tokens)
        return {"input_ids": padded(tokens, 0), "labels": padded(labels, IGNORE), "attention_mask": padded(mask, 0)}


def _drawn(group: Ints, count: int, seed: int) -> Ints:
    """``count`` siblings of each sample, each drawn as often as any other, -1 where it has fewer, [N, count]."""
    order = np.random.default_rng(seed).permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]  # group by group, each shuffled
    size = np.bincount(group)
    first = (np.cumsum(size) - size)[group]
    place = np.empty_like(group)
    place[order] = np.arange(len(group))
    step, size = np.arange(1, count + 1), size[group][:, None]
    found = order[first[:, None] + ((place - first)[:, None] + step) % size]
    return np.where(step < size, found, -1)


def _context(model: torch.nn.Module) -> float:
    """Most tokens of a row; infinite if the model names no limit."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return getattr(text, "max_position_embeddings", None) or float("inf")
