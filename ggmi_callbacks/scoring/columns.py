"""Gains as columns of a data set, in the middle of a pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ggmi_callbacks.engine import GainEngine
from ggmi_callbacks.scorers import DataScorer, LikelihoodScorer, Scorer, SiblingScorer
from ggmi_callbacks.scoring.job import by_length, values
from ggmi_callbacks.scoring.processes import own_device
from ggmi_callbacks.scoring.run import check_static, module_of
from ggmi_callbacks.scoring.samples import Reader


class GainColumns:
    """A function for ``datasets.map(..., batched=True)`` that adds the gain of each row.

    The shadow is trained once, when it is made; rows are then scored batch by batch, however many there are: a stream
    will do. The columns are ``gain`` and ``noise``, nats, and ``gain/<part>`` of a joint scorer; None where a row has
    no target. :func:`~ggmi_callbacks.score` scores a whole data set at once, faster, since it sorts rows by length.

    Args:
        model: as the other arguments, see :func:`~ggmi_callbacks.score`.
        anchors: real examples of the task.
        scorer: how gain is estimated; one that looks at a row alone.
        tokenizer: a tokenizer, a folder or a name; the model's by default.
        prompt_column: column of prompts, if it has no usual name.
        completion_column: column of answers, if it has no usual name.
        dtype: of the weights of a model that is given by name.
        device: where to compute; a GPU if there is one.
        batch_tokens: most tokens in a batch, padding included.
        max_length: tokens of a sample that are kept; None for all.
        learning_rate: of the shadow.
        shadow_epochs: at most so many passes of the shadow over the anchors.
        seed: of the shadow's order of anchors.
        progress: show the shadow's progress bar.

    Raises:
        TypeError: if ``scorer`` is no scorer.
        ValueError: if ``scorer`` changes with the weights or reads the whole data set, or anchors are too few.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from ggmi_callbacks import DistinctScorer
        >>> sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))
        >>> anchors = [{"input_ids": [1, 2, 3]}] * 4
        >>> add_gain = GainColumns(model, anchors, scorer=DistinctScorer(n=1), progress=False)
        >>> add_gain({"input_ids": [[1, 2, 3, 4], [1, 2, 2, 2], [1]]})["gain"]
        [0.0, -1.0986123085021973, None]

    """

    def __init__(
        self,
        model: str | nn.Module,
        anchors: Any,
        *,
        scorer: Scorer | None = None,
        tokenizer: Any = None,
        prompt_column: str | None = None,
        completion_column: str | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        batch_tokens: int = 8192,
        max_length: int | None = 1024,
        learning_rate: float = 1e-4,
        shadow_epochs: int = 3,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        self.scorer = check_static(LikelihoodScorer() if scorer is None else scorer, batch_tokens)
        for part in getattr(self.scorer, "scorers", (self.scorer,)):
            if isinstance(part, DataScorer | SiblingScorer):
                raise ValueError(
                    f"`scorer`: {type(part).__name__} reads the whole data set, and `map` shows it a batch at a time: "
                    "use `ggmi_callbacks.score(model, data, anchors, scorer=...)`."
                )
        if tokenizer is None and isinstance(model, str):
            tokenizer = model
        self._reader, self._batch_tokens = Reader(tokenizer, prompt_column, completion_column, max_length), batch_tokens
        where = own_device(device) if device is not None or isinstance(model, str) else None
        self._engine = GainEngine(
            module_of(model, dtype, where),
            self._reader.anchors(anchors),
            scorer=self.scorer,
            learning_rate=learning_rate,
            shadow_epochs=shadow_epochs,
            seed=seed,
            progress=progress,
        )
        self._engine.prepare_scorer()

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[float | None]]:
        """Columns for a batch of ``rows``, each a list as long as theirs."""
        if any(isinstance(column, str) for column in rows.values()) or len(set(map(len, rows.values()))) > 1:
            raise ValueError(
                f"`rows` must be columns of one length, got one row of {list(rows)}: map(..., batched=True)."
            )
        listed = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
        samples = self._reader.samples(listed, None, None)
        found = np.full((2 + len(self.scorer.parts), len(listed)), np.nan)
        for ids in by_length(samples.lengths, np.arange(len(listed)), self._batch_tokens):
            found[:, ids] = values(self._engine, samples, ids).double().cpu().numpy()
        names = ["gain", "noise", *(f"gain/{part}" for part in self.scorer.parts)]
        return {n: [None if np.isnan(v) else float(v) for v in column] for n, column in zip(names, found, strict=True)}
