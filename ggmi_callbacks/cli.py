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
_Quick = Annotated[bool, typer.Option("--quick", help="A few settings and repeats, no baselines, in seconds.")]
_Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, ...")]


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
    device: _Device = "cpu",
) -> None:
    """Run the paper's Gaussian-mixture experiment with sound estimators, GGMI and its bound beside the gap."""
    from ggmi_callbacks.verification import Design
    from ggmi_callbacks.verification import verify as run

    start = time.perf_counter()
    design = Design(
        values=(2, 8, 15) if quick else range(2, 16),
        repeats=repeats or (10 if quick else 100),
        seed=seed,
        d=dimension,
        anchors_per_component=25 * dimension,
        n_synthetic=100 * dimension,
        draws=300 if quick else 2000,
        device=device,
    )
    typer.echo(run(design, output, timed="" if quick else "KJL"))
    typer.echo(f"Wrote {output}/verification.csv, .png and .md in {time.perf_counter() - start:.1f} s.")


@app.command()
def verify_language(
    output: _Output = Path("verification"), seed: _Seed = 0, quick: _Quick = False, device: _Device = "cpu"
) -> None:
    """Train small language models where dI and every loss are known, and compare GGMI with what it stands for."""
    from ggmi_callbacks.verification import LanguageDesign
    from ggmi_callbacks.verification import verify_language as run

    start = time.perf_counter()
    if quick:
        design = LanguageDesign(2, seed, copies=(0.0, 0.9), knows=(1.0, 0.2), steps=40, device=device)
    else:
        design = LanguageDesign(seed=seed, device=device)
    typer.echo(run(design, output))
    typer.echo(f"Wrote {output}/language.csv, .png and .md in {time.perf_counter() - start:.1f} s.")
