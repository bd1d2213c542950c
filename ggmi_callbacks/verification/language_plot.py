"""One picture of the study on language models, on a bare ``Figure``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ggmi_callbacks._extras import extra
from ggmi_callbacks.functional import Interval
from ggmi_callbacks.verification.language_models import Outcome
from ggmi_callbacks.verification.language_report import GAPS, GGMI, correlations, one_each, values

with extra("plot", "The picture of a verification"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple")


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the picture: estimated against exact dI, then each GGMI against each gap."""
    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(2, 3)
    found = correlations(outcomes)
    once = [outcome.generator for outcome in one_each(outcomes)]
    for axis, name, label in zip(
        axes[:, 0], ("estimate", "learned"), ("log-probabilities", "learned code"), strict=True
    ):
        exact = [g.gain for g in once]
        _points(axis, exact, [getattr(g, name) for g in once], "tab:blue", None)
        axis.axline((exact[0], exact[0]), slope=1, color="grey", linewidth=0.8)
        key = f"dI by {label}, exact dI"
        axis.set(xlabel="exact dI (nats per sequence)", ylabel=f"dI by {label}", title=_title(key, found[key]))
    for row, (estimate, label) in zip(axes[:, 1:], GGMI.items(), strict=True):
        for axis, (gap, gap_label) in zip(row, GAPS.items(), strict=True):
            _sizes(axis, outcomes, estimate, gap)
            axis.axhline(0, color="grey", linewidth=0.8)
            axis.axvline(0, color="grey", linewidth=0.8)
            key = f"{label}, {gap_label}"
            axis.set(xlabel=f"{gap_label} (nats per sequence)", ylabel=f"{label} (nats per sample)")
            axis.set_title(_title(key, found[key]), fontsize=10)
    axes[0, 1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _title(name: str, interval: Interval) -> str:
    value, low, high = interval
    return f"{name}:\nr = {value:.2f} [{low:.2f}, {high:.2f}]"


def _sizes(axis: Axes, outcomes: Sequence[Outcome], estimate: str, gap: str) -> None:
    for colour, n in zip(_COLOURS, sorted({outcome.n_synthetic for outcome in outcomes}), strict=False):
        chosen = [outcome for outcome in outcomes if outcome.n_synthetic == n]
        x = values(chosen, gap).tolist()
        _points(axis, x, [getattr(outcome, estimate) for outcome in chosen], colour, f"{n} synthetic sequences")


def _points(axis: Axes, x: Sequence[float], y: Sequence[Interval], colour: str, label: str | None) -> None:
    middle, low, high = (torch.stack(part).double() for part in zip(*y, strict=True))
    reach = torch.stack([middle - low, high - middle])
    axis.errorbar(x, middle, reach, fmt="o", color=colour, markersize=4, linewidth=1, alpha=0.8, label=label)
