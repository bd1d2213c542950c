"""Table and findings of the study on language models."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ggmi_callbacks.functional import Interval, bootstrap_interval
from ggmi_callbacks.verification.language_models import Outcome

GGMI = {"ggmi_loss_difference": "GGMI, loss difference", "ggmi_mixture": "GGMI, mixture"}
GAPS = {"generalisation_gap_difference": "difference of generalisation gaps", "kl_gap": "KL gap to the source"}


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


def values(outcomes: Sequence[Outcome], name: str) -> Tensor:
    """The point estimates [outcomes] of one quantity."""
    return torch.stack([getattr(outcome, name).value for outcome in outcomes]).double()


def one_each(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One outcome for each generator."""
    return [outcome for outcome in outcomes if outcome.n_synthetic == outcomes[0].n_synthetic]


def correlations(outcomes: Sequence[Outcome]) -> dict[str, Interval]:
    """Pearson's correlations with bootstrap intervals over generators and sizes."""
    once = [outcome.generator for outcome in one_each(outcomes)]
    gain = torch.tensor([generator.gain for generator in once]).double()
    estimates = {"log-probabilities": "estimate", "learned code": "learned"}
    result = {}
    for label, name in estimates.items():
        x = torch.stack([getattr(generator, name).value for generator in once]).double()
        result[f"dI by {label}, exact dI"] = bootstrap_interval(pearson, x, gain, confidence=0.95)
    sizes = sorted({outcome.n_synthetic for outcome in outcomes})
    for estimate, label in GGMI.items():
        for gap, gap_label in GAPS.items():
            for suffix, size in (("", None), *((f" ({n} synthetic)", n) for n in sizes)):
                chosen = [outcome for outcome in outcomes if size in (None, outcome.n_synthetic)]
                pair = values(chosen, estimate), values(chosen, gap)
                result[f"{label}, {gap_label}{suffix}"] = bootstrap_interval(pearson, *pair, confidence=0.95)
    return result


def report(outcomes: Sequence[Outcome]) -> str:
    """The findings as Markdown."""
    once = [outcome.generator for outcome in one_each(outcomes)]
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
        for name, interval in (intervals | {name: getattr(outcome, name) for name in (*GGMI, *GAPS)}).items():
            row |= {f"{name}{end}": float(x) for end, x in zip(("", "_low", "_high"), interval, strict=True)}
        rows.append({name: f"{value:.6g}" for name, value in row.items()})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
