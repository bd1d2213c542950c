"""Argument checks shared by the functions; each error names argument, expectation, value and cure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_tensors(**named: Tensor | None) -> None:
    """Refuse what is no tensor; None stands for an optional argument that was left out."""
    for name, x in named.items():
        if x is not None and not isinstance(x, Tensor):
            raise TypeError(
                f"Expected argument `{name}` to be a torch.Tensor but got {type(x).__name__}; "
                f"pass torch.as_tensor({name})."
            )


def check_vector(**named: Tensor) -> None:
    """Refuse anything but one number per sample, [n] with n > 0."""
    check_tensors(**named)
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


def check_embeddings(**named: Tensor) -> None:
    """Refuse anything but one vector per sample, [n, d]."""
    check_tensors(**named)
    for name, x in named.items():
        if x.ndim != 2:
            raise ValueError(
                f"Expected argument `{name}` to have shape [n, d] but got {list(x.shape)}; pool the hidden states of "
                "each sample to one vector first."
            )


def check_sources(source: Tensor, n: int, count: int, *, in_range: bool) -> None:
    """Refuse anything but one index per sample, integers [n] below ``count``; ``in_range`` checks the values too."""
    check_tensors(source=source)
    if source.shape != (n,) or source.is_floating_point() or source.dtype == torch.bool:
        raise ValueError(
            f"Expected argument `source` to have shape [{n}], one integer per sample, but got {list(source.shape)} of "
            f"{source.dtype}; pass the index of each sample's source."
        )
    if in_range and n and not ((source >= 0) & (source < count)).all():
        raise ValueError(
            f"Expected argument `source` to hold indices below {count} but got values in [{int(source.min())}, "
            f"{int(source.max())}]; make the metric for as many sources as there are."
        )


def check_log_probs(mask: Tensor | None = None, **named: Tensor) -> None:
    """Refuse NaN and positive log-probabilities at tokens that count; rounding may put them a little above zero."""
    for name, x in named.items():
        highest = (x if mask is None else x.masked_fill(~mask.bool(), -torch.inf)).max()
        if not highest <= 1e-2:
            raise ValueError(
                f"Expected argument `{name}` to be log-probabilities, at most 0, but got {float(highest):.4g}; "
                "negate code lengths, and apply `log_softmax` to logits."
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
