"""Samples on their way to the engine: numbered, so that a batch knows which ones it holds; and anchors, checked.

loader = DataLoader(Numbered(data), batch_size, shuffle=True, collate_fn=CarryIds(collate))
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset, default_collate

from ggmi_callbacks.tasks import IGNORE, SAMPLE_KEY, CausalLM, Inputs, Task

_CHUNK = 256  # samples whose fingerprints are found at once

_TOKENS = ("input_ids", "labels")
_BATCH = 1000  # rows read at once
_JUDGED = 0.75  # share of samples with siblings from which on these may decide


class Numbered(Dataset):
    """A map-style data set of dictionaries, each with its position under ``"ggmi_sample"``.

    Example:
        >>> Numbered([{"x": 1.0}, {"x": 2.0}])[1]
        {'x': 2.0, 'ggmi_sample': 1}

    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.data[index], SAMPLE_KEY: index}


class CarryIds:
    """A collator that keeps sample ids away from ``collate`` and adds them, [n], to the batch that it makes.

    Example:
        >>> CarryIds()([{"x": 1.0, "ggmi_sample": 5}, {"x": 2.0, "ggmi_sample": 3}])["ggmi_sample"]
        tensor([5, 3])

    """

    def __init__(self, collate: Callable[[list[Any]], Any] = default_collate) -> None:
        self.collate = collate

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        """Collate ``features``, some of which may carry ids."""
        if SAMPLE_KEY not in features[0]:
            return self.collate(features)
        ids = torch.cat([torch.as_tensor(f[SAMPLE_KEY]).reshape(-1) for f in features])  # packed rows hold several
        if ids.is_floating_point() or ids.lt(0).any():
            raise ValueError(f"{SAMPLE_KEY!r} must hold whole numbers that are not negative, got {ids.tolist()}.")
        batch = self.collate([{k: v for k, v in f.items() if k != SAMPLE_KEY} for f in features])
        batch[SAMPLE_KEY] = ids
        return batch


class SampleData:
    """The training set by sample id, for scores that the data itself bring: its columns, its prompts and its answers.

    Args:
        rows: a ``datasets.Dataset``, or a sequence of dictionaries; the id of a row is its position.
        tokens: the same rows tokenised (``input_ids``, ``labels``), if ``rows`` are not.
        decode: makes a text of token ids, for scores that read words: a tokenizer's ``decode`` without special tokens.

    Example:
        >>> data = SampleData([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "reward": 1.0}])
        >>> data.column("reward", "column"), data.groups, data.answers
        ([1.0], [0], [[6, 7]])

    """

    def __init__(self, rows: Any, tokens: Any = None, decode: Callable[[list[int]], str] | None = None) -> None:
        self._rows, self._tokens, self._decode = rows, rows if tokens is None else tokens, decode

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str, argument: str) -> list[Any]:
        """Values of a column, by id.

        Args:
            name: of the column.
            argument: that names it, for the message.

        Raises:
            ValueError: if there is no such column, naming those that there are.

        """
        found = _column(self._rows, name)
        if found is None:
            raise ValueError(
                f"`{argument}={name!r}`: the training set has no column {name!r}; it has {_names(self._rows)}."
            )
        return found

    @cached_property
    def groups(self) -> list[int]:
        """A number for the prompt of each sample, the token ids before its first target; no prompt equals none.

        Equal numbers, equal prompts: such samples are siblings, and one without a prompt is nobody's.
        """
        known: dict[bytes, int] = {}
        out: list[int] = []
        for ids, labels in self.tokens(arrays=True):
            is_target = np.asarray(labels) != IGNORE
            begin = is_target.argmax() if is_target.any() else len(is_target)
            prompt = np.asarray(ids[:begin], np.int64).tobytes()
            key = hashlib.blake2b(prompt, digest_size=16).digest() if prompt else b"%d" % len(out)
            out.append(known.setdefault(key, len(known)))
        return out

    @property
    def has_tokens(self) -> bool:
        """Whether prompts and answers can be read."""
        return set(_TOKENS) <= set(_names(self._tokens))

    @property
    def has_siblings(self) -> bool:
        """Whether three samples in four or more have at least two siblings, at two prompts or more, by their tokens.

        In a set of which siblings judge a part alone, what they find wrong is missing from that part, and the rest
        makes up for it: the mixture is another one, whatever was right.

        A single sibling is no judge: of the right answers to word problems, up to half disagreed with it.
        """
        counts = Counter(self.groups).values() if self.has_tokens else []
        large = [count for count in counts if count > 2]
        return len(large) > 1 and sum(large) >= _JUDGED * len(self)

    @property
    def answers(self) -> list[list[int]]:
        """Token ids of the targets of each sample."""
        return [[i for i, label in zip(ids, labels, strict=True) if label != IGNORE] for ids, labels in self.tokens()]

    @property
    def texts(self) -> list[str] | None:
        """The answer of each sample as text; None if nobody said how tokens are decoded."""
        return None if self._decode is None else [self._decode(ids) for ids in self.answers]

    @property
    def has_texts(self) -> bool:
        """Whether tokens are there and can be decoded."""
        return self._decode is not None and len(self) > 0 and "input_ids" in _names(self._tokens)

    def text(self, index: int) -> dict[str, str]:
        """Prompt and completion of one sample as the model reads them; a prompt is what has no targets."""
        assert self._decode is not None
        row = self._tokens[index]
        ids, labels = list(row["input_ids"]), row.get("labels")
        begin = 0 if labels is None else _begin(labels) % len(ids)  # without targets all of it is the completion
        return {"prompt": self._decode(ids[:begin]), "completion": self._decode(ids[begin:])}

    def batch(self, ids: Sequence[int]) -> Inputs:
        """Model inputs of some samples, padded on the right."""
        rows = [self._tokens[int(i)] for i in ids]
        return padded([(row["input_ids"], row["labels"]) for row in rows])

    def fingerprints(self) -> Tensor:
        """Number of each sample's tokens and targets, long, [N]: that of :meth:`CausalLM.fingerprint` in any batch.

        Rows without ``labels`` have every token for a target.

        Raises:
            ValueError: if the rows are not tokenised.

        """
        ids, labels, mask = (_column(self._tokens, name) for name in ("input_ids", "labels", "attention_mask"))
        if ids is None:
            raise ValueError(
                f"samples are known again by their tokens, and the training set has none, only {_names(self._tokens)}: "
                "tokenise it beforehand (column `input_ids`, and `labels`)."
            )
        rows = list(zip(ids, ids if labels is None else labels, strict=True))
        if mask is not None:
            rows = [([*compress(t, m)], [*compress(y, m)]) for (t, y), m in zip(rows, mask, strict=True)]
        task, found = CausalLM(), torch.empty(len(rows), dtype=torch.long)
        order = torch.tensor([len(row) for row, _ in rows]).argsort()  # little padding
        for chunk in order.split(_CHUNK):
            batch = padded([rows[i] for i in chunk.tolist()])
            found[chunk] = task.fingerprint(batch, task.layout(batch))
        return found

    def tokens(self, arrays: bool = False) -> Iterator[tuple[Any, Any]]:
        """Token ids and labels of each sample: as lists or, where the data set can, as arrays, which is far faster."""
        if not self.has_tokens:
            raise ValueError(
                "prompts and answers are read from `input_ids` and `labels`, and the training set has "
                f"{_names(self._tokens)}: name a column of groups or of texts instead."
            )
        rows = self._tokens
        if not (arrays and hasattr(rows, "with_format")):
            return zip(*(_column(rows, name) or [] for name in _TOKENS), strict=True)
        rows = rows.with_format("numpy", columns=list(_TOKENS))
        batches = (rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH))
        return (pair for batch in batches for pair in zip(*(batch[name] for name in _TOKENS), strict=True))


