"""Sums in words, answered right and wrong."""

from __future__ import annotations

import torch


def sums(n: int, seed: int = 0, bad: bool = True) -> list[dict[str, str]]:
    """Sums in words; every second one, if ``bad``, answered with words that belong elsewhere."""
    draw = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(n):
        a, b = torch.randint(0, 50, (2,), generator=draw).tolist()
        wrong = bad and i % 2 == 1
        more = " and finds more" * int(torch.randint(0, 3, (1,), generator=draw))
        rows.append(
            {
                "prompt": f"Tom has {a} red balls{more} and finds {b} more . How many ?",
                "completion": " zebra qux zebra 7" if wrong else f" He has {a + b} balls now .",
                "source": "wrong" if wrong else "right",
            }
        )
    return rows
