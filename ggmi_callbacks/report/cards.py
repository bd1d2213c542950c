"""The samples of a page: the most and the least useful ones, and those that its search box looks through."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggmi_callbacks.engine.ledger_view import Samples
from ggmi_callbacks.report.numbers import number
from ggmi_callbacks.report.sections import lowest_parts
from ggmi_callbacks.report.source import Source
from ggmi_callbacks.report.texts import harmless

NAME = 80
"""Characters shown of a name."""
_EACH = 20  # samples shown at either end
_SEARCHED = 2000  # samples that the search box looks through
_PROMPT, _ANSWER = 400, 600  # characters shown
_ASKED, _SAID = 100, 200  # characters of them that the search box knows


@dataclass(frozen=True)
class Card:
    """A sample as it is shown."""

    id: int
    gain: float
    source: str
    kept: bool
    step: int
    nll: float
    parts: Mapping[str, float]
    lowest: str | None
    prompt: str
    answer: str


def show(found: Samples, read: Source) -> dict[str, Any]:
    """The samples of either end, and those that the search box looks through."""
    order = np.argsort(-found.gain, kind="stable")  # not scored: last
    scored = order[: int(np.isfinite(found.gain).sum())]
    half = (len(scored) + 1) // 2
    most, least = scored[: min(_EACH, half)], scored[max(half, len(scored) - _EACH) :][::-1]
    searched = order[np.unique(np.linspace(0, len(order) - 1, min(_SEARCHED, len(order))).round().astype(int))]
    searched = np.array(list(dict.fromkeys([*most, *least, *searched])), dtype=int)[:_SEARCHED]
    lowest = lowest_parts(found)
    cards = {}
    for i in (*most, *least):
        text = read.text(found, i)
        cards[i] = Card(
            id=int(found.ids[i]),
            gain=float(found.gain[i]),
            source=found.source[i],
            kept=bool(found.kept[i]),
            step=int(found.step[i]),
            nll=float(found.nll[i]),
            parts={name: float(values[i]) for name, values in found.parts.items()},
            lowest=lowest[i],
            prompt=harmless(text.prompt, _PROMPT) if text else "",
            answer=harmless(text.answer, _ANSWER) if text else "",
        )
    rows = [_searchable(found, i, read) for i in searched]
    return {
        "most": [cards[i] for i in most],
        "least": [cards[i] for i in least],
        "has_texts": read.texts is not None,
        "has_nll": bool(np.isfinite(found.nll).any()),
        "searched": len(rows),
        "total": len(found),
        "index": _json_in_html(rows),
    }


def _searchable(found: Samples, i: int, read: Source) -> list[Any]:
    """Id, gain, source, decision and text of a sample, as the page's script expects them."""
    text = read.text(found, i)
    said = " ".join(f"{text.prompt[:_ASKED]} {text.answer[:_SAID]}".split()) if text else ""
    gain, source = number(float(found.gain[i]), signed=True), harmless(found.source[i], NAME, mark=False)
    return [int(found.ids[i]), gain, source, int(found.kept[i]), harmless(said, len(said))]


def _json_in_html(value: Any) -> str:
    """JSON that no parser of HTML can leave early."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
