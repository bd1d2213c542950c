"""Sums in words, answered twice: a right answer and a wrong one, and now and then the wrong one is preferred."""

from __future__ import annotations

from ._sums import sums


def pairs(n: int, seed: int = 0, every: int = 2) -> list[dict[str, object]]:
    """Pairs of answers to sums; each ``every``-th is the wrong way round, none if that is zero."""
    rows: list[dict[str, object]] = []
    for i, row in enumerate(sums(n, seed, bad=False)):
        right, wrong = row["completion"], f" zebra qux zebra {i % 9}"
        flipped = bool(every) and i % every == every - 1
        chosen, rejected = (wrong, right) if flipped else (right, wrong)
        source, margin = ("flipped", -1.0) if flipped else ("right", 1.0)
        rows.append(
            {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, "source": source, "judged": margin}
        )
    return rows
