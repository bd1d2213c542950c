"""GSM8K as two worlds of the study: worked solutions, and programs.

*Solutions*: four GPT-3 solvers have answered one half of the test questions; 128 people's solutions to training
questions are the anchors; people's solutions to the other half are held out.

*Programs*: Codex has answered, twice. People wrote no programs here, so anchors and held-out programs are model-written
and *verified*: run, they give the answer that people gave. The questions of the three parts differ.

Each world is a dictionary of four lists of rows: ``anchors``, ``synthetic``, ``heldout``, and ``judged``, the models'
answers to held-out questions. Rows have ``prompt``, ``completion`` and ``final``, the final answer ("" where there is
none); model-written ones also ``answer`` (a copy that a trainer keeps), ``question_id``, ``source`` and ``right``.
What a student is measured by is in ``reading.py``.
"""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

ANCHORS = 128
Row = dict[str, Any]


def solutions_world(data: Path, seed: int, questions: int | None = None) -> dict[str, list[Row]]:
    """Return the world of worked solutions; ``questions`` is how many the synthetic part has, by default one half."""
    train, test, made = (_rows(data, name) for name in ("train", "test", "model_solutions"))
    draw = Random(seed)
    anchors = draw.sample(train, ANCHORS)
    asked, held = _halves([row["question_id"] for row in test], draw)
    answers = [_solution(row) for row in made]
    return {
        "anchors": [_human(row) for row in anchors],
        "synthetic": _of(answers, asked[:questions]),
        "heldout": [_human(row) for row in test if row["question_id"] in set(held)],
        "judged": _of(answers, held),
    }


def programs_world(data: Path, seed: int, questions: int | None = None) -> dict[str, list[Row]]:
    """Return the world of programs; ``questions`` is how many the synthetic part has, by default one half."""
    answers = [_program(row) for row in _rows(data, "program_solutions")]
    draw = Random(seed)
    solved = sorted({row["question_id"] for row in answers if row["right"]})
    few = draw.sample(solved, ANCHORS)
    others = sorted({row["question_id"] for row in answers} - set(few))
    asked, held = _halves(others, draw)
    return {
        "anchors": _one_right(_of(answers, few), draw),
        "synthetic": _of(answers, asked[:questions]),
        "heldout": _one_right(_of(answers, held), draw),
        "judged": _of(answers, held),
    }


def pairs(judged: list[Row], seed: int = 0) -> tuple[list[Row], list[Row]]:
    """Return a right and a wrong answer, drawn at random, to each question that has both."""
    draw, right, wrong = Random(seed), [], []
    for answers in _by_question(judged).values():
        sides = [[row for row in answers if bool(row["right"]) is side] for side in (True, False)]
        if all(sides):
            right.append(draw.choice(sides[0]))
            wrong.append(draw.choice(sides[1]))
    return right, wrong


def final_answer(solution: str) -> str:
    """Return the number after the last ``####`` without commas, or "" if there is none.

    Example:
        >>> final_answer("16 * 100 = $<<16*100=1600>>1600\\n#### 1,600")
        '1600'

    """
    found = re.findall(r"#### \$?(-?[\d.,]*\d)", solution)
    return found[-1].replace(",", "") if found else ""


def is_right_solution(solution: str, final: str) -> bool:
    """Whether a solution ends in the number ``final``."""
    return _same(final_answer(solution), final)


def is_right_program(program: str, final: str) -> bool:
    """Whether a program, run, leaves the number ``final`` in ``ans``."""
    return _same(run_program(program), final)


def run_program(program: str, seconds: float = 5) -> str:
    """Run a program in a process of its own; return what it leaves in ``ans`` as a number, or "" if it fails.

    The process has ``math``, as the programs' authors had it, but no environment and no packages. It works in an empty
    folder and is held to ``seconds``, to half a gigabyte and to files of no length: that stops accidents, not attacks.

    Example:
        >>> run_program("a = 3\\nans = a * 4")
        '12.0'
        >>> run_program("while True: pass", seconds=0.5)
        ''

    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", "import math\n" + program + "\nprint()\nprint(float(ans))"],
                capture_output=True,
                text=True,
                timeout=seconds,
                cwd=folder,
                env={},
                preexec_fn=_limit,
            )
        except subprocess.TimeoutExpired:
            return ""
    lines = done.stdout.splitlines()
    return lines[-1] if done.returncode == 0 and lines else ""


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _same(found: str, final: str) -> bool:
    try:
        return abs(float(found) - float(final)) < 1e-3
    except ValueError:
        return False


def _human(row: Row) -> Row:
    return {"prompt": row["question"] + "\n", "completion": row["answer"], "final": row["final"]}


def _solution(row: Row) -> Row:
    """Rewrite the last line, ``A: n``, to the one that people write, as anyone would before training on both."""
    text = re.sub(r"^A: ", "#### ", row["solution"], flags=re.MULTILINE)
    return _made(row, text, row["final"] or "", row["solver"])


def _program(row: Row) -> Row:
    final = "" if row["executed"] is None else f"{row['executed']:g}"
    return _made(row, row["program"].rstrip(), final, row["solver"])


def _made(row: Row, text: str, final: str, source: str) -> Row:
    return {
        "prompt": row["question"] + "\n",
        "completion": text,
        "answer": text,
        "question_id": row["question_id"],
        "source": source,
        "final": final,
        "right": bool(row["is_correct"]),
    }


def _halves(ids: list[str], draw: Random) -> tuple[list[str], list[str]]:
    shuffled = draw.sample(sorted(ids), len(ids))
    return shuffled[: len(ids) // 2], shuffled[len(ids) // 2 :]


def _of(answers: list[Row], ids: list[str]) -> list[Row]:
    wanted = set(ids)
    return [row for row in answers if row["question_id"] in wanted]


def _one_right(answers: list[Row], draw: Random) -> list[Row]:
    right = _by_question([row for row in answers if row["right"]])
    return [draw.choice(rows) for rows in right.values()]


def _by_question(answers: list[Row]) -> dict[str, list[Row]]:
    out: dict[str, list[Row]] = {}
    for row in answers:
        out.setdefault(row["question_id"], []).append(row)
    return out


def _rows(data: Path, name: str) -> list[Row]:
    path = data / f"gsm8k_{name}.jsonl.gz"
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not in {data}: give the folder that holds the GSM8K files.")
    frame = pd.read_json(path, lines=True, dtype=False)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
