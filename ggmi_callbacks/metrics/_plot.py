"""Drawing values with intervals: one point, one point per name, or a line over steps; fit for print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ggmi_callbacks.functional._interval import Interval

Array = npt.NDArray[np.float64]


def draw(ax: Any, val: Any, name: str) -> None:
    """Draw ``val`` on ``ax``; a single value, or a line of them, is called ``name``.

    Raises:
        ValueError: If ``val`` is no value, mapping or sequence of values.
    """
    if isinstance(val, Tensor) and val.ndim == 0:
        _draw_points(ax, {name: val})
    elif isinstance(val, Mapping):
        _draw_points(ax, val)
    elif isinstance(val, Sequence | Tensor) and len(val) > 0:
        _draw_lines(ax, val, name)
    else:
        raise ValueError(
            "Expected argument `val` to be a value, a mapping of names to values, or a sequence of either but got "
            f"{type(val).__name__}; pass what `compute` or `forward` returned."
        )
    ax.spines[["top", "right"]].set_visible(False)


def _triple(value: Any) -> tuple[float, float, float]:
    """Value, low and high as floats; without an interval all three are the value."""
    if isinstance(value, Interval):
        point, low, high = (float(part) for part in value)
        return point, low, high
    return (float(value),) * 3


def _stack(values: Sequence[Any]) -> Array:
    return np.array([_triple(value) for value in values]).T  # [3, n]


def _draw_points(ax: Any, named: Mapping[str, Any]) -> None:
    point, low, high = _stack(list(named.values()))
    place = np.arange(len(named))
    known = np.isfinite(point)  # a value may be NaN as long as too little has been seen
    ax.errorbar(place, point, yerr=(point - low, high - point), fmt="o", color="C0", markersize=5, capsize=3)
    for x, y in zip(place[known], point[known], strict=True):
        ax.annotate(
            f"{y:.3g}".replace("-", "\N{MINUS SIGN}"),
            (x, y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    crowded = max(map(len, named)) * len(named) > 48
    ax.set_xticks(place, list(named), rotation=30 if crowded else 0, ha="right" if crowded else "center")
    ax.set_xlim(-0.6, len(named) - 0.3)


def _draw_lines(ax: Any, run: Any, name: str) -> None:
    lines = {name: run}
    if isinstance(run[0], Mapping):
        lines = {key: [step[key] for step in run] for key in run[0]}
    for index, (key, values) in enumerate(lines.items()):
        point, low, high = _stack(values)
        step = np.arange(1, len(point) + 1)
        ax.plot(step, point, color=f"C{index}", linewidth=1.4, label=key)
        if (low < high).any():
            ax.fill_between(step, low, high, color=f"C{index}", alpha=0.2, linewidth=0)
    ax.set_xlabel("step")
    if len(lines) > 1:
        ax.legend(frameon=False, fontsize=8)
