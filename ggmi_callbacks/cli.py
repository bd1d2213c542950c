"""The command line, ``ggmi``: one command for each thing that a person would run by hand.

Each command imports what it needs when it runs, so that ``ggmi --help`` answers at once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Generalisation gain via mutual information.", no_args_is_help=True, add_completion=False)

_Output = Annotated[Path, typer.Option(help="Folder for the table, the picture and the summary.")]
_Seed = Annotated[int, typer.Option(min=0, help="The results are a function of it.")]
_Quick = Annotated[bool, typer.Option("--quick", help="A few settings and repeats, in seconds.")]


@app.callback()
def main() -> None:
    """Measure what synthetic data teaches, in nats."""


@app.command()
def verify(
    output: _Output = Path("verification"),
    seed: _Seed = 0,
    quick: _Quick = False,
    dimension: Annotated[int, typer.Option(min=1, help="Dimension; sample sizes grow with it. The paper's is 2.")] = 2,
    repeats: Annotated[int | None, typer.Option(min=2, help="Repeats of each setting [100; quick: 10].")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, ...")] = "cpu",
) -> None:
    """Run the paper's Gaussian-mixture experiment with sound estimators, GGMI and its bound beside the gap."""
    from ggmi_callbacks.verification import Design
    from ggmi_callbacks.verification import verify as run

    start = time.perf_counter()
    sizes = {"anchors_per_component": 25 * dimension, "n_synthetic": 100 * dimension}
    if quick:
        design = Design((2, 8, 15), repeats or 10, seed, dimension, **sizes, draws=500, device=device)
    else:
        design = Design(repeats=repeats or 100, seed=seed, d=dimension, **sizes, device=device)
    typer.echo(run(design, output, timed="K" if quick else "KJL"))
    typer.echo(f"Wrote {output}/verification.csv, .png and .md in {time.perf_counter() - start:.1f} s.")
