"""Tables and a picture of what ``run.py`` has found so far.

    python examples/study/tables.py out/study

Means over seeds with standard deviations; differences to training on everything are paired by seed, with Student's
95 % interval (five seeds are too few for a bootstrap over them). *Closed* is the share of the label oracle's gain over
everything that a method reaches, in right answers or else in results guessed, whichever shows that gain clear of zero;
a world in which neither does cannot judge methods, and says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from methods import METHODS
from scipy.stats import t as student_t

BASE, ORACLE = "everything", "the right ones"
MAIN = {BASE: BASE, "random half": "a random half", "default": "what Filter() keeps", ORACLE: "the right ones"}
"""Of the picture of the main job, and what they are called there."""


def read(folder: Path) -> pd.DataFrame:
    """All cells, one a row."""
    cells = [json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))]
    if not cells:
        raise SystemExit(f"{folder} has no cells: run examples/study/run.py --output {folder} first.")
    frame = pd.DataFrame(cells)
    parts = [frame]
    for steps, seconds in (("steps", "seconds"), ("epochs", "epochs-seconds")):
        timed = frame.world.isin(frame[frame.regime == seconds].world)
        plain = frame[timed & (frame.regime == steps) & frame.method.isin((BASE, "random half", ORACLE))]
        parts.append(plain.assign(regime=seconds))  # their seconds are the measure
    return pd.concat(parts, ignore_index=True)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean, and half its 95 % interval."""
    half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def difference(cells: pd.DataFrame, method: str, column: str) -> tuple[float, float, int]:
    """Mean of ``method`` minus everything, half its 95 % interval, and the number of seeds that have both."""
    wide = cells.pivot_table(index="seed", columns="method", values=column)
    if method not in wide or BASE not in wide:
        return float("nan"), float("nan"), 0
    both = (wide[method] - wide[BASE]).dropna().to_numpy()
    return (*interval(both), len(both)) if len(both) > 1 else (float("nan"), float("nan"), len(both))


def measures(cells: pd.DataFrame) -> list[str]:
    """What a world can be judged by: right answers and results guessed where it has them, else nats."""
    return [name for name in ("accuracy", "guessed") if name in cells and cells[name].notna().all()] or ["nats"]


def judging(cells: pd.DataFrame) -> str | None:
    """The first measure in which the oracle's gain over everything is clear of zero, if there is one."""
    for name in measures(cells):
        gain, half, _ = difference(cells, ORACLE, name)
        if (-gain if name == "nats" else gain) - half > 0:
            return name
    return None


def table(cells: pd.DataFrame) -> str:
    """One world in one regime, a method a row."""
    judge = judging(cells)
    rows = []
    for method in [name for name in METHODS if name in set(cells.method)]:
        mine = cells[cells.method == method]
        row = {"method": f"{method} (told the labels)" if METHODS[method].labels else method}
        row |= means(mine, {"accuracy": 3, "guessed": 3, "nats": 4, "nats elsewhere": 3}, spread=True)
        for name in measures(cells):
            mean, width, seeds = difference(cells, method, name)
            if method != BASE and seeds > 1:
                row[f"{name} against everything"] = f"{mean:+.4f} [{mean - width:+.4f}, {mean + width:+.4f}]"
        if method != BASE and judge is not None:
            gain, most = (difference(cells, name, judge)[0] for name in (method, ORACLE))
            row["closed"] = "" if np.isnan(gain) else f"{gain / most:.0%}"
        row |= means(mine, {"auroc": 2, "kept of right": 2, "kept of wrong": 2})
        rows.append(row | means(mine, {"steps": 0, "seconds": 0, "MiB": 0}))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = markdown([columns, *([row.get(c, "") for c in columns] for row in rows)])
    gains = [difference(cells, ORACLE, name)[:2] for name in measures(cells)]
    if judge is not None or np.isnan(gains).any():
        return text
    told = " and ".join(f"{gain:+.4f} ± {half:.4f}" for gain, half in gains)
    return f"{text}\n\nThe oracle's gain, {told}, is not clear of zero: quality does not matter here."


