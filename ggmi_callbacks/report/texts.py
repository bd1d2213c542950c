"""Texts of samples: found in rows of any usual form, made harmless, and cut.

What is invisible or turns the direction of what follows (control characters, direction marks, zero-width ones) is
written out as ``⟨U+202E⟩``, so that a page shows what a text holds and nothing in it acts on the page. The two joiners
that scripts and emoji need stay.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_PROMPTS = ("prompt", "question", "instruction", "problem")
_ANSWERS = ("completion", "answer", "solution", "output", "response", "text", "content")
_CHATS = ("messages", "conversations")
COLUMNS = (*_PROMPTS, *_ANSWERS, *_CHATS)
"""Columns in which texts are looked for."""

_JOINERS = "\u200c\u200d"
_HIDDEN = re.compile(r"[^\n\t\x20-\x7e]")


class Text(NamedTuple):
    """What a sample was asked, possibly nothing, and what it says."""

    prompt: str
    answer: str


def text_of(row: Any) -> Text | None:
    """Prompt and answer of a row: a string, a list of messages, or a mapping with columns of the usual names.

    Returns:
        None if the row holds no text that is known by its name.

    Example:
        >>> text_of({"question": "2 + 2?", "answer": "4"})
        Text(prompt='2 + 2?', answer='4')
        >>> text_of({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})
        Text(prompt='user: Hi', answer='Hello')

    """
    if isinstance(row, str):
        return Text("", row)
    if isinstance(row, Text):
        return row
    if not isinstance(row, Mapping):
        return _chat(row) if _is_chat(row) else None
    for name in _CHATS:
        if _is_chat(row.get(name)):
            return _chat(row[name])
    prompt, answer = (next((_flat(row[n]) for n in names if row.get(n)), "") for names in (_PROMPTS, _ANSWERS))
    return Text(prompt, answer) if prompt or answer else None


def _is_chat(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _chat(turns: Sequence[Mapping[str, Any]]) -> Text:
    *before, last = turns
    return Text(_flat(before), str(last.get("content", last.get("value", ""))))


def _flat(value: Any) -> str:
    if not _is_chat(value):
        return value if isinstance(value, str) else "" if value is None or value == [] else str(value)
    said = [(turn.get("role", turn.get("from", "")), turn.get("content", turn.get("value", ""))) for turn in value]
    return "\n".join(f"{who}: {what}" if who else str(what) for who, what in said)


def harmless(text: str, most: int, mark: bool = True) -> str:
    """The first ``most`` characters of ``text`` with everything invisible written out, and a mark if it was cut.

    Example:
        >>> harmless("abc\\u202edef", 5)
        'abc⟨U+202E⟩d … [cut: 5 of 7 characters are shown]'

    """
    shown = _HIDDEN.sub(_spell, text[:most])
    if len(text) <= most:
        return shown
    return f"{shown} … [cut: {most:,} of {len(text):,} characters are shown]" if mark else f"{shown} …"


def _spell(match: re.Match[str]) -> str:
    character = match[0]
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return f"⟨U+{ord(character):04X}⟩" if hidden and character not in _JOINERS else character
