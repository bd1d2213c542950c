"""``ggmi demo``: what scores look like, without data, a model or a download."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from ggmi_callbacks.cli._app import Json, one_line, typer

if TYPE_CHECKING:
    from torch import nn

_TEXT = "Tom Ann Bob has finds gives red blue balls pens more and so now there are of old stone lay the river"
_WORDS = _TEXT.split()
_ROWS = 48


def demo(json: Json = False) -> None:
    """Score made-up sentences of three sources against made-up anchors, in some seconds.

    The model is a recurrent net of some thousand weights that has learnt nothing yet. The anchors are sums in words:
    other such sums gain, the same ones with shuffled words gain less, and talk of something else loses.

    \b
    Example:
      ggmi demo
    """
    with one_line():
        import json as json_

        from ggmi_callbacks import score
        from ggmi_callbacks.scoring.summary import as_text, by_source

        draw = random.Random(0)
        anchors = [_row(_sum(draw), "") for _ in range(_ROWS)]
        rows = []
        for _ in range(_ROWS):
            words = _sum(draw)
            rows += [_row(words, "good"), _row(draw.sample(words, len(words)), "shuffled"), _row(_talk(draw), "talk")]
        table = score(_model(), rows, anchors, source="source", learning_rate=1e-2, progress=False)
        if json:
            typer.echo(json_.dumps({"sources": by_source(table)}))
            return
        typer.echo(f"Gain of {len(rows)} made-up sentences against {len(anchors)} anchors, nats per sentence:\n")
        typer.echo(as_text(table))
        typer.echo("\nNow yours: ggmi score made.jsonl --anchors human.jsonl --model MODEL -o scored.parquet")


def _sum(draw: random.Random) -> list[str]:
    name, colour, thing = (draw.choice(_WORDS[i:j]) for i, j in ((0, 3), (6, 8), (8, 10)))
    return f"{name} has {colour} {thing} and finds more {thing} so now there are more {thing}".split()


def _talk(draw: random.Random) -> list[str]:
    return draw.choices(_WORDS[-7:], k=13)


def _row(words: list[str], source: str) -> dict[str, Any]:
    return {"input_ids": [0, *(_WORDS.index(word) + 1 for word in words)], "source": source}


def _model() -> nn.Module:
    from types import SimpleNamespace

    import torch
    from torch import Tensor, nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.gru = nn.Embedding(len(_WORDS) + 1, 32), nn.GRU(32, 32, batch_first=True)
            self.head = nn.Linear(32, len(_WORDS) + 1)

        def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(logits=self.head(self.gru(self.embed(input_ids))[0]))

    torch.manual_seed(0)
    return Net()
