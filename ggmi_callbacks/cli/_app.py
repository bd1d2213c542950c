"""The program, and what its commands share."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

from ggmi_callbacks import __version__
from ggmi_callbacks._extras import extra

with extra("cli", "The command line"):
    import typer

app = typer.Typer(
    help="Generalisation gain via mutual information.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ggmi-callbacks {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Measure what synthetic data teaches, in nats."""


def refuse(argument: str, expected: str, value: object, cure: str) -> NoReturn:
    """Say in one line what was expected, and exit with code 2."""
    typer.echo(f"Error: expected {argument} to be {expected} but got {value}; {cure}.", err=True)
    raise typer.Exit(2)


@contextmanager
def one_line() -> Iterator[None]:
    """Inside, what is refused is one line on stderr and exit code 2, and a warning one line; a closed pipe is quiet."""

    def show(message: Warning | str, *_: Any) -> None:
        typer.echo(f"Warning: {_flat(message)}", err=True)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show  # type: ignore[assignment]
            yield
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to fail at the exit
        raise typer.Exit(0) from None
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"Error: {_flat(error)}", err=True)
        raise typer.Exit(2) from error


def _flat(message: object) -> str:
    return " ".join(str(message).split())


def _device(name: str) -> str:
    import torch

    try:
        torch.Generator(device=name)
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError):  # unknown, absent, or without numbers
        refuse("--device", "a device that torch can compute on here", name, "pass --device cpu, or none")
    return name


DEVICE = typer.Option(parser=_device, metavar="NAME", help="Where to compute: cpu, cuda, ...")
Json = Annotated[bool, typer.Option("--json", help="Print numbers as JSON.")]
