"""Make the three files of a real experiment from GSM8K and the model solutions published with it.

From a folder that holds ``gsm8k_train.jsonl.gz`` and ``gsm8k_test.jsonl.gz`` (with ``question_id``, ``question`` and
``answer``) and ``gsm8k_model_solutions.jsonl.gz`` (``solver``, ``solution`` and ``is_correct`` in place of ``answer``):

    anchors.jsonl     128 human solutions, drawn from train
    synthetic.jsonl   model-written solutions to one half of the test questions
    heldout.jsonl     human solutions to the other half

The solvers end in ``A: n`` where people end in ``#### n``; the former is rewritten to the latter, as anyone would
before training on both. Nothing else is changed.

    python examples/gsm8k_split.py --data DIR --output out/gsm8k
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

ANCHORS = 128


def split(data: Path, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the three files, by name."""
    train, test, made = (_rows(data / f"gsm8k_{name}.jsonl.gz") for name in ("train", "test", "model_solutions"))
    draw = Random(seed)
    anchors = draw.sample(train, ANCHORS)
    questions = sorted({row["question_id"] for row in test})
    half = set(draw.sample(questions, len(questions) // 2))
    synthetic = [
        {
            "question": row["question"],
            "solution": re.sub(r"^A: ", "#### ", row["solution"], flags=re.MULTILINE),
            "solver": row["solver"],
            "is_correct": bool(row["is_correct"]),
        }
        for row in made
        if row["question_id"] in half
    ]
    return {
        "anchors": [_human(row) for row in anchors],
        "synthetic": synthetic,
        "heldout": [_human(row) for row in test if row["question_id"] not in half],
    }


def _human(row: dict[str, Any]) -> dict[str, str]:
    return {"question": row["question"], "answer": row["answer"]}


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        sys.exit(f"--data {path.parent}: {path.name} is not in this folder.")
    return pd.read_json(path, lines=True, dtype=False).to_dict("records")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the three .jsonl.gz files")
    parser.add_argument("--output", type=Path, default=Path("out/gsm8k"), help="where the three .jsonl files go")
    parser.add_argument("--seed", type=int, default=0, help="of the anchors and of the halves")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for name, rows in split(args.data, args.seed).items():
        path = args.output / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
