"""GSM8K as two worlds of the study: worked solutions, and programs.

*Solutions*: four GPT-3 solvers have answered the test questions; 32 people's solutions to training questions are the
anchors; people's solutions to test questions that are not asked are held out.

*Programs*: Codex has answered, twice. People wrote no programs here, so anchors and held-out programs are model-written
and *verified*: run, they gave the answer that people gave. The questions of the three parts differ.

Questions whose text and human solution have more than 500 characters are left out: a step of training costs what the
longest sample of its batch does.

Each world is a dictionary of three lists of rows: ``anchors``, ``synthetic`` and ``heldout``. Rows have ``prompt`` and
``completion``; synthetic ones also ``source`` and ``right``. What a student is measured by is in ``reading.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

ANCHORS, ASKED, HELD = 32, 160, 80
LONGEST = 500  # characters of a question and its human solution
Row = dict[str, Any]
Sets = dict[str, list[Row]]


def solutions(data: Path, seed: int) -> Sets:
    """Return the world of worked solutions.

    Raises:
        FileNotFoundError: if a file is not in ``data``.

    """
    train, test = _short(data, "train"), _short(data, "test")
    draw = Random(seed)
    asked, held = _parts([row["question_id"] for row in test], draw, ASKED, HELD)
    return {
        "anchors": [_human(row) for row in draw.sample(train, ANCHORS)],
        "synthetic": [_solution(row) for row in _of(_rows(data, "model_solutions"), asked)],
        "heldout": [_human(row) for row in _of(test, held)],
    }


def programs(data: Path, seed: int) -> Sets:
    """Return the world of programs.

    Raises:
        FileNotFoundError: if a file is not in ``data``.

    """
    made = _of(_rows(data, "program_solutions"), [row["question_id"] for row in _short(data, "test")])
    draw = Random(seed)
    solved = {row["question_id"] for row in made if row["is_correct"]}
    anchors, held = _parts(solved, draw, ANCHORS, HELD)
    (asked,) = _parts({row["question_id"] for row in made} - {*anchors, *held}, draw, ASKED)
    verified = {row["question_id"]: _program(row) for row in draw.sample(made, len(made)) if row["is_correct"]}
    return {
        "anchors": [verified[question] for question in anchors],
        "synthetic": [_program(row) for row in _of(made, asked)],
        "heldout": [verified[question] for question in held],
    }


def _parts(questions: Iterable[str], draw: Random, *sizes: int) -> list[list[str]]:
    """Draw disjoint parts of the questions."""
    drawn = iter(draw.sample(sorted(questions), sum(sizes)))
    return [list(islice(drawn, size)) for size in sizes]


def _human(row: Row) -> Row:
    return {"prompt": row["question"] + "\n", "completion": row["answer"]}


def _solution(row: Row) -> Row:
    """Rewrite the last line, ``A: n``, to the one that people write, as anyone would before training on both."""
    return _made(row, re.sub(r"^A: ", "#### ", row["solution"], flags=re.MULTILINE))


def _program(row: Row) -> Row:
    return _made(row, row["program"].rstrip())


def _made(row: Row, text: str) -> Row:
    return {
        "prompt": row["question"] + "\n",
        "completion": text,
        "source": row["solver"],
        "right": bool(row["is_correct"]),
    }


def _of(rows: list[Row], questions: list[str]) -> list[Row]:
    wanted = set(questions)
    return [row for row in rows if row["question_id"] in wanted]


def _short(data: Path, name: str) -> list[Row]:
    return [row for row in _rows(data, name) if len(row["question"] + row["answer"]) <= LONGEST]


def _rows(data: Path, name: str) -> list[Row]:
    path = data / f"gsm8k_{name}.jsonl.gz"
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not in {data}: give the folder that holds the GSM8K files.")
    return pd.read_json(path, lines=True, dtype=False).to_dict("records")
