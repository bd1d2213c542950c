"""``ggmi score``: gains of a data set before training, in a file."""

from __future__ import annotations

import json as json_
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ggmi_callbacks.cli._app import DEVICE, Json, one_line, typer

if TYPE_CHECKING:
    from ggmi_callbacks import Scorer

_DATA = "A .jsonl, .json or .parquet file (.gz too), or NAME[:CONFIG[:SPLIT]] on the hub."
_SCORERS = "likelihood, agreement, similarity, prompt, distinct, joint or column:NAME; several make a joint one."


def score(
    data: Annotated[str, typer.Argument(metavar="SYNTHETIC", help=f"What to score. {_DATA}")],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder or name on the hub of a causal language model.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="SCORED", help="The .parquet file to write.")],
    anchors: Annotated[str | None, typer.Option("--anchors", "-a", metavar="HUMAN", help="Real examples.")] = None,
    scorer: Annotated[list[str] | None, typer.Option(metavar="NAME", help=f"{_SCORERS} [likelihood]")] = None,
    source: Annotated[str | None, typer.Option(metavar="COLUMN", help="Says where a sample came from.")] = None,
    prompt_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="If it has no usual name.")] = None,
    completion_column: Annotated[str | None, typer.Option(metavar="COLUMN", help="If it has no usual name.")] = None,
    chat_template: Annotated[Path | None, typer.Option(metavar="FILE", help="In place of the tokenizer's own.")] = None,
    dtype: Annotated[
        Literal["bfloat16", "float16", "float32"] | None, typer.Option(help="Of the weights [the checkpoint's].")
    ] = None,
    device: Annotated[str | None, DEVICE] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens in a batch, padding included.")] = 8192,
    max_length: Annotated[int, typer.Option(min=0, help="Tokens of a sample that are kept; 0 for all.")] = 1024,
    limit: Annotated[int | None, typer.Option(min=1, help="Score the first so many rows.")] = None,
    learning_rate: Annotated[float, typer.Option(help="Of the shadow; best that of the training to come.")] = 1e-4,
    shadow_epochs: Annotated[int, typer.Option(min=1, help="Most passes of the shadow over the anchors.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the order of the anchors.")] = 0,
    json: Json = False,
) -> None:
    """Score data before training, at the speed of inference.

    The same command goes on after a kill. Under torchrun several processes share the work. The file of scores is for
    `ggmi select`, or for the callback: scorer=FileScorer("scored.parquet").

    \b
    Examples:
      ggmi score made.jsonl --anchors human.jsonl --model my-model -o scored.parquet
      ggmi score made.jsonl -a human.jsonl -m my-model -o s.parquet --scorer likelihood --scorer agreement --source by
      torchrun --nproc-per-node 4 -m ggmi_callbacks score made.jsonl -a human.jsonl -m my-model -o scored.parquet
    """
    with one_line():
        import torch

        from ggmi_callbacks import score as run
        from ggmi_callbacks.scoring.summary import as_text, by_source

        table = run(
            model,
            data,
            anchors,
            scorer=_scorer(scorer or ["likelihood"]),
            tokenizer=None if chat_template is None else _tokenizer(model, chat_template),
            source=source,
            prompt_column=prompt_column,
            completion_column=completion_column,
            output=output,
            dtype=None if dtype is None else getattr(torch, dtype),
            device=device,
            batch_tokens=batch_tokens,
            max_length=max_length or None,
            limit=limit,
            learning_rate=learning_rate,
            shadow_epochs=shadow_epochs,
            seed=seed,
        )
        if os.environ.get("RANK", "0") == "0":
            numbers = {"output": str(output), "sources": by_source(table)}
            typer.echo(json_.dumps(numbers) if json else f"{as_text(table)}\nWrote {output}.")


def _scorer(names: list[str]) -> Scorer:
    """The scorer of that name; of several names, the joint one."""
    from ggmi_callbacks import scorers

    made = {
        "likelihood": scorers.LikelihoodScorer,
        "agreement": scorers.AgreementScorer,
        "similarity": scorers.SimilarityScorer,
        "prompt": lambda: scorers.PromptInformationScorer(normalize="token"),
        "distinct": scorers.DistinctScorer,
        "joint": scorers.JointScorer,
    }
    found: list[Scorer] = []
    for name in names:
        if name.startswith("column:"):
            found.append(scorers.ColumnScorer(name.removeprefix("column:")))
        elif name in made:
            found.append(made[name]())  # type: ignore[operator]
        else:
            raise ValueError(f"--scorer {name!r} is none of {', '.join(made)} and column:NAME.")
    if len(found) == 1:
        return found[0]
    without_zero = any(isinstance(scorer, scorers.DistinctScorer) for scorer in found)
    return scorers.JointScorer(found, zero="anchors" if without_zero else "own")


def _tokenizer(model: str, template: Path) -> Any:
    from ggmi_callbacks.scoring.load import load_tokenizer

    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = template.read_text()
    return tokenizer
