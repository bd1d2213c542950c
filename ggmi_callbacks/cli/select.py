"""``ggmi select``: the rows that are worth training on, as they were."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import Annotated

from ggmi_callbacks.cli._app import Json, one_line, typer


def select(
    scored: Annotated[Path, typer.Argument(metavar="SCORED", help="The .parquet file of `ggmi score`.")],
    data: Annotated[str, typer.Option("--data", "-d", metavar="SYNTHETIC", help="What was scored.")],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="KEPT", help="A .jsonl, .json or .parquet file; - for stdout."),
    ],
    keep: Annotated[float | None, typer.Option(metavar="SHARE", help="Keep so many of those with a score.")] = None,
    above: Annotated[float | None, typer.Option(metavar="GAIN", help="Keep what gains more.")] = None,
    within: Annotated[str | None, typer.Option(metavar="source", help="Keep that share of each source.")] = None,
    json: Json = False,
) -> None:
    """Write the rows that are worth training on.

    Rows keep their order and their form; those of a .jsonl file are written byte by byte as they were. A row without a
    score is left out. With both --keep and --above a row has to pass both.

    \b
    Examples:
      ggmi select scored.parquet --data made.jsonl --keep .5 -o kept.jsonl
      ggmi select scored.parquet --data made.jsonl --keep .5 --within source -o kept.jsonl
      ggmi select scored.parquet --data made.jsonl --above 0 -o - | head -3
    """
    with one_line():
        import pyarrow.parquet as pq

        from ggmi_callbacks.scorers._stamp import Stamp
        from ggmi_callbacks.scoring import select as run
        from ggmi_callbacks.scoring.write import Original, check_output

        check_output(output, data)
        stamp, _ = Stamp.read(scored)
        table = pq.read_table(scored)
        original = Original(data)
        original.check(stamp, len(table), scored)
        ids = run(table, keep, above, within)
        original.write(ids, output)
        numbers = {
            "output": output,
            "kept": len(ids),
            "rows": len(table),
            "scored": len(table) - table["gain"].null_count,
        }
        words = "Kept {kept} of {rows} rows ({scored} with a score).".format(**numbers)
        typer.echo(json_.dumps(numbers) if json else words, err=output == "-")
