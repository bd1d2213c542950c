"""One picture of a verification: the paper's panels by each estimator, then GGMI beside them.

Drawn on a bare ``Figure``: pyplot, its global state and its choice of a window system stay out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ggmi_callbacks._extras import extra
from ggmi_callbacks.verification.findings import CLAIMS, ERROR
from ggmi_callbacks.verification.panels import GAUSSIAN, PANELS, Point

with extra("plot", "The picture of a verification"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROWS = {
    "KL gap by histograms (nats)": {
        "histogram_own_gap": "own range for each histogram (the paper's)",
        "histogram_shared_gap": "shared bins",
    },
    "Jensen-Shannon gap (nats)": {"jensen_shannon_gap": "exact densities"},
    "KL gap (nats, symlog)": {
        "reverse_gap": "KL(truth, fit), exact densities",
        "forward_gap": "KL(fit, truth), exact densities",
    },
    "GGMI (nats, symlog)": {
        "ggmi_mixture": "mixture (code lengths)",
        "ggmi_loss_difference": "loss difference (twins)",
    },
}
_COLOURS = ("tab:blue", "tab:orange")


def plot(points: Sequence[Point], path: Path) -> None:
    """Write the picture: a column for each of K, J and L, a row for each way to measure the gap, then GGMI."""
    rows = {title: names for title, names in _ROWS.items() if set(names) <= set(points[0].result)}
    height = 3.2 * (len(rows) + 1)
    figure = Figure(figsize=(14, height))
    axes = figure.subplots(len(rows) + 1, 3, squeeze=False)
    figure.subplots_adjust(0.06, 0.5 / height, 0.99, 1 - 0.7 / height, wspace=0.18, hspace=0.3)
    for row, (title, names) in enumerate(rows.items()):
        for column, panel in enumerate(CLAIMS):
            _panel(axes[row, column], points, panel, names, symlog="symlog" in title)
            if row == 0:
                axes[row, column].set_title(f"gap against {panel} (the paper: {CLAIMS[panel]} with {panel})")
        axes[row, 0].set_ylabel(title)
        axes[row, 0].legend(fontsize=7, framealpha=0.7)
    _tracking(axes[-1, 0], points)
    _gaussian(axes[-1, 1], points)
    _slack(axes[-1, 2], points)
    size = points[0].sizes
    figure.suptitle(
        f"Gaussian mixtures in d = {size['d']}, {size['repeats']} repeats. Line: median; dark band: its 95 % interval; "
        "light band: 10 to 90 % of repeats; dashed: as many anchors as synthetic samples.",
        y=1 - 0.1 / height,
        va="top",
    )
    figure.savefig(path, dpi=110)


def _panel(axis: Axes, points: Sequence[Point], panel: str, names: dict[str, str], *, symlog: bool) -> None:
    for colour, (name, label) in zip(_COLOURS, names.items(), strict=False):
        _band(axis, [p for p in points if p.panel == panel], name, colour, label)
        if panel == "K":
            fixed = [p for p in points if p.panel == PANELS[-1]]
            middle = [float(p.result[name].nanmedian()) for p in fixed]
            axis.plot([p.value for p in fixed], middle, "--", color=colour, linewidth=1)
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set_xlabel(panel)
    if symlog:
        axis.set_yscale("symlog", linthresh=10 if "ggmi_mixture" in names else 1)


def _band(axis: Axes, points: Sequence[Point], name: str, colour: str, label: str) -> None:
    x = [p.value for p in points]
    values = torch.stack([p.result[name] for p in points])  # [settings, repeats]
    low, middle, high = values.quantile(values.new_tensor([0.1, 0.5, 0.9]), dim=-1)
    half = _median_error(values)
    axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.fill_between(x, middle - half, middle + half, color=colour, alpha=0.4, linewidth=0)
    axis.plot(x, middle, color=colour, marker="o", markersize=3, label=label)


def _median_error(values: Tensor) -> Tensor:
    """Half a 95 % interval of the median, from the quartiles (McGill, Tukey and Larsen 1978)."""
    low, high = values.quantile(values.new_tensor([0.25, 0.75]), dim=-1)
    return 1.96 * 1.253 * (high - low) / 1.349 / values.shape[-1] ** 0.5


def _medians(points: Sequence[Point], name: str) -> Tensor:
    return torch.stack([point.result[name].nanmedian() for point in points])


def _tracking(axis: Axes, points: Sequence[Point]) -> None:
    chosen = [point for point in points if point.panel in CLAIMS]
    x = _medians(chosen, "ggmi_loss_difference")
    axis.scatter(x, _medians(chosen, ERROR), s=14, color="tab:green", label="difference of generalisation gaps")
    axis.scatter(x, _medians(chosen, "jensen_shannon_gap"), s=14, color="tab:red", marker="^", label="JS gap")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.set(xlabel="GGMI, loss difference (nats)", ylabel="gap (nats per sample)", title="does GGMI track the gap?")
    axis.legend(fontsize=7)


def _gaussian(axis: Axes, points: Sequence[Point]) -> None:
    results = [point.result for point in points if point.panel == GAUSSIAN]
    exact = torch.stack([result["ggmi_mixture_exact"] for result in results])
    mean = torch.stack([result["ggmi_mixture"].mean() for result in results])
    error = torch.stack([result["ggmi_mixture"].std() for result in results]) / len(results[0]["ggmi_mixture"]) ** 0.5
    axis.errorbar(exact, mean, 1.96 * error, fmt="o", markersize=3, linewidth=1, label="mixture estimate, 95 %")
    axis.axline((0, 0), slope=1, color="grey", linewidth=0.8)
    axis.set(xlabel="GGMI in closed form (nats)", ylabel="estimate (nats)", title="one Gaussian for each mixture")
    axis.legend(fontsize=7)


def _slack(axis: Axes, points: Sequence[Point]) -> None:
    for colour, panel in zip(("tab:blue", "tab:orange", "tab:green", "tab:purple"), (*CLAIMS, GAUSSIAN), strict=True):
        chosen = [point for point in points if point.panel == panel]
        axis.scatter(_medians(chosen, "ggmi_mixture"), _medians(chosen, "bound"), s=14, color=colour, label=panel)
    line = torch.tensor([-400.0, -10.0, 0.0, 10.0, 4000.0])
    axis.plot(line, line, color="grey", linewidth=0.8, label="bound = GGMI")
    axis.set_xscale("symlog", linthresh=10)
    axis.set_yscale("symlog", linthresh=10)
    axis.set(xlabel="GGMI, mixture (nats)", ylabel="bound (nats)", title="how tight is the bound?")
    axis.legend(fontsize=7)
