"""Real text for the study of scorers: what a base model reads, anchors, and good answers spoilt in six ways.

Reads the files `text_novels`, `text_peps`, `text_wikitext2_eval`, `dolly_3k`, `gsm8k_train`, `gsm8k_test` and
`gsm8k_model_solutions` (`.jsonl.gz`) of one folder.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import NamedTuple

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "study"))
from spoil import plain, spoil

ANCHORS = 128
KINDS = (
    "other domain",
    "shuffled words",
    "repeated lines",
    "answer to another question",
    "wrong answer",
    "truncated",
)


class Pools(NamedTuple):
    """Frames of `prompt` and `completion`; `fresh` and `stream` also have `kind`, "good" or one of :data:`KINDS`.

    What stands in their column `siblings` are the other solvers' answers to the same question, a list of texts.
    """

    anchors: pd.DataFrame
    fresh: pd.DataFrame  # scored, never trained on
    stream: pd.DataFrame  # trained on
    heldout: pd.DataFrame  # human answers


def reading(data: Path) -> list[str]:
    """Passages to pre-train on: novels, technical documents, an encyclopedia and instructions; no arithmetic."""
    passages = [text for name in ("text_novels", "text_peps", "text_wikitext2_eval") for text in _read(data, name).text]
    dolly = _read(data, "dolly_3k")
    answers = [_prompt(q) + a for q, a in zip(dolly.instruction, dolly.output, strict=True)]
    return passages + answers


def pools(data: Path, seed: int, fresh: int = 150) -> Pools:
    """Draw the pools; questions are disjoint between them.

    Args:
        data: the folder.
        seed: of every draw.
        fresh: samples of each kind to score; of good ones twice as many.

    """
    draw = Random(seed)
    train, test, made = (_read(data, f"gsm8k_{name}") for name in ("train", "test", "model_solutions"))
    made["solution"] = [re.sub(r"^A: ", "#### ", plain(s), flags=re.MULTILINE) for s in made.solution]
    questions = sorted(set(test.question_id))
    draw.shuffle(questions)
    third = len(questions) // 3
    to_score, to_train, unseen = set(questions[:third]), set(questions[third : 2 * third]), set(questions[2 * third :])
    passages = _read(data, "text_peps").text.tolist()[-400:]
    stream = _spoilt(made[made.question_id.isin(to_train)], passages, draw)
    scored = _spoilt(made[made.question_id.isin(to_score)], passages, draw)
    scored = pd.concat([g.head(2 * fresh if kind == "good" else fresh) for kind, g in scored.groupby("kind")])
    good, bad = stream[stream.kind == "good"], stream[stream.kind != "good"]
    bad = bad.groupby("kind").head(len(good) // 7)  # 46 % of the stream
    return Pools(
        _pairs(train.sample(ANCHORS, random_state=seed)),
        scored.reset_index(drop=True),
        pd.concat([good, bad]).sample(frac=1, random_state=seed, ignore_index=True),
        _pairs(test[test.question_id.isin(unseen)]),
    )


def _spoilt(made: pd.DataFrame, passages: list[str], draw: Random) -> pd.DataFrame:
    """Each correct answer as it is, and spoilt in one way, in turn; wrong ones as they are."""
    correct, wrong = made[made.is_correct], made[~made.is_correct]
    rows = defaultdict(list)
    for kind, part in (("good", correct), ("wrong answer", wrong.sample(frac=1, random_state=draw.randrange(2**31)))):
        rows[kind] = [(*row, row[1]) for row in zip(part.question, part.solution, strict=True)]
    good = list(rows["good"])
    draw.shuffle(good)
    for i, (question, solution, _) in enumerate(good):
        other = good[(i + 1) % len(good)][1]
        repeated = spoil(solution, "repeated lines", other, draw)
        begin = draw.randrange(800)
        rows["other domain"].append((question, draw.choice(passages)[begin : begin + len(solution)], solution))
        rows["shuffled words"].append((question, spoil(solution, "shuffled words", other, draw), solution))
        rows["repeated lines"].append((question, repeated, solution))
        for kind in ("answer to another question", "truncated"):
            rows[kind].append((question, spoil(solution, kind, other, draw), solution))
    order = [(q, a, origin, kind) for kind, found in rows.items() for q, a, origin in found]
    table = pd.DataFrame(order, columns=["question", "completion", "origin", "kind"])
    answers = made.groupby("question").solution.agg(list)
    table["siblings"] = [_without(answers[q], origin) for q, origin in zip(table.question, table.origin, strict=True)]
    table["prompt"] = table.question.map(_prompt)
    return table.sample(frac=1, random_state=draw.randrange(2**31))[["prompt", "completion", "kind", "siblings"]]


def _without(answers: list[str], one: str) -> list[str]:
    place = answers.index(one)
    return answers[:place] + answers[place + 1 :]


def _pairs(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"prompt": rows.question.map(_prompt), "completion": rows.answer.map(plain)}, dtype=object)


def _prompt(question: str) -> str:
    return f"Question: {question}\nAnswer:\n"


def _read(data: Path, name: str) -> pd.DataFrame:
    return pd.read_json(data / f"{name}.jsonl.gz", lines=True)
