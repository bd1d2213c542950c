"""Right answers, spoilt in ways that a generator may spoil them in."""

from __future__ import annotations

import re
from random import Random
from typing import Any

KINDS = ("shuffled words", "repeated lines", "answer to another question", "truncated")


def spoil(text: str, kind: str, other: str, draw: Random) -> str:
    """``text`` spoilt.

    Args:
        text: an answer.
        kind: one of :data:`KINDS`.
        other: the answer to another question.
        draw: of the order of words, and of the line that is repeated to the length of ``text``.

    Example:
        >>> spoil("one two three four", "truncated", "", Random(0))
        'one two '

    """
    words = re.findall(r"\S+\s*", text)
    if kind == "shuffled words":
        return "".join(draw.sample(words, len(words)))
    if kind == "truncated":
        return "".join(words[: len(words) // 2])
    if kind == "answer to another question":
        return other
    lines = text.split("\n")
    line = draw.choice(lines[:-1] or lines)
    return "\n".join([line] * max(3, round(len(text) / (len(line) + 1))))


def spoilt(rows: list[dict[str, Any]], share: float, seed: int) -> list[dict[str, Any]]:
    """``rows``, of which a ``share`` is spoilt in the four ways in turn; ``kind`` says how, and ``right`` whether."""
    draw = Random(seed)
    chosen = draw.sample(range(len(rows)), round(share * len(rows)))
    out = [{**row, "kind": "good"} for row in rows]
    for turn, i in enumerate(chosen):
        other = draw.choice([row["completion"] for row in rows if row["prompt"] != rows[i]["prompt"]])
        kind = KINDS[turn % len(KINDS)]
        text = spoil(rows[i]["completion"], kind, other, draw)
        out[i] |= {"completion": text, "kind": kind, "right": False}
    return out


def plain(answer: str) -> str:
    """A GSM8K solution without the calculator's marks.

    Example:
        >>> plain("3 * 4 = $<<3*4=12>>12")
        '3 * 4 = $12'

    """
    return re.sub(r"<<.*?>>", "", answer)
