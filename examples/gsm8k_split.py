"""Write the three files of the GSM8K study: human anchors, model-written solutions, human held-out solutions.

    python examples/gsm8k_split.py --data FOLDER --output FOLDER

`--data` holds `gsm8k_train.jsonl.gz` and `gsm8k_test.jsonl.gz` (question_id, question, answer) and
`gsm8k_model_solutions.jsonl.gz` (question_id, question, solver, solution, is_correct; four GPT-3 solvers on the test
questions), as in https://github.com/openai/grade-school-math. No question is in two of the files written: the model
solutions answer one half of the test questions, the held-out humans the other half.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from datasets import Dataset, load_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--anchors", type=int, default=128, help="human solutions from the training set")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    def read(name: str) -> Dataset:
        return load_dataset("json", data_files=str(args.data / f"{name}.jsonl.gz"), split="train")

    train, test, solutions = read("gsm8k_train"), read("gsm8k_test"), read("gsm8k_model_solutions")
    questions = sorted(set(test["question_id"]))
    random.Random(args.seed).shuffle(questions)
    answered = set(questions[: len(questions) // 2])
    parts = {
        "anchors": train.shuffle(seed=args.seed).select(range(args.anchors)),
        "synthetic": solutions.filter(lambda row: row["question_id"] in answered),
        "heldout": test.filter(lambda row: row["question_id"] not in answered),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    for name, data in parts.items():
        data.to_json(args.output / f"{name}.jsonl")
        print(f"{name}: {len(data)} rows")


if __name__ == "__main__":
    main()
