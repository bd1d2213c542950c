"""How fast agreement is, and how well it tells right from wrong answers.

    OMP_NUM_THREADS=1 python tests/benchmarks/agreement.py --answers 100000 1000000

times `agreement` on made-up answers, four to a prompt, of some 60 words, two fifths of which are noise;
`--information` times `sibling_information` too.

    OMP_NUM_THREADS=1 python tests/benchmarks/agreement.py --data DATA --pool POOL.jsonl

prints the AUROC of right against wrong answers: over all, and *within* a prompt (scores less their mean over the
prompt, for prompts with answers of both kinds), and the shared information with its null control; what is kept and
dropped by the agreement of final answers with one, two and three siblings; and the share of each model's answers to
instructions of which siblings say nothing. DATA is a folder with gsm8k_model_solutions.jsonl.gz (four solvers),
gsm8k_program_solutions.jsonl.gz (two programs a question, so within a question overlap cannot tell) and
user_oriented_model_responses.jsonl.gz (eight models, instructions of all kinds). POOL has lines with `prompt`,
`completion` (which ends in `#### answer`) and `right`.
"""

from __future__ import annotations

import argparse
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from ggmi_callbacks.functional import agreement, shared_information, sibling_information

VOCABULARY, WORDS, GROUP, NOISE = 20_000, 60, 4, 0.4


class Answers(NamedTuple):
    """Answers to questions, which is right, and the final answer of each, None where it has none."""

    samples: list[str]
    group: list[str]
    right: np.ndarray
    final: list[object]


def made_up(n: int) -> tuple[list[str], list[int]]:
    """Answers whose words are those of their group, but for noise."""
    draw = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(VOCABULARY)])
    samples = []
    for _ in range(n // GROUP):
        common = draw.zipf(1.3, WORDS) % VOCABULARY
        noise = draw.integers(0, VOCABULARY, (GROUP, WORDS))
        rows = np.where(draw.random((GROUP, WORDS)) < NOISE, noise, common)
        samples += [" ".join(row) for row in words[rows]]
    return samples, [i // GROUP for i in range(len(samples))]


def speed(sizes: list[int], information: bool) -> None:
    """Print answers per second and the peak memory of the process."""
    scores: dict[str, Callable] = {"agreement": agreement}
    if information:
        scores["sibling_information"] = sibling_information
    for n in sizes:
        samples, group = made_up(n)
        for name, score in scores.items():
            start = time.perf_counter()
            score(samples, group)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"{name}: {n:,} answers in {seconds:.1f} s, {n / seconds:,.0f} answers/s, peak {peak:.1f} GiB")


def load(data: Path | None, pools: list[Path]) -> dict[str, Answers]:
    """Read what there is."""
    found = {}
    if data:
        rows = pd.read_json(data / "gsm8k_model_solutions.jsonl.gz", lines=True, dtype={"final": str})
        found["solutions"] = answers(rows, "solution", "question_id", "is_correct", rows["final"])
        rows = pd.read_json(data / "gsm8k_program_solutions.jsonl.gz", lines=True)
        found["programs"] = answers(rows, "program", "question_id", "is_correct", rows["executed"])
    for path in pools:
        rows = pd.read_json(path, lines=True)
        final = rows["completion"].str.extract(r"\n#### (.+)$")[0]
        found[path.stem] = answers(rows, "completion", "prompt", "right", final)
    return found


def answers(rows: pd.DataFrame, sample: str, group: str, right: str, final: pd.Series) -> Answers:
    known = final.astype(object).where(final.notna(), None)
    return Answers(rows[sample].tolist(), rows[group].tolist(), rows[right].to_numpy(bool), known.tolist())


def scores(a: Answers) -> dict[str, Tensor]:
    """Every score of each answer."""
    found = {f"n-grams up to {order}": agreement(a.samples, a.group, order=order) for order in range(1, 7)}
    for order in (1, 2, 3, 4):
        name = f"sibling information a token, order {order}"
        found[name] = sibling_information(a.samples, a.group, order=order, per_token=True)
    numbers = [" ".join(re.findall(r"\d+", text)) for text in a.samples]
    found["numbers"] = agreement(numbers, a.group, order=1)
    found["final answer"] = agreement(range(len(a.samples)), a.group, answer=a.final.__getitem__)
    return found


def auroc(a: Answers, score: Tensor) -> tuple[float, float]:
    """AUROC of right against wrong among the answers that have a score: over all, and within a prompt."""
    rows = pd.DataFrame({"group": a.group, "right": a.right, "score": score.double().numpy()}).dropna()
    groups = rows.groupby("group")
    centred = rows.score - groups.score.transform("mean")
    mixed = groups.right.transform("nunique") == 2
    return roc_auc_score(rows.right, rows.score), roc_auc_score(rows.right[mixed], centred[mixed])


def quality(found: dict[str, Answers]) -> None:
    """Print the table, then shared information."""
    table = {}
    for name, a in found.items():
        print(f"{name}: {len(a.samples)} answers to {len(set(a.group))} prompts, {a.right.mean():.3f} right")
        rows = {score: auroc(a, value) for score, value in scores(a).items()}
        table[name] = pd.DataFrame(rows, index=["all", "within"]).T
    print(pd.concat(table, axis=1).round(3).to_string())
    for name, a in found.items():
        for order in (2, 3, 4):
            both = shared_information(a.samples, a.group, order=order)
            text = ", null ".join(f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in both)
            print(f"{name}, order {order}: shared information {text} nats an answer")


def judged_by(found: dict[str, Answers]) -> None:
    """Print what a filter by final answers keeps, by the number of siblings that an answer has."""
    for name, a in found.items():
        rows = pd.DataFrame({"group": a.group, "right": a.right, "answer": a.final})
        for size in range(2, int(rows.groupby("group").size().max()) + 1):
            some = rows.groupby("group").filter(lambda g, size=size: len(g) >= size)
            some = some.groupby("group").sample(size, random_state=0)
            score = agreement(some.answer.tolist(), some.group.tolist(), answer=lambda known: known)
            kept = score.nan_to_num(0.0).numpy() > 0
            right = some.right.to_numpy()
            print(
                f"{name}, {size - 1} siblings: {kept.mean():.2f} kept, {right[kept].mean():.2f} of them right, "
                f"{right[~kept].mean():.2f} of what is dropped; of right ones {kept[right].mean():.2f} kept"
            )


def instructions(data: Path) -> None:
    """Print for each model the share of its answers of which the others' say nothing."""
    rows = pd.read_json(data / "user_oriented_model_responses.jsonl.gz", lines=True)
    score = sibling_information(rows.response.tolist(), rows.id.tolist(), order=2, per_token=True)
    print((pd.Series(score.numpy()) <= 0).groupby(rows.model).mean().sort_values().round(2).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, nargs="*", default=[], help="numbers of answers to time")
    parser.add_argument("--information", action="store_true", help="time sibling_information too")
    parser.add_argument("--data", type=Path, help="folder with the two GSM8K files")
    parser.add_argument("--pool", type=Path, nargs="*", default=[], help="JSON lines with prompt, completion, right")
    args = parser.parse_args()
    if not (args.answers or args.data or args.pool):
        parser.error("nothing to do: give --answers, --data or --pool.")
    torch.set_num_threads(1)
    speed(args.answers, args.information)
    if args.data or args.pool:
        found = load(args.data, args.pool)
        quality(found)
        judged_by(found)
    if args.data:
        instructions(args.data)


if __name__ == "__main__":
    main()
