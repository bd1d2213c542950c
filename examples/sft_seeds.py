"""The main job over several seeds, as a table and a picture: what each way of choosing samples came to.

    python examples/sft_seeds.py --seeds 0 1 2 3 4 --output out/seeds

Each seed is a whole run of ``sft_gain.py`` (its own task, generator, student), minutes each; finished ones are kept, so
that the command can be stopped and called again. Differences are paired by seed; intervals are Student's t over seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import t as student_t

NAMES = ("everything", "kept by agreement", "random, as many", "the right ones")
"""Of the runs, in the order in which ``sft_gain.py`` makes them."""


def run(seed: int, folder: Path) -> pd.DataFrame:
    """One seed's runs, made if they are not there."""
    path = folder / f"seed-{seed}" / "runs.json"
    if not path.exists():
        script = str(Path(__file__).with_name("sft_gain.py"))
        subprocess.run([sys.executable, script, "--seed", str(seed), "--output", str(path.parent)], check=True)
    frame = pd.DataFrame(json.loads(path.read_text()))
    return frame.assign(seed=seed, name=NAMES[: len(frame)])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Mean and half its 95 % interval."""
    half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def table(frame: pd.DataFrame) -> str:
    """Return a table of means with their spread, and differences to everything paired by seed."""
    rows = []
    base = frame[frame.name == NAMES[0]].set_index("seed")
    for name in NAMES:
        runs = frame[frame.name == name].set_index("seed")
        row = {"trained on": name, "right answers": f"{runs.accuracy.mean():.3f} ± {runs.accuracy.std():.3f}"}
        row |= {
            "nats/token": f"{runs.nats.mean():.4f} ± {runs.nats.std():.4f}",
            "seconds": f"{runs.seconds.mean():.0f}",
        }
        if name != NAMES[0]:
            for column, digits in (("accuracy", 3), ("nats", 4)):
                mean, half = interval((runs[column] - base[column]).to_numpy())
                row[f"{column} against everything"] = (
                    f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"
                )
        rows.append(row)
    columns = list(rows[-1])
    lines = [columns, ["---"] * len(columns), *([row.get(c, "") for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Right answers of each run, a line a seed, and their means."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    wide = frame.pivot(index="seed", columns="name", values="accuracy")[list(NAMES)]
    for _, row in wide.iterrows():
        axes.plot(range(len(NAMES)), 100 * row, color="0.75", marker=".", linewidth=1)
    colours = ["0.35", "C2", "C1", "C0"]
    axes.bar(range(len(NAMES)), 100 * wide.mean(), width=0.55, color=colours, alpha=0.55)
    for place, mean in enumerate(wide.mean()):
        axes.annotate(f"{100 * mean:.1f} %", (place, 0.6), ha="center", va="bottom")
    axes.set_xticks(range(len(NAMES)), NAMES)
    axes.set(ylabel="held-out questions answered rightly, %", title=f"Equal steps, {len(wide)} seeds (a line each)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=Path("out/seeds"))
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("--seeds: an interval over seeds needs two or more.")
    frame = pd.concat([run(seed, args.output) for seed in args.seeds], ignore_index=True)
    frame.to_csv(args.output / "runs.csv", index=False)
    (args.output / "table.md").write_text(table(frame) + "\n")
    print(table(frame))
    draw(frame, args.output / "main_job.png")


if __name__ == "__main__":
    main()
