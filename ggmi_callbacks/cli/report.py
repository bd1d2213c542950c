"""``ggmi report``: a ledger or a file of scores as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from ggmi_callbacks.cli._app import one_line, typer


def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="LEDGER|SCORED",
            help="Folder of a ledger, or Parquet file of Ledger.to_parquet or ggmi score.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the page goes.")] = Path("gain.html"),
    data: Annotated[
        Path | None,
        typer.Option(help="The training set, .jsonl, .json or .parquet, to show what samples say.", show_default=False),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.", show_default=False)] = None,
) -> None:
    """Write a page that shows what a ledger or a file of scores holds; it opens anywhere, without a network.

    Example: ggmi report out/ledger.parquet -o gain.html --data synthetic.jsonl
    """
    from ggmi_callbacks.report import report as write
    from ggmi_callbacks.rows import read_rows

    with one_line():
        rows = None if data is None else read_rows(data)
        written = write(source, output, texts=rows, **({} if title is None else {"title": title}))
        typer.echo(f"Wrote {written} ({written.stat().st_size / 1024:,.0f} kB).")
