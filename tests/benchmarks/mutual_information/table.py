"""The table of our mutual-information estimators on the forty tasks of the public benchmark.

    python tests/benchmarks/mutual_information/table.py samples

where `samples` is the folder that `sample_tasks.py` wrote in the benchmark's own environment. Writes `results.csv` and
`results.png` beside this file and prints the Markdown table and the summary. A few minutes on two idle cores, most of
them spent by `auto` on the tasks where it trains a critic. A critic for every task takes some ten minutes more:

    python tests/benchmarks/mutual_information/table.py samples --estimators infonce

Estimators of ours that are not asked for keep their rows in `results.csv`. `matrix` is not among them: it is a
relative measure, not an estimate of these truths. `speed.py` compares times at n = 10,000.

The rule of `auto` was chosen on every other task in sorted order of their names, starting with the first
("chosen on"); the rest ("held out") was looked at once, with the rule fixed.

On the two tasks that are named as farther from the truth, beyond noise, than the benchmark's CCA, its plug-in bias of
d_x d_y / 2n = 0.0625 offsets a part of what correlations miss; without it (`gaussian`) it is farther than `auto`.
"""

import argparse
import csv
import math
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ggmi_callbacks.functional import mutual_information
from ggmi_callbacks.functional.mutual_information import choose_estimator

HERE = Path(__file__).parent
OURS = ("auto", "ksg", "gaussian", "copula", "canonical_ksg", "infonce")
QUICK = OURS[:4]
THEIRS = {"ksg": "benchmark KSG", "cca": "benchmark CCA", "sklearn": "scikit-learn"}
SHOWN = ("auto", "copula", "ksg", "infonce", *THEIRS.values())
HALVES = ("chosen on", "held out")


class Row(NamedTuple):
    """One estimator on one task; bias and spread in nats over seeds."""

    task: str
    half: str
    truth: float
    estimator: str
    bias: float
    spread: float
    seconds: float
    seeds: int
    chosen: str


def estimate(path: Path, seed: int, estimator: str) -> tuple[float, float, str]:
    """Value, seconds and, for `auto`, what it chose; one thread, so that times compare."""
    torch.set_num_threads(1)
    with np.load(path) as arrays:
        x, y = (torch.from_numpy(arrays[name][seed]).double() for name in "xy")
    start = time.perf_counter()
    if estimator == "auto":
        choice = choose_estimator(x, y, progress=False)
        return choice.estimates[choice.estimator], time.perf_counter() - start, choice.estimator
    value = float(mutual_information(x, y, estimator=estimator, progress=False))
    return value, time.perf_counter() - start, ""


def summarise(path: Path, half: str, name: str, results: Iterable[tuple[float, float, str]]) -> Row:
    """Bias and spread over seeds."""
    with np.load(path) as arrays:
        truth = float(arrays["truth"])
    values, seconds, chosen = zip(*results, strict=True)
    kinds = " ".join(f"{chosen.count(kind)}x{kind}" for kind in sorted(set(chosen)) if kind)
    errors = [value - truth for value in values]
    return Row(path.stem, half, truth, name, fmean(errors), stdev(errors), fmean(seconds), len(errors), kinds)


def measure(paths: list[Path], estimators: list[str]) -> list[Row]:
    """All rows, ours and the benchmark's, task by task."""
    rows = []
    with ProcessPoolExecutor() as pool:
        jobs = {
            (path, name): [pool.submit(estimate, path, seed, name) for seed in range(len(np.load(path)["x"]))]
            for path in paths
            for name in estimators
        }
        for number, path in enumerate(tqdm(paths, desc="tasks")):
            half = HALVES[number % 2]
            for name in estimators:
                rows.append(summarise(path, half, name, [job.result() for job in jobs[path, name]]))
            with np.load(path) as arrays:
                for key, name in THEIRS.items():
                    if key in arrays:
                        results = zip(arrays[key], arrays[f"{key}_seconds"], [""] * len(arrays[key]), strict=True)
                        rows.append(summarise(path, half, name, results))
    return rows


def kept(path: Path, new: list[Row]) -> list[Row]:
    """The new rows, and those of an earlier run for estimators that this one leaves out; in order."""
    order = [*OURS, *THEIRS.values()]
    measured = {row.estimator for row in new}
    rows = list(new)
    if path.exists():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if row["estimator"] not in measured:
                    numbers = {name: float(row[name]) for name in ("truth", "bias", "spread", "seconds")}
                    rows.append(Row(**row | numbers | {"seeds": int(row["seeds"])}))
    return sorted(rows, key=lambda row: (row.task, order.index(row.estimator)))


