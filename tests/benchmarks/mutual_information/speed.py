"""Time of our nearest-neighbour estimator beside the benchmark's own, at n = 10,000 in 1, 5 and 25 dimensions.

    python tests/benchmarks/mutual_information/speed.py samples --benchmark bmi/bin/python

where `samples` and the environment `bmi` are those of `sample_tasks.py`. The two take turns, each in a process of its
own with the same number of threads, so that whatever else the machine does slows both; medians are printed.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

LOAD = """
import sys, time
import numpy as np
with np.load(sys.argv[1]) as arrays:
    x, y = arrays["x"][0], arrays["y"][0]
"""
TIME = """
start = time.perf_counter()
value = float(estimate(x, y))
print(value, time.perf_counter() - start)
"""
OURS = """
import torch
from ggmi_callbacks.functional import mutual_information
torch.set_num_threads(int(sys.argv[2]))
x, y = torch.from_numpy(x), torch.from_numpy(y)
def estimate(x, y):
    return mutual_information(x, y, estimator="ksg", k=5)
estimate(x[:100], y[:100])
"""
THEIRS = """
from bmi.estimators import KSGEnsembleFirstEstimator
estimate = KSGEnsembleFirstEstimator(neighborhoods=(5,)).estimate
estimate(x[:100], y[:100])
"""


def run(python: str, code: str, path: Path, threads: int) -> tuple[float, float]:
    """Value and seconds of one estimate, in a new process, the first call's set-up left out."""
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL")}
    command = [python, "-c", LOAD + code + TIME, str(path), str(threads)]
    output = subprocess.run(command, env=os.environ | limits, check=True, capture_output=True, text=True).stdout
    value, seconds = map(float, output.split())
    return value, seconds


def main() -> None:
    """Take turns and print one line per dimension."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, help="folder written by sample_tasks.py")
    parser.add_argument("--benchmark", default="bmi/bin/python", help="Python of the benchmark's environment")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| task, n = 10,000 | ours, s | benchmark KSG, s | ratio | difference, nats |", "|---" * 5 + "|", sep="\n")
    for path in sorted((arguments.samples / "speed").glob("*.npz")):
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            ours.append(run(sys.executable, OURS, path, arguments.threads))
            theirs.append(run(arguments.benchmark, THEIRS, path, arguments.threads))
        seconds, their_seconds = (median(second for _, second in runs) for runs in (ours, theirs))
        difference, ratio = ours[0][0] - theirs[0][0], their_seconds / seconds
        print(f"| {path.stem} | {seconds:.3f} | {their_seconds:.2f} | {ratio:.1f} | {difference:+.1e} |", flush=True)


if __name__ == "__main__":
    main()
