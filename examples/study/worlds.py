"""Where methods are compared: a student, synthetic data whose faults are known, and real data to judge by.

    embedded            answers of a small generator to word problems; two of three are wrong, as its checker finds
    embedded-0, -30     the same answers, of which 0 % and 30 % are wrong; the right ones are all there
    injected-0, -30, -60    the right answers alone, of which so many are spoilt in one of four ways
    problems            the same answers to 160 of the word problems, for a pre-trained student
    solutions           GSM8K solutions by four solvers to each of 160 questions, for a pre-trained student
    programs            two programs for each of 160 questions of GSM8K, for a pre-trained student
    targeted            GSM8K solutions by four solvers among instructions, programs and prose; anchors from GSM8K; what
                        counts as right is what is of the task

The embedded world takes minutes to make, so a folder keeps it for each seed. The others are drawn from it, or from the
real data sets, whenever they are asked for, and always alike.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gsm8k
import numpy as np
import pandas as pd
import reading
import smollm2
from datasets import Dataset
from gsm8k import Row, Sets
from sft_gain import ANCHORS, Study, embedded_study
from spoil import plain, spoilt
from word_problems import is_right_by

SETS = ("anchors", "synthetic", "heldout")
TASK, OTHERS = 600, {"instructions": 250, "programs": 150, "novels": 100, "manuals": 100}
"""Samples of the targeted world: of the task, and of what has nothing to do with it."""
FEW, ASKED, HELD = 64, 160, 150
"""Anchors, questions and held-out questions of the word problems for a pre-trained student."""


@dataclass(frozen=True)
class Training:
    """How a student is fine-tuned, and the shadow beside it."""

    rate: float
    warmup: int = 0
    """Steps in which the rate rises."""
    layers: int | None = None
    """Only the last so many are trained, and no embeddings; None for everything."""
    bf16: bool = False
    shadow_epochs: int = 5


SMALL = Training(1e-3)
PRETRAINED = Training(5e-4, warmup=2, layers=10, bf16=True, shadow_epochs=1)
"""For SmolLM2. A step costs two fifths of one that trains all 30 layers."""


@dataclass
class World(Study):
    """One seed of a world.

    ``synthetic`` has the columns ``prompt``, ``completion``, ``source`` and ``right``, and ``kind`` where there are
    several kinds of badness; the other sets have prompts and completions. ``elsewhere`` is real text of other tasks.
    """

    elsewhere: Dataset | None = None
    training: Training = SMALL
    steps: int | None = None
    """Optimiser steps of one pass, where that is not all of the data."""
    spans: reading.Spans | None = None
    """Finds what the student is to guess in a held-out completion."""


def load(name: str, seed: int, folder: Path, data: Path | None = None, base: Path | None = None) -> World:
    """The world ``name``.

    Args:
        name: as above.
        seed: of everything in it.
        folder: of embedded worlds, which are made if they are not there.
        data: folder of the real data sets, for ``solutions``, ``programs`` and ``targeted``.
        base: folder of the model that is fine-tuned on these and on ``problems``.

    """
    kind, _, percent = name.partition("-")
    if kind in ("embedded", "injected"):
        sets, student = _embedded(seed, folder)
        if kind == "injected":
            sets["synthetic"] = spoilt([row for row in sets["synthetic"] if row["right"]], int(percent) / 100, seed)
        elif percent:
            sets["synthetic"] = with_wrong(sets["synthetic"], int(percent) / 100, seed)
        return _world(sets, student, judge=is_right_by)
    if base is None or (data is None and kind != "problems"):
        raise SystemExit(f"world {name!r} is of real data, for a model of yours: give --data and --base.")
    if kind == "problems":
        return _world(_problems(seed, folder), base, steps=24, judge=is_right_by, spans=reading.results)
    if kind == "solutions":
        return _world(gsm8k.solutions(data, seed), base, steps=10, spans=reading.results)
    if kind == "programs":
        return _world(gsm8k.programs(data, seed), base, steps=10, spans=reading.computed)
    if kind == "targeted":
        return _world(_targeted(data, seed), base)
    raise SystemExit(f"there is no world {name!r}: embedded, injected, problems, solutions, programs or targeted.")


def _world(sets: Sets, student: Path, **more: Any) -> World:
    """The world of ``sets``, for the student in a folder."""
    model, tokenizer = smollm2.load(str(student))
    training = SMALL if model.num_parameters() < 1e7 else PRETRAINED
    data = {part: Dataset.from_list(rows) for part, rows in sets.items()}
    return World(model, tokenizer, **data, source="source", label="right", training=training, **more)


def _embedded(seed: int, folder: Path) -> tuple[Sets, Path]:
    """The sets of the embedded world and the folder of its student, made if they are not there."""
    place = folder / f"embedded-{seed}"
    if not (place / "done").exists():
        settings = {"model": "llama-1m", "tokenizer": None, "limit": None, "seed": seed, "output": place}
        training = {"batch_size": 8, "epochs": 1, "learning_rate": 1e-3, "max_length": 512}
        place.mkdir(parents=True, exist_ok=True)
        study = embedded_study(argparse.Namespace(**settings, **training))
        study.model.save_pretrained(place / "student")
        study.tokenizer.save_pretrained(place / "student")
        for part in SETS:
            (place / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in getattr(study, part)))
        (place / "done").touch()
    lines = {part: (place / f"{part}.jsonl").read_text().splitlines() for part in SETS}
    return {part: [json.loads(line) for line in lines[part]] for part in SETS}, place / "student"


def _problems(seed: int, folder: Path) -> Sets:
    """The embedded world's answers to some of its questions."""
    sets, _ = _embedded(seed, folder)
    questions = sorted({row["prompt"] for row in sets["synthetic"]})
    asked = set(np.random.default_rng(seed).choice(questions, ASKED, replace=False))
    rows = [row for row in sets["synthetic"] if row["prompt"] in asked]
    return {"anchors": sets["anchors"][:FEW], "synthetic": rows, "heldout": sets["heldout"][:HELD]}


