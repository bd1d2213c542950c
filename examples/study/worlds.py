"""Where methods are compared: a student, synthetic data whose faults are known, and real data to judge by.

    embedded           answers of a small generator to word problems; two of three are wrong, as its checker finds
    embedded-0, -30    the same answers, of which 0 % and 30 % are wrong; the right ones are all there
    targeted           GSM8K solutions by four solvers among instructions, programs and prose; anchors from GSM8K; what
                       counts as right is what is of the task: the student is too small to tell a wrong sum

A world is made once for each seed and kept in a folder, in the files that ``save_pretrained`` and ``to_json`` write.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset
from sft_gain import ANCHORS, Study, embedded_study
from transformers import AutoModelForCausalLM, AutoTokenizer
from word_problems import is_right_by

SETS = ("anchors", "synthetic", "heldout", "elsewhere")
TASK, OTHERS = 600, {"instructions": 250, "programs": 150, "novels": 100, "manuals": 100}
"""Samples of the targeted world: of the task, and of what has nothing to do with it."""


@dataclass
class World(Study):
    """One seed of a world.

    ``synthetic`` has the columns ``prompt``, ``completion``, ``source`` and ``right``; the other sets have prompts and
    completions. ``elsewhere`` is real text of other tasks.
    """

    elsewhere: Dataset | None = None


def load(name: str, seed: int, folder: Path, data: Path | None = None, base: Path | None = None) -> World:
    """The world ``name``, made if ``folder`` does not hold it.

    Args:
        name: ``embedded``, ``embedded-<percent wrong>`` or ``targeted``.
        seed: of everything in it.
        folder: of all worlds.
        data: folder of the real data sets, for ``targeted``.
        base: folder of the model that is fine-tuned on them.

    """
    kind, _, percent = name.partition("-")
    place = folder / f"{kind}-{seed}"
    if not (place / "done").exists():
        _make(kind, seed, place, data, base)
        (place / "done").touch()
    sets = {part: _read(place / f"{part}.jsonl") for part in SETS}
    if percent:
        sets["synthetic"] = with_wrong(sets["synthetic"], int(percent) / 100, seed)
    return World(
        AutoModelForCausalLM.from_pretrained(place / "student"),
        AutoTokenizer.from_pretrained(place / "student"),
        **sets,
        source="source",
        label="right",
        judge=is_right_by if kind == "embedded" else None,
    )


def with_wrong(synthetic: Dataset, share: float, seed: int) -> Dataset:
    """All right answers, with so many wrong ones that these are ``share`` of the set."""
    right = np.array(synthetic["right"], dtype=bool)
    count = round(right.sum() * share / (1 - share))
    wrong = np.random.default_rng(seed).choice(np.flatnonzero(~right), count, replace=False)
    return synthetic.select(np.sort(np.concatenate([np.flatnonzero(right), wrong])))


def _make(kind: str, seed: int, place: Path, data: Path | None, base: Path | None) -> None:
    place.mkdir(parents=True, exist_ok=True)
    if kind == "embedded":
        settings = {"model": "llama-1m", "tokenizer": None, "limit": None, "seed": seed, "output": place}
        training = {"batch_size": 8, "epochs": 1, "learning_rate": 1e-3, "max_length": 512}
        study = embedded_study(argparse.Namespace(**settings, **training))
        model, tokenizer = study.model, study.tokenizer
        sets = {"anchors": study.anchors, "synthetic": study.synthetic, "heldout": study.heldout, "elsewhere": None}
    elif kind == "targeted":
        if data is None or base is None:
            raise SystemExit("the targeted world is made of real data: give --data and --base.")
        model = AutoModelForCausalLM.from_pretrained(base)
        tokenizer = AutoTokenizer.from_pretrained(base)
        sets = _targeted(data, seed)
    else:
        raise SystemExit(f"there is no world {kind!r}: embedded, embedded-<percent wrong> or targeted.")
    model.save_pretrained(place / "student")
    tokenizer.save_pretrained(place / "student")
    for part in SETS:
        rows = [] if sets[part] is None else list(sets[part])
        (place / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read(path: Path) -> Dataset | None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return Dataset.from_list(rows) if rows else None


def _targeted(data: Path, seed: int) -> dict[str, Dataset]:
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
        "anchors": Dataset.from_list(pairs(humans.question, humans.answer.map(plain))),
        "synthetic": Dataset.from_list([rows[i] for i in draw.permutation(len(rows))]),
        "heldout": Dataset.from_list(pairs(unseen.question, unseen.answer.map(plain))),
        "elsewhere": Dataset.from_list(elsewhere),
    }


def pairs(prompts: pd.Series, completions: pd.Series | list[str]) -> list[dict[str, str]]:
    """Rows of a question and an answer, as many as there are ``prompts``."""
    both = zip(list(prompts), list(completions)[: len(prompts)], strict=True)
    return [{"prompt": f"Question: {prompt}\nAnswer:\n", "completion": answer} for prompt, answer in both]


def plain(answer: str) -> str:
    """A GSM8K solution without the calculator's marks."""
    parts = answer.split("<<")
    return parts[0] + "".join(part.partition(">>")[2] for part in parts[1:])


def _continued(passages: pd.Series, count: int, seed: int) -> list[dict[str, str]]:
    """Passages of text, their beginning as the prompt."""
    chosen = passages[passages.str.len() > 800].sample(count, random_state=seed)
    cuts = [text.find(" ", 120) for text in chosen]  # a word is not cut
    return [{"prompt": text[:cut], "completion": text[cut : cut + 400]} for text, cut in zip(chosen, cuts, strict=True)]