def decoder(tokenizer: Any) -> Callable[[list[int]], str] | None:
    """From token ids to text without special tokens; None if there is no tokenizer (a processor has one)."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    return partial(tokenizer.decode, skip_special_tokens=True) if hasattr(tokenizer, "decode") else None


def padded(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Inputs:
    """A batch of ``input_ids``, ``labels`` and ``attention_mask`` [B, T] of rows of tokens and labels.

    Example:
        >>> padded([([5, 6, 7], [-100, 6, 7]), ([8, 9], [8, 9])])["labels"]
        tensor([[-100,    6,    7],
                [   8,    9, -100]])

    """
    lengths = [len(tokens) for tokens, _ in rows]
    batch = torch.zeros(3, len(rows), max(1, *lengths), dtype=torch.long)
    batch[1] = IGNORE
    for i, (tokens, labels) in enumerate(rows):
        batch[:2, i, : lengths[i]] = torch.from_numpy(np.array([tokens, labels], dtype=np.int64))
        batch[2, i, : lengths[i]] = 1
    return dict(zip(("input_ids", "labels", "attention_mask"), batch.unbind(), strict=True))


def _names(rows: Any) -> list[str]:
    names = getattr(rows, "column_names", None)
    return list(names) if names is not None else sorted(rows[0]) if len(rows) else []


def _column(rows: Any, name: str) -> list[Any] | None:
    if name not in _names(rows):
        return None
    return list(rows[name]) if hasattr(rows, "column_names") else [rows[i].get(name) for i in range(len(rows))]


def _begin(labels: Sequence[int]) -> int:
    """Place of the first target."""
    return next((i for i, label in enumerate(labels) if label != IGNORE), len(labels))


def check_anchors(anchors: Sequence[Inputs], task: Task) -> list[Inputs]:
    """``anchors`` as a list; raises if they are fewer than two or one of them has no targets."""
    batches = list(anchors)
    samples = sum(task.layout(batch).n for batch in batches)
    if samples < 2 or len(batches) < 2:
        raise ValueError(
            f"`anchors` must hold at least two samples, in two batches (one is held out), got {samples} in "
            f"{len(batches)}."
        )
    without = sum(int((task.layout(batch).tokens == 0).sum()) for batch in batches)
    if without:
        raise ValueError(
            f"{without} of {samples} `anchors` have no target tokens (every label is -100): their answers were "
            "masked or truncated away. Raise `max_length`, or check the completion mask."
        )
    return batches


def check_vocabulary(anchors: Sequence[Inputs], model: nn.Module) -> None:
    """Raise if ``anchors`` hold a token that ``model`` does not know."""
    find: Any = getattr(model, "get_input_embeddings", lambda: None)
    size = getattr(find(), "num_embeddings", None)  # also of an adapter around the embeddings
    if size is None:
        return
    largest = max((int(batch["input_ids"].max()) for batch in anchors if "input_ids" in batch), default=0)
    if largest >= size:
        raise ValueError(
            f"`anchors` hold token id {largest}, the model's vocabulary has {size}: they were "
            "tokenised with another tokenizer."
        )


def anchors_digest(anchors: Sequence[Inputs]) -> str:
    """SHA-256 of everything in ``anchors``, by which a resumed run knows them again."""
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves([dict(batch) for batch in anchors]):
        if isinstance(leaf, Tensor):
            digest.update(str((tuple(leaf.shape), leaf.dtype)).encode())
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def to_device(batch: Inputs, device: torch.device) -> Inputs:
    """``batch`` on ``device``, without sample ids."""
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items() if k != SAMPLE_KEY}