def with_wrong(synthetic: list[Row], share: float, seed: int) -> list[Row]:
    """All right answers, with so many wrong ones that these are ``share`` of the set."""
    right = np.array([row["right"] for row in synthetic])
    count = round(right.sum() * share / (1 - share))
    wrong = np.random.default_rng(seed).choice(np.flatnonzero(~right), count, replace=False)
    return [synthetic[i] for i in np.sort(np.concatenate([np.flatnonzero(right), wrong]))]


def _targeted(data: Path, seed: int) -> Sets:
    """GSM8K solutions to some of the test questions among other text; human ones to a third of them, held out."""
    draw = np.random.default_rng(seed)
    train, test, made, dolly, code, novels, manuals = (
        pd.read_json(data / f"{name}.jsonl.gz", lines=True)
        for name in (
            *("gsm8k_train", "gsm8k_test", "gsm8k_model_solutions"),
            *("dolly_3k", "code_mbpp_sanitized", "text_novels", "text_peps"),
        )
    )
    questions = draw.permutation(test.question_id.unique())
    seen, held = questions[: TASK // 4], questions[-len(questions) // 3 :]  # four answers to a question
    made = made[made.question_id.isin(seen)]
    dolly, code = dolly.sample(frac=1, random_state=seed), code.sample(frac=1, random_state=seed)
    other = {
        "instructions": pairs(dolly.instruction[: OTHERS["instructions"]], dolly.output),
        "programs": pairs(code.prompt[: OTHERS["programs"]], code.canonical_solution),
        "novels": _continued(novels.text, OTHERS["novels"], seed),
        "manuals": _continued(manuals.text, OTHERS["manuals"], seed),
    }
    task = pairs(made.question, [plain(s).replace("A: ", "#### ") for s in made.solution])
    rows = [{**row, "source": solver, "right": True} for row, solver in zip(task, made.solver, strict=True)]
    rows += [{**row, "source": source, "right": False} for source, found in other.items() for row in found]
    unseen = test[test.question_id.isin(held)]
    humans = train.sample(ANCHORS, random_state=seed)
    elsewhere = pairs(dolly.instruction[-150:], dolly.output[-150:]) + _continued(novels.text, 150, seed + 1000)
    return {
        "anchors": pairs(humans.question, humans.answer.map(plain)),
        "synthetic": [rows[i] for i in draw.permutation(len(rows))],
        "heldout": pairs(unseen.question, unseen.answer.map(plain)),
        "elsewhere": elsewhere,
    }


def pairs(prompts: pd.Series, completions: pd.Series | list[str]) -> list[dict[str, str]]:
    """Rows of a question and an answer, as many as there are ``prompts``."""
    both = zip(list(prompts), list(completions)[: len(prompts)], strict=True)
    return [{"prompt": f"Question: {prompt}\nAnswer:\n", "completion": answer} for prompt, answer in both]


def _continued(passages: pd.Series, count: int, seed: int) -> list[dict[str, str]]:
    """Passages of text, their beginning as the prompt."""
    chosen = passages[passages.str.len() > 800].sample(count, random_state=seed)
    cuts = [text.find(" ", 120) for text in chosen]  # a word is not cut
    return [{"prompt": text[:cut], "completion": text[cut : cut + 400]} for text, cut in zip(chosen, cuts, strict=True)]
