"""Tokens and targets of rows, as TRL's ``SFTTrainer`` makes them by default.

    text                  text + end of sequence, every token a target
    prompt, completion    prompt + completion + end of sequence; targets begin where the prompt's own tokens end
    messages              by the chat template, every token a target
    prompt, completion    that hold messages: by the chat template; targets as above

Tests hold this against ``SFTTrainer``'s own preparation (TRL 1.16). ``assistant_only_loss`` is not among its defaults.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ggmi_callbacks.tasks import IGNORE

_CHUNK = 1000  # texts that a tokenizer gets at once

_COLUMNS = {"input_ids", "text", "prompt", "completion", "messages", "conversations"}

Tokens = list[dict[str, array]]
"""``input_ids`` and ``labels`` of each row."""


def tokenise(rows: Sequence[Mapping[str, Any]], tokenizer: Any, argument: str, max_length: int | None) -> Tokens:
    """``input_ids`` and ``labels`` of ``rows``, cut at ``max_length`` tokens.

    Args:
        rows: of columns ``input_ids`` (and ``labels``; else every token is a target), ``prompt`` and ``completion``,
            ``messages``, ``conversations`` or ``text``; that of the first row counts.
        tokenizer: of Hugging Face; not used where there are ``input_ids``.
        argument: that gave the rows, for messages.
        max_length: tokens that are kept; None for all.

    Raises:
        ValueError: if a row lacks a column that the first one has, there is no tokenizer, no chat template where one
            is needed, or no end-of-sequence token.

    """
    first = rows[0]
    _check_alike(rows, argument)
    made: Iterator[tuple[list[int], list[int]]]
    if "input_ids" in first:
        made = ((row["input_ids"], row.get("labels") or row["input_ids"]) for row in rows)
    elif tokenizer is None:
        raise ValueError(f"`{argument}` holds texts, so a `tokenizer` is needed; rows have {', '.join(first)}.")
    elif _is_chat(first):
        made = _chats(rows, tokenizer, argument)
    else:
        made = _texts(rows, tokenizer)
    return [
        {"input_ids": array("i", ids[:max_length]), "labels": array("i", labels[:max_length])} for ids, labels in made
    ]


def has_targets(tokens: Mapping[str, array]) -> bool:
    """Whether a sample has a target at all; the trainer drops it otherwise."""
    return any(label != IGNORE for label in tokens["labels"])


def _check_alike(rows: Sequence[Mapping[str, Any]], argument: str) -> None:
    """Raise if a row has not what the first one has."""
    for name in _COLUMNS & rows[0].keys():
        kind = type(rows[0][name])
        for i, row in enumerate(rows):
            if type(row.get(name)) is not kind:
                raise ValueError(
                    f"`{argument}`: row {i} has {row.get(name)!r} in column {name!r}, where the first row has a "
                    f"{kind.__name__}: mend or leave out the row."
                )


def _is_chat(row: Mapping[str, Any]) -> bool:
    return any(isinstance(row.get(name), list) for name in ("prompt", "messages", "conversations"))


def _texts(rows: Sequence[Mapping[str, Any]], tokenizer: Any) -> Iterator[tuple[list[int], list[int]]]:
    end = tokenizer.eos_token
    if end is None:
        raise ValueError("`tokenizer` has no `eos_token`, which ends every sample: set it.")

    def ended(text: str) -> str:
        return text if text.endswith(end) else text + end

    paired = "prompt" in rows[0]
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        if not paired:
            yield from ((ids, ids) for ids in tokenizer([ended(row["text"]) for row in chunk])["input_ids"])
            continue
        whole = tokenizer([row["prompt"] + ended(row["completion"]) for row in chunk])["input_ids"]
        prompts = tokenizer([row["prompt"] for row in chunk])["input_ids"]
        yield from map(_masked, whole, prompts)


def _chats(rows: Sequence[Mapping[str, Any]], tokenizer: Any, argument: str) -> Iterator[tuple[list[int], list[int]]]:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"`{argument}` holds messages, and the tokenizer has no chat template: set `tokenizer.chat_template` "
            "(--chat-template FILE), or give `prompt` and `completion` as texts."
        )
    for row in rows:
        tools = row.get("tools")
        settings: dict[str, Any] = {
            "tools": json.loads(tools) if isinstance(tools, str) else tools,
            **(row.get("chat_template_kwargs") or {}),
        }

        def ids_of(messages: list[Any], settings: dict[str, Any] = settings, **more: Any) -> list[int]:
            turns = [_turn(message) for message in messages]
            return tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, **settings, **more)[
                "input_ids"
            ]

        if "prompt" in row:
            prompt = ids_of(row["prompt"], add_generation_prompt=True)
            yield _masked(ids_of([*row["prompt"], *row["completion"]]), prompt)
        else:
            ids = ids_of(row["messages"] if "messages" in row else row["conversations"])
            yield ids, ids


def _turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message by the names that templates know, ``role`` and ``content``."""
    return {{"from": "role", "value": "content"}.get(key, key): value for key, value in message.items()}


def _masked(whole: list[int], prompt: list[int]) -> tuple[list[int], list[int]]:
    """Tokens and labels; the completion begins where ``whole`` is no longer ``prompt``."""
    begin = next((i for i, (a, b) in enumerate(zip(whole, prompt, strict=False)) if a != b), None)
    begin = min(len(whole), len(prompt)) if begin is None else begin
    return whole, [IGNORE] * begin + whole[begin:]
