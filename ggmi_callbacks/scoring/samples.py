"""What is scored and what it is scored against, ready for a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from ggmi_callbacks.data import SampleData, decoder, padded
from ggmi_callbacks.scoring.data import Rows, digest_of_rows, name_columns, read
from ggmi_callbacks.scoring.load import load_tokenizer
from ggmi_callbacks.scoring.tokens import Tokens, has_targets, tokenise
from ggmi_callbacks.tasks import IGNORE, Inputs

_ANCHORS = 8  # in a batch of the shadow


@dataclass(frozen=True)
class Samples:
    """Rows to score, their tokens, and what is written beside their scores."""

    rows: Rows
    tokens: Tokens
    sources: list[str | None]
    content: str
    """Digest of the rows as they were read."""
    decode: Callable[[list[int]], str] | None = None
    """From tokens to text, for scores that read texts."""

    @cached_property
    def data(self) -> SampleData:
        """What scorers may read."""
        return SampleData(self.rows, self.tokens, self.decode)

    @cached_property
    def prints(self) -> Tensor:
        """Fingerprint of each sample, [N]."""
        return self.data.fingerprints()

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, [N]."""
        return np.array([len(sample["input_ids"]) for sample in self.tokens])

    @property
    def targets(self) -> np.ndarray:
        """Targets of each sample, the first token never being one, [N]."""
        return np.array([np.count_nonzero(np.asarray(sample["labels"])[1:] != IGNORE) for sample in self.tokens])

    def batch(self, ids: np.ndarray) -> Inputs:
        """The samples ``ids`` side by side."""
        return padded([(self.tokens[i]["input_ids"], self.tokens[i]["labels"]) for i in ids])


class Reader:
    """Reads data and anchors alike.

    Args:
        tokenizer: a tokenizer, or the name of one; None if there are only rows with ``input_ids``.
        prompt_column: see :func:`ggmi_callbacks.score`.
        completion_column: see there.
        max_length: see there.

    """

    def __init__(
        self, tokenizer: Any, prompt_column: str | None, completion_column: str | None, max_length: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._columns, self._max_length = (prompt_column, completion_column), max_length

    def samples(self, data: Any, source: str | None, limit: int | None) -> Samples:
        """The samples of ``data``.

        Raises:
            ValueError: if they cannot be read, or lack the column ``source``.

        """
        rows = read(data, "data", limit)
        if source is not None and source not in rows[0]:
            raise ValueError(f"`source` {source!r} is not a column of `data`, which has {', '.join(rows[0])}.")
        sources = [None if source is None or row.get(source) is None else str(row[source]) for row in rows]
        named, tokens = self._tokens(rows, "data")
        return Samples(named, tokens, sources, digest_of_rows(rows), decoder(self._tokenizer))

    def anchors(self, data: Any) -> list[Inputs]:
        """Batches of anchors that have targets.

        Raises:
            ValueError: if there are none, or fewer than two have targets.

        """
        if data is None:
            raise ValueError("`anchors` are missing: gain is measured against real examples of the task.")
        _, tokens = self._tokens(read(data, "anchors"), "anchors")
        usable = [(t["input_ids"], t["labels"]) for t in tokens if has_targets(t)]
        if len(usable) < 2:
            raise ValueError(
                f"`anchors` must hold at least two samples with target tokens, got {len(usable)} of {len(tokens)}: "
                "give more, or raise `max_length`."
            )
        size = min(_ANCHORS, max(1, len(usable) // 4))
        return [padded(usable[i : i + size]) for i in range(0, len(usable), size)]

    def _tokens(self, rows: Rows, argument: str) -> tuple[Rows, Tokens]:
        rows = name_columns(rows, argument, *self._columns)
        if "input_ids" not in rows[0] and isinstance(self._tokenizer, str):
            self._tokenizer = load_tokenizer(self._tokenizer)
        return rows, tokenise(rows, self._tokenizer, argument, self._max_length)