def markdown(rows: list[Row]) -> str:
    """Bias by task and estimator, of auto with its spread, and mean absolute bias on both halves."""
    names = [name for name in SHOWN if any(row.estimator == name for row in rows)]
    cells = {(row.task, row.estimator): row for row in rows}
    tasks = {row.task: row for row in rows}
    lines = ["| task | truth | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for task, first in tasks.items():
        entries = [cells.get((task, name)) for name in names]
        texts = ["" if e is None else f"{e.bias:+.3f}" for e in entries]
        if entries[0] and names[0] == "auto":
            texts[0] += f" ± {entries[0].spread:.3f}"
        mark = " *" if first.half == "held out" else ""
        lines.append(f"| {task}{mark} | {first.truth:.3f} | " + " | ".join(texts) + " |")
    for half, label in zip(HALVES, ("chosen on", "held out *"), strict=True):
        texts = [
            figure([row for row in rows if (row.estimator, row.half) == (name, half)], len(tasks) // 2)
            for name in names
        ]
        lines.append(f"| **mean absolute error, {label}** | | " + " | ".join(texts) + " |")
    seconds = [fmean(row.seconds for row in rows if row.estimator == name) for name in names]
    lines.append("| seconds a call | | " + " | ".join(f"{s:.2f}" for s in seconds) + " |")
    return "\n".join(lines)


def figure(rows: list[Row], tasks: int) -> str:
    """Mean absolute bias over tasks, blank for an estimator that does not apply to all of them."""
    return f"**{fmean(abs(row.bias) for row in rows):.3f}**" if len(rows) >= tasks else ""


def against_the_best(rows: list[Row]) -> str:
    """Tasks on which auto is farther from the truth than the better of the benchmark's KSG and CCA."""
    cells = {(row.task, row.estimator): row for row in rows}
    worse, beyond_noise = [], []
    for task in dict.fromkeys(row.task for row in rows):
        auto = cells[task, "auto"]
        best = min((cells[task, name] for name in ("benchmark KSG", "benchmark CCA")), key=lambda row: abs(row.bias))
        gap = abs(auto.bias) - abs(best.bias)
        noise = 2 * math.hypot(auto.spread, best.spread) / math.sqrt(auto.seeds)
        text = f"{task} ({auto.half}): {auto.bias:+.3f} against {best.bias:+.3f} ({best.estimator})"
        if gap > noise:
            beyond_noise.append(text)
        elif gap > 0:
            worse.append(text)
    lines = [f"Farther than the better of the two, within two standard errors: {len(worse)}", *worse]
    lines += [f"Beyond two standard errors: {len(beyond_noise)}", *beyond_noise]
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Errors by task: ours as filled dots, the benchmark's as rings."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(row.task for row in rows))[::-1]
    styles = {
        "auto": {"color": "tab:blue", "marker": "o", "zorder": 3},
        "benchmark KSG": {"color": "tab:orange", "marker": "o", "markerfacecolor": "none"},
        "benchmark CCA": {"color": "tab:green", "marker": "s", "markerfacecolor": "none"},
    }
    figure, axes = plt.subplots(figsize=(7.5, 9.5), layout="constrained")
    for name, style in styles.items():
        found = [row for row in rows if row.estimator == name]
        axes.errorbar(
            [row.bias for row in found],
            [tasks.index(row.task) for row in found],
            xerr=[row.spread for row in found],
            linestyle="none",
            markersize=5,
            elinewidth=1,
            label=name,
            **style,
        )
    held_out = {row.task for row in rows if row.half == "held out"}
    axes.set_yticks(range(len(tasks)), [f"{task} *" if task in held_out else task for task in tasks], fontsize=7)
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_ylim(-1, len(tasks))
    axes.set_xlabel("estimate - truth (nats), mean and spread over seeds\n* held out when the rule was chosen")
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, write, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="folder written by sample_tasks.py")
    parser.add_argument("--estimators", nargs="+", choices=OURS, default=list(QUICK))
    arguments = parser.parse_args()
    rows = kept(HERE / "results.csv", measure(sorted(arguments.samples.glob("*.npz")), arguments.estimators))
    with open(HERE / "results.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
    draw(rows, HERE / "results.png")
    print(markdown(rows), against_the_best(rows), sep="\n\n")


if __name__ == "__main__":
    main()
