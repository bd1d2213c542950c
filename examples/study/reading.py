"""What a student makes of texts that it is shown: code length, and whether it would have written what comes next.

One forward gives, for each token of a completion, its code length and whether it is the student's likeliest one. A
*span* is guessed if all of its tokens are: the result of a sum, the right-hand side of an assignment.
It costs a fraction of what writing whole answers does, and judges every step of a solution by the steps before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Spans = Callable[[str], list[tuple[int, int]]]
"""Finds parts of a text: first character, and the one after the last."""


@dataclass(frozen=True)
class Reading:
    """The tokens of a completion as a student sees them, without the end mark."""

    start: np.ndarray
    """First character in the completion, [t]."""
    end: np.ndarray
    """Character after the last one, [t]."""
    nll: np.ndarray
    """Code length, nats, [t]."""
    likeliest: np.ndarray
    """Whether the student holds no other token for likelier, [t]."""


class Share(NamedTuple):
    """A share with its standard error, and how many cases it rests on."""

    value: float
    error: float
    cases: int


@torch.no_grad()
def read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    *,
    batch_size: int = 16,
    max_length: int = 512,
    bf16: bool = False,
) -> list[Reading]:
    """Read the completion of each row after its prompt; what lies beyond ``max_length`` tokens is not read.

    ``bf16`` computes all but the head in bfloat16, three times as fast where the processor has it.
    """
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["prompt"]) + len(rows[i]["completion"]))
    found: dict[int, Reading] = {}
    for at in range(0, len(order), batch_size):
        chosen = order[at : at + batch_size]
        found |= zip(chosen, _read(model, tokenizer, [rows[i] for i in chosen], max_length, bf16), strict=True)
    return [found[i] for i in range(len(rows))]


def _read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    max_length: int,
    bf16: bool,
) -> list[Reading]:
    batch = tokenizer(
        [row["prompt"] + row["completion"] for row in rows],
        return_tensors="pt",
        return_offsets_mapping=True,
        padding=True,
        padding_side="right",
        truncation=True,
        max_length=max_length,
    )
    offsets = batch.pop("offset_mapping")  # [n, t, 2]
    skipped = torch.tensor([len(row["prompt"]) for row in rows])[:, None]
    target = (offsets[..., 0] >= skipped) & batch["attention_mask"].bool()
    target[:, 0] = False  # nothing comes before it
    inputs = {key: batch[key].to(model.device) for key in ("input_ids", "attention_mask")}
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        hidden = model.get_decoder()(**inputs).last_hidden_state
    before = hidden[:, :-1][target[:, 1:].to(hidden.device)]
    logits = model.get_output_embeddings()(before.float())  # bfloat16 would make ties of the likeliest tokens
    said = inputs["input_ids"][target.to(hidden.device)]
    nll = torch.nn.functional.cross_entropy(logits, said, reduction="none").cpu()
    likeliest = (logits.argmax(-1) == said).cpu()
    places = (offsets - skipped[..., None])[target]
    columns = [places[:, 0], places[:, 1], nll, likeliest]
    parts = [column.split(target.sum(1).tolist()) for column in columns]
    return [Reading(*(part.numpy() for part in row)) for row in zip(*parts, strict=True)]


def nats(readings: Sequence[Reading]) -> float:
    """Mean code length of a token, nats."""
    return float(np.concatenate([reading.nll for reading in readings]).mean())


def guessed(readings: Sequence[Reading], texts: Sequence[str], spans: Spans) -> Share:
    """Share of the spans of all texts whose every token is the likeliest; the error takes texts for independent."""
    hits, cases = np.zeros(len(texts)), np.zeros(len(texts))
    for i, (reading, text) in enumerate(zip(readings, texts, strict=True)):
        for start, end in spans(text):
            inside = (reading.start < end) & (reading.end > start)
            if inside.any() and reading.end[-1] >= end:
                cases[i] += 1
                hits[i] += reading.likeliest[inside].all()
    if not cases.any():
        raise ValueError(f"there is no span to guess in {len(texts)} texts: is `spans` meant for such texts?")
    share = hits.sum() / cases.sum()
    error = np.sqrt(((hits - share * cases) ** 2).sum()) / cases.sum()
    return Share(float(share), float(error), int(cases.sum()))


def results(solution: str) -> list[tuple[int, int]]:
    """Spans of the results between calculator marks.

    In GSM8K the solvers had a calculator: 98 % of the sums in wrong solutions are true, as are 99 % of those in right
    ones. What is wrong is which sum was set up.

    Example:
        >>> text = "She has 3 * 4 = $<<3*4=12>>12."
        >>> [text[start:end] for start, end in results(text)]
        ['12']

    """
    return [found.span(1) for found in re.finditer(r"<<[^<>]*=([^<>=]+)>>", solution)]


def computed(program: str) -> list[tuple[int, int]]:
    """Spans of the right-hand sides that compute something.

    Example:
        >>> text = "pens = 3\\nans = pens * 4"
        >>> [text[start:end] for start, end in computed(text)]
        ['pens * 4']

    """
    sides = re.finditer(r"^[ \t]*\w+ [-+*/]?= (?P<side>[^#\n]*?)[ \t]*(?:#.*)?$", program, flags=re.MULTILINE)
    return [match.span("side") for match in sides if re.search(r"[-+*/]", match["side"])]
