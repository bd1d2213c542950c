"""Draw the tasks of the public mutual-information benchmark and its own estimates of them, as `.npz` files.

The benchmark (Czyz et al., "Beyond Normal: On the Evaluation of Mutual Information Estimators", NeurIPS 2023; package
`benchmark-mi`, MIT) has 40 tasks with known truths. It imports only with old pins, so this script runs in an
environment of its own, and `table.py` beside it reads the files in ours:

    python3.11 -m venv bmi
    bmi/bin/pip install benchmark-mi==0.1.3 jax==0.4.30 jaxlib==0.4.30 numpy==1.26.4 scikit-learn tqdm
    bmi/bin/python sample_tasks.py samples

Each `samples/<task>.npz` holds `x [seeds, n, d_x]`, `y [seeds, n, d_y]`, `truth` (nats), and for the benchmark's `ksg`
(k = 5) and `cca` and, where both sides have one dimension, scikit-learn's `sklearn` (3 neighbours, its default): the
estimates [seeds] and `<name>_seconds` [seeds]. Files that exist are kept, so an interrupted run goes on where it
stopped. `samples/speed/<task>.npz` holds the same for n = 10,000 in 1, 5 and 25 dimensions, one seed.
"""

import argparse
import os
import time
from pathlib import Path

for library in ("OMP", "OPENBLAS", "MKL"):  # one thread, so that times compare; must precede the imports
    os.environ[f"{library}_NUM_THREADS"] = "1"

import numpy as np
from bmi.benchmark import BENCHMARK_TASKS
from bmi.estimators import CCAMutualInformationEstimator, KSGEnsembleFirstEstimator
from sklearn.feature_selection import mutual_info_regression
from tqdm import tqdm

SPEED_TASKS = {"1v1-normal-0.75": 1, "multinormal-dense-5-5-0.5": 5, "multinormal-dense-25-25-0.5": 25}


def estimates(x, y):
    """Name -> (estimate in nats, seconds) of each reference estimator on one sample."""
    estimators = {
        "ksg": KSGEnsembleFirstEstimator(neighborhoods=(5,)).estimate,
        "cca": CCAMutualInformationEstimator().estimate,
    }
    if x.shape[1] == y.shape[1] == 1:
        estimators["sklearn"] = lambda x, y: mutual_info_regression(x, y[:, 0], random_state=0)[0]
    results = {}
    for name, estimate in estimators.items():
        start = time.perf_counter()
        value = float(estimate(x, y))
        results[name] = (value, time.perf_counter() - start)
    return results


def write_task(task, path, n, seeds):
    """Sample one task under every seed, estimate, and save."""
    samples = [tuple(map(np.asarray, task.sample(n, seed))) for seed in range(seeds)]
    found = [estimates(x, y) for x, y in samples]
    arrays = {"x": np.stack([x for x, _ in samples]), "y": np.stack([y for _, y in samples])}
    for name in found[0]:
        arrays[name] = np.array([f[name][0] for f in found])
        arrays[f"{name}_seconds"] = np.array([f[name][1] for f in found])
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, truth=task.mutual_information, **arrays)
    partial.rename(path)  # a file is there whole or not at all


def main():
    """Write every task that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the .npz files")
    parser.add_argument("--n", type=int, default=5000, help="samples per task and seed")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 .. seeds - 1")
    arguments = parser.parse_args()
    jobs = [(arguments.out / f"{name}.npz", name, arguments.n, arguments.seeds) for name in sorted(BENCHMARK_TASKS)]
    jobs += [(arguments.out / "speed" / f"{name}.npz", name, 10_000, 1) for name in SPEED_TASKS]
    (arguments.out / "speed").mkdir(parents=True, exist_ok=True)
    for path, name, n, seeds in tqdm([job for job in jobs if not job[0].exists()], desc="tasks"):
        write_task(BENCHMARK_TASKS[name], path, n, seeds)


if __name__ == "__main__":
    main()
