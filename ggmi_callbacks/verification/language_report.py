"""Table, picture and findings of the study on language models."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ggmi_callbacks.functional import Interval, bootstrap_interval
from ggmi_callbacks.verification.language_models import LanguageDesign, Outcome, language_study
from ggmi_callbacks.verification.parallel import one_thread

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:purple")
_GGMI = {"ggmi_loss_difference": "GGMI, loss difference", "ggmi_mixture": "GGMI, mixture"}
_GAPS = {"generalisation_gap_difference": "difference of generalisation gaps", "kl_gap": "KL gap to the source"}


def verify_language(design: LanguageDesign, output: Path, *, progress: bool = True) -> str:
    """Run the study and write ``language.csv``, ``language.png`` and ``language.md``.

    Args:
        design: sizes and seed.
        output: folder for the three files; made where it is missing.
        progress: show progress bars.

    Returns:
        The findings, as written to ``language.md``.
    """
    with one_thread():  # the tables are small
        outcomes = language_study(design, progress=progress)
    output.mkdir(parents=True, exist_ok=True)
    write_csv(outcomes, output / "language.csv")
    plot(outcomes, output / "language.png")
    text = report(outcomes)
    (output / "language.md").write_text(text + "\n")
    return text


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of two vectors; 0 where one of them is constant.

    Example:
        >>> import torch
        >>> pearson(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 8.0]))
        tensor(1.)
    """
    x, y = x - x.mean(), y - y.mean()
    scale = (x.square().sum() * y.square().sum()).sqrt().clamp_min(1e-12)
    return ((x * y).sum() / scale).clamp(-1, 1)


def _values(outcomes: Sequence[Outcome], name: str) -> Tensor:
    return torch.stack([getattr(outcome, name).value for outcome in outcomes]).double()


def _generators(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome for each generator."""
    return [outcome for outcome in outcomes if outcome.n_synthetic == outcomes[0].n_synthetic]


def correlations(outcomes: Sequence[Outcome]) -> dict[str, Interval]:
    """Pearson's correlations with bootstrap intervals over generators and sizes."""
    once = [outcome.generator for outcome in _generators(outcomes)]
    gain = torch.tensor([generator.gain for generator in once]).double()
    estimates = {"log-probabilities": "estimate", "learned code": "learned"}
    result = {}
    for label, name in estimates.items():
        x = torch.stack([getattr(generator, name).value for generator in once]).double()
        result[f"dI by {label}, exact dI"] = bootstrap_interval(pearson, x, gain, confidence=0.95)
    sizes = sorted({outcome.n_synthetic for outcome in outcomes})
    for estimate, label in _GGMI.items():
        for gap, gap_label in _GAPS.items():
            for suffix, size in (("", None), *((f" ({n} synthetic)", n) for n in sizes)):
                chosen = [outcome for outcome in outcomes if size in (None, outcome.n_synthetic)]
                pair = _values(chosen, estimate), _values(chosen, gap)
                result[f"{label}, {gap_label}{suffix}"] = bootstrap_interval(pearson, *pair, confidence=0.95)
    return result


def report(outcomes: Sequence[Outcome]) -> str:
    """The findings as Markdown."""
    once = [outcome.generator for outcome in _generators(outcomes)]
    inside = sum(bool(g.estimate.low <= g.gain <= g.estimate.high) for g in once)
    excess = torch.stack([g.learned.value - g.gain for g in once])
    lines = ["| correlation of | Pearson, 95 % |", "|---|---|"]
    for name, (value, low, high) in correlations(outcomes).items():
        lines.append(f"| {name} | {value:+.2f} [{low:+.2f}, {high:+.2f}] |")
    return "\n".join(
        [
            *lines,
            "",
            f"Exact dI lies in the 95 % interval from log-probabilities for {inside} of {len(once)} generators.",
            f"The learned code exceeds exact dI by {excess.mean():.3f} nats a sequence on average "
            f"({excess.min():.3f} to {excess.max():.3f}).",
        ]
    )


def write_csv(outcomes: Sequence[Outcome], path: Path) -> None:
    """One row for each generator and size; nats per sequence, intervals of 95 %."""
    rows = []
    for outcome in outcomes:
        generator = outcome.generator
        row: dict[str, float] = {name: getattr(generator, name) for name in ("copy", "own", "noise")}
        row |= {"n_synthetic": outcome.n_synthetic, "information_gain_exact": generator.gain}
        intervals = {"information_gain": generator.estimate, "information_gain_learned": generator.learned}
        for name, interval in (intervals | {name: getattr(outcome, name) for name in (*_GGMI, *_GAPS)}).items():
            row |= {f"{name}{end}": float(x) for end, x in zip(("", "_low", "_high"), interval, strict=True)}
        rows.append({name: f"{value:.6g}" for name, value in row.items()})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the picture: estimated against exact dI, then each GGMI against each gap."""
    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(2, 3)
    found = correlations(outcomes)
    once = [outcome.generator for outcome in _generators(outcomes)]
    for axis, name, label in zip(
        axes[:, 0], ("estimate", "learned"), ("log-probabilities", "learned code"), strict=True
    ):
        exact = [g.gain for g in once]
        _points(axis, exact, [getattr(g, name) for g in once], "tab:blue", None)
        axis.axline((exact[0], exact[0]), slope=1, color="grey", linewidth=0.8)
        key = f"dI by {label}, exact dI"
        axis.set(xlabel="exact dI (nats per sequence)", ylabel=f"dI by {label}", title=_title(key, found[key]))
    for row, (estimate, label) in zip(axes[:, 1:], _GGMI.items(), strict=True):
        for axis, (gap, gap_label) in zip(row, _GAPS.items(), strict=True):
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
        x = _values(chosen, gap).tolist()
        _points(axis, x, [getattr(outcome, estimate) for outcome in chosen], colour, f"{n} synthetic sequences")


def _points(axis: Axes, x: Sequence[float], y: Sequence[Interval], colour: str, label: str | None) -> None:
    middle, low, high = (torch.stack(part).double() for part in zip(*y, strict=True))
    reach = torch.stack([middle - low, high - middle])
    axis.errorbar(x, middle, reach, fmt="o", color=colour, markersize=4, linewidth=1, alpha=0.8, label=label)
