"""Does GGMI follow what it is said to follow, across runs?

    python tests/benchmarks/ggmi_claim.py --live live.csv --cells CELLS

`--live` is the CSV of live_ggmi.py: gaps measured offline, and how far the loss of fresh anchors fell. `--cells` is the
folder of examples/study: accuracy on fresh problems, less that of training on everything with the same world and seed.
Rank correlations (Spearman) over runs, with 95 % percentile bootstrap intervals.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

DRAWS = 4000
LIVE = {"GGMI": "`loss_difference`, live", "mixture": "`mixture`"}


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1])


def correlated(table: pd.DataFrame, x: str, y: str) -> str:
    """Rank correlation of two columns, with its interval over runs."""
    values = table[[x, y]].dropna().to_numpy(dtype=float)
    if len(values) < 5:
        return f"{len(values)} runs"
    draw = np.random.default_rng(0)
    again = [spearman(*values[draw.integers(len(values), size=len(values))].T) for _ in range(DRAWS)]
    low, high = np.nanquantile(again, (0.025, 0.975))
    return f"{spearman(*values.T):+.2f} [{low:+.2f}, {high:+.2f}], {len(values)} runs"


def live_rows(path: Path) -> list[str]:
    table = pd.read_csv(path)
    table["gap difference"] = table["anchor gap offline"] - table["gap offline"]
    targets = {
        "gap difference": "difference of the gaps (anchors - synthetic), offline",
        "gap offline": "generalisation gap on the synthetic law, offline",
        "gained": "nats gained on fresh anchors",
    }
    parts = {"all": table, "within a task and kind of run": centred(table, ["task", "run"], [*LIVE, *targets])}
    return _rows(parts, targets)


def centred(table: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """``table`` with the means of each group taken off its columns."""
    out = table.astype(dict.fromkeys(columns, float))
    out[columns] -= out.groupby(by)[columns].transform("mean")
    return out


def _rows(parts: dict[str, pd.DataFrame], targets: dict[str, str]) -> list[str]:
    return [
        f"| {LIVE[x]} | {targets[y]} | {name} | {correlated(part, x, y)} |"
        for x in LIVE
        for y in targets
        for name, part in parts.items()
    ]


def cell(found: dict[str, Any]) -> dict[str, Any]:
    """Numbers of one cell of the study; before there were twins, the mixture form stood under `ggmi/ggmi`."""
    results = found["results"]
    plain, mixture = results.get("ggmi/ggmi_per_sample"), results.get("ggmi/ggmi_mixture_per_sample")
    twins = "ggmi/twins" in results
    names = ("world", "seed", "method", "accuracy")
    numbers = {"GGMI": plain if twins else None, "mixture": plain if mixture is None and not twins else mixture}
    return {name: found[name] for name in names} | numbers


def cell_rows(folder: Path) -> list[str]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = [f for f in found if f.get("accuracy") is not None and f.get("regime") == "steps"]
    plain = {(f["world"], f["seed"]): f["accuracy"] for f in found if f["method"] == "everything"}
    rows = [cell(f) for f in found if f.get("results")]
    table = pd.DataFrame([row for row in rows if (row["world"], row["seed"]) in plain])
    table["more"] = [r.accuracy - plain[r.world, r.seed] for r in table.itertuples()]
    within = centred(table, ["world", "seed"], [*LIVE, "more"])
    parts = {"study": table, "study, within a world and seed": within}
    return _rows(parts, {"more": "accuracy above that of training on everything"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", type=Path, help="CSV of live_ggmi.py")
    parser.add_argument("--cells", type=Path, help="folder of the study's cells")
    args = parser.parse_args()
    rows = [*(live_rows(args.live) if args.live else []), *(cell_rows(args.cells) if args.cells else [])]
    print("\n".join(["| estimate | with | runs | Spearman [95 %] |", "|---|---|---|---|", *rows]))


if __name__ == "__main__":
    main()