def means(cells: pd.DataFrame, digits: dict[str, int], spread: bool = False) -> dict[str, str]:
    """Mean of each column that there is, and with ``spread`` its standard deviation."""
    found = {}
    for name, places in digits.items():
        values = cells[name].dropna() if name in cells else ()
        if len(values):
            found[name] = f"{values.mean():.{places}f}" + (
                f" ± {values.std():.{places}f}" if spread and len(values) > 1 else ""
            )
    return found


def kinds(cells: pd.DataFrame) -> str:
    """AUROC of good answers against each kind of badness, where there are kinds; a method a row."""
    known = cells[cells["auroc by kind"].notna()] if "auroc by kind" in cells else cells[:0]
    rows = {method: pd.DataFrame(list(mine["auroc by kind"])).mean() for method, mine in known.groupby("method")}
    if not rows:
        return ""
    table = pd.DataFrame(rows).T.loc[[name for name in METHODS if name in rows]]
    lines = [[method, *(f"{value:.2f}" for value in row)] for method, row in table.iterrows()]
    return "\n\n" + markdown([["AUROC against", *table.columns], *lines])


def markdown(lines: list[list[str]]) -> str:
    """A table of which the first line is the head."""
    rule = ["---"] * len(lines[0])
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Each world's differences to everything, with intervals."""
    groups = list(frame.groupby(["world", "regime"], sort=False))
    figure, axes = plt.subplots(1, len(groups), figsize=(5 * len(groups), 5), layout="constrained", squeeze=False)
    for axis, ((world, regime), cells) in zip(axes[0], groups, strict=True):
        column = measures(cells)[0]
        names = [m for m in METHODS if m in set(cells.method) and m != BASE][::-1]
        found = [difference(cells, name, column)[:2] for name in names]
        colours = ["C2" if name == ORACLE else "C0" if name.startswith("default") else "0.5" for name in names]
        for place, ((mean, half), colour) in enumerate(zip(found, colours, strict=True)):
            axis.errorbar(mean, place, xerr=half, fmt="o", color=colour, capsize=3)
        axis.axvline(0, color="0.7", linewidth=1, zorder=0)
        axis.set_yticks(range(len(names)), names)
        axis.set(title=f"{world}, equal {regime}", xlabel=f"{column} against everything, 95 %")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw_main(cells: pd.DataFrame, path: Path) -> None:
    """Right answers in the embedded world: a line a seed, and their means."""
    wide = cells.pivot(index="seed", columns="method", values="accuracy")[list(MAIN)].dropna()
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for _, row in wide.iterrows():
        axes.plot(range(len(MAIN)), 100 * row, color="0.75", marker=".", linewidth=1)
    axes.bar(range(len(MAIN)), 100 * wide.mean(), width=0.55, color=["0.35", "C1", "C2", "C0"], alpha=0.55)
    for place, mean in enumerate(wide.mean()):
        axes.annotate(f"{100 * mean:.1f} %", (place, 0.6), ha="center", va="bottom")
    axes.set_xticks(range(len(MAIN)), MAIN.values())
    axes.set(ylabel="held-out questions answered rightly, %", title=f"Equal steps, {len(wide)} seeds (a line each)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    frame = read(args.folder)
    parts = []
    for (world, regime), cells in frame.groupby(["world", "regime"], sort=False):
        seeds = sorted(cells.seed.unique())
        parts.append(f"### {world}, equal {regime}, seeds {', '.join(map(str, seeds))}\n\n{table(cells)}{kinds(cells)}")
    (args.folder / "tables.md").write_text("\n\n".join(parts) + "\n")
    frame.drop(columns=["results", "auroc by kind"], errors="ignore").to_csv(args.folder / "cells.csv", index=False)
    draw(frame, args.folder / "study.png")
    main_job = frame[(frame.world == "embedded") & (frame.regime == "steps") & frame.method.isin(MAIN)]
    if set(main_job.method) == set(MAIN):
        draw_main(main_job, args.folder / "main_job.png")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
