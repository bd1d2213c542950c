"""Argument checks shared by the functions; each error names argument, expectation, value and cure."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def check_vector(**named: Tensor) -> None:
    """Refuse anything but one number per sample, [n] with n > 0."""
    for name, x in named.items():
        if x.ndim != 1 or x.numel() == 0:
            raise ValueError(
                f"Expected argument `{name}` to have shape [n] with one number per sample but got "
                f"{list(x.shape)}; sum token values over each sample first."
            )


def check_pair(**named: Tensor) -> None:
    """Refuse vectors that do not have one number per sample for the same samples."""
    check_vector(**named)
    shapes = {name: list(x.shape) for name, x in named.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        names = " and ".join(f"`{name}`" for name in shapes)
        raise ValueError(
            f"Expected arguments {names} to have the same shape but got {list(shapes.values())}; "
            "pass both values of each sample, in the same order."
        )


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value outside a short list of names."""
    if value not in choices:
        raise ValueError(f"Expected argument `{name}` to be one of {list(choices)} but got {value!r}.")


def check_positive(**named: float) -> None:
    """Refuse a number that is not positive."""
    for name, value in named.items():
        if not value > 0:
            raise ValueError(f"Expected argument `{name}` to be positive but got {value}.")


def check_totals(**named: float | None) -> None:
    """Refuse a number of samples that is not positive; None stands for the number given."""
    check_positive(**{name: value for name, value in named.items() if value is not None})
