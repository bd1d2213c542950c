"""Time of KSG by sample size and dimension beside scikit-learn and npeet, each in turn in one process.

    OMP_NUM_THREADS=1 python tests/benchmarks/mutual_information/neighbours.py
    OMP_NUM_THREADS=1 python tests/benchmarks/mutual_information/neighbours.py --sizes 1000 10000 --rounds 3

x and y are Gaussian with correlation 0.6 in each of d dimensions, k = 5. scikit-learn's `mutual_info_regression` takes
one dimension. npeet (not on PyPI; left out where it is not installed) takes the largest difference of coordinates for
distance, ours the Euclidean one in x and in y. *Slope* is that of log seconds against log n.
"""

import argparse
import math
import time
from statistics import median

import numpy as np
import pandas as pd
import torch
from sklearn.feature_selection import mutual_info_regression

from ggmi_callbacks.functional import knn_entropy, mutual_information

try:
    from npeet import entropy_estimators
except ImportError:
    entropy_estimators = None


def methods(x: torch.Tensor, y: torch.Tensor) -> dict:
    """What is timed, by name."""
    left, right = x.numpy(), y.numpy()
    found = {"ours": lambda: float(mutual_information(x, y, estimator="ksg", k=5))}
    if x.shape[1] == 1:
        found["scikit-learn"] = lambda: float(mutual_info_regression(left, right[:, 0], n_neighbors=5)[0])
    if entropy_estimators is not None:
        found["npeet"] = lambda: float(entropy_estimators.mi(left, right, k=5, base=math.e))
    found["ours, entropy"] = lambda: float(knn_entropy(x, k=5))
    if entropy_estimators is not None:
        found["npeet, entropy"] = lambda: float(entropy_estimators.entropy(left, k=5, base=math.e))
    return found


def timed(n: int, d: int, rounds: int) -> list[dict]:
    """Median seconds and the value of each method."""
    generator = torch.Generator().manual_seed(n + d)
    x, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    y = 0.6 * x + 0.8 * noise
    seconds, values = {}, {}
    for _ in range(rounds):
        for name, method in methods(x, y).items():
            if seconds.get(name, [0])[0] > 60:  # once is enough
                continue
            start = time.perf_counter()
            values[name] = method()
            seconds.setdefault(name, []).append(time.perf_counter() - start)
    return [
        {"d": d, "n": n, "method": name, "seconds": median(found), "value": values[name]}
        for name, found in seconds.items()
    ]


def main() -> None:
    """Print a line for each cell, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[1, 2, 5, 25])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    mutual_information(*torch.randn(2, 100, 1), estimator="ksg")  # set-up is not counted
    rows = []
    for d in arguments.dimensions:
        for n in arguments.sizes:
            rows += timed(n, d, arguments.rounds)
            print(*rows[-3:], sep="\n", flush=True)
    frame = pd.DataFrame(rows)
    table = frame.pivot(index=["d", "method"], columns="n", values="seconds")
    sizes = np.log(arguments.sizes)
    table["slope"] = [np.polyfit(sizes, np.log(row), 1)[0] for row in table[arguments.sizes].to_numpy()]
    print(table.round(3).to_markdown())


if __name__ == "__main__":
    main()
