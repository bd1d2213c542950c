"""``ggmi verify`` and ``ggmi verify-language``: the paper's experiment again, and on language models."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from ggmi_callbacks.cli._app import DEVICE, refuse, typer

_MOST_SEED = 2**32 - 1  # the most that every library seeded from it takes


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= _MOST_SEED:
        refuse("--seed", f"a whole number from 0 to {_MOST_SEED}", text, "pass a smaller one, or none for 0")
    return seed


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        refuse("--output", "a folder, there already or to be made", f"{path} ({error.strerror})", "name another one")
    return path


_Output = Annotated[Path, typer.Option(help="Folder for the table, the picture and the summary.")]
_Seed = Annotated[int, typer.Option(parser=_seed, metavar="INTEGER", help="The results are a function of it.")]
_Quick = Annotated[bool, typer.Option("--quick", help="A few settings and repeats, no baselines, in seconds.")]


def verify(
    output: _Output = Path("verification"),
    seed: _Seed = 0,
    quick: _Quick = False,
    dimension: Annotated[int, typer.Option(min=1, help="Dimension; sample sizes grow with it. The paper's is 2.")] = 2,
    repeats: Annotated[int | None, typer.Option(min=2, help="Repeats of each setting [100; quick: 10].")] = None,
    device: Annotated[str, DEVICE] = "cpu",
) -> None:
    """Run the paper's Gaussian-mixture experiment with sound estimators, GGMI and its bound beside the gap."""
    from ggmi_callbacks.verification import Design
    from ggmi_callbacks.verification import verify as run

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
    _report(lambda folder: run(design, folder, timed="" if quick else "KJL"), output, "verification")


def verify_language(
    output: _Output = Path("verification"),
    seed: _Seed = 0,
    quick: _Quick = False,
    device: Annotated[str, DEVICE] = "cpu",
) -> None:
    """Train small language models where dI and every loss are known, and compare GGMI with what it stands for."""
    from ggmi_callbacks.verification import LanguageDesign
    from ggmi_callbacks.verification import verify_language as run

    if quick:
        design = LanguageDesign(2, seed, copies=(0.0, 0.9), knows=(1.0, 0.2), steps=40, device=device)
    else:
        design = LanguageDesign(seed=seed, device=device)
    _report(lambda folder: run(design, folder), output, "language")


def _report(run: Callable[[Path], str], output: Path, name: str) -> None:
    """Print what ``run`` finds, and where it wrote it."""
    start = time.perf_counter()
    folder = _folder(output)
    try:
        typer.echo(run(folder))
    except ImportError as error:  # of an extra; the message says which
        typer.echo(f"Error: {error}.", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"Wrote {folder}/{name}.csv, .png and .md in {time.perf_counter() - start:.1f} s.")
