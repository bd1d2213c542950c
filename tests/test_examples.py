"""The worked examples: the task and its checker, the reading of data, and the whole pipeline at its smallest."""

from __future__ import annotations

import doctest
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

pytest.importorskip("trl")
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield
    for name in (
        "word_problems",
        "read_data",
        "small_model",
        "sft_report",
        "sft_gain",
        "gsm8k_split",
        "self_training",
        "dpo_gain",
        "grpo_gain",
    ):
        sys.modules.pop(name, None)


@pytest.fixture
def problems():
    from word_problems import VOLUME_ONE, VOLUME_TWO, make_problems

    return make_problems(1500, VOLUME_ONE, 0) + make_problems(1500, VOLUME_TWO, 1)


class TestTask:
    def test_the_checker_accepts_every_written_solution(self, problems):
        from word_problems import is_right

        assert all(is_right(p.solution, p.answer) for p in problems)

    def test_thousands_of_questions_are_distinct(self, problems):
        assert len({p.question for p in problems}) == len(problems) == 3000

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda text: re.sub(r"#### (\d+)$", lambda m: f"#### {int(m[1]) + 1}", text),  # another answer
            lambda text: re.sub(r">>(\d+)", lambda m: f">>{int(m[1]) + 1}", text, count=1),  # said otherwise
            lambda text: re.sub(
                r"=(\d+)>>\d+", lambda m: f"={int(m[1]) + 1}>>{int(m[1]) + 1}", text, count=1
            ),  # a slip
            lambda text: text.replace("<<", "<", 1),  # a mark broken
            lambda text: text.replace(">>", ">", 1),
            lambda text: text.rsplit("\n", 1)[0],  # no last line
            lambda text: text + "\nand so on",
            lambda text: text.rsplit("\n", 1)[1],  # no working
        ],
    )
    def test_the_checker_finds_every_kind_of_error(self, problems, spoil):
        from word_problems import is_right

        assert not any(is_right(spoil(p.solution), p.answer) for p in problems)

    def test_an_uneven_division_is_wrong_whatever_its_quotient(self):
        from word_problems import is_right

        assert is_right("<<8/2=4>>4\n#### 4", 4)
        assert not is_right("<<9/2=4>>4\n#### 4", 4)
        assert not is_right("<<9/0=0>>0\n#### 0", 0)

    def test_docstring_examples_run(self):
        import word_problems

        assert doctest.testmod(word_problems) == (0, 3)


def write(path: Path, rows: list[dict]) -> str:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


class TestReading:
    def test_usual_column_names_become_prompt_and_completion(self, tmp_path):
        from read_data import read

        rows = [{"question": "1+1?", "answer": "2", "id": 7}, {"question": "1+2?", "answer": "3", "id": 8}]
        data = read("--anchors", write(tmp_path / "a.jsonl.gz", rows))
        assert data[0] == {"prompt": "1+1?\n", "completion": "2"}

    def test_parquet_gives_what_json_gives(self, tmp_path):
        from read_data import read

        rows = [{"instruction": "Add", "input": "1 1", "output": "2", "by": "me"}]
        pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
        left = read("--synthetic", str(tmp_path / "a.parquet"), keep=["by"])
        right = read("--synthetic", write(tmp_path / "a.jsonl", rows), keep=["by"])
        assert left.to_list() == right.to_list() == [{"by": "me", "prompt": "Add\n1 1\n", "completion": "2"}]

    @pytest.mark.parametrize(
        "row",
        [
            {"text": "1 and 1 is 2"},
            {"prompt": "1+1?", "completion": "2"},
            {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]},
        ],
    )
    def test_forms_that_the_trainer_knows_pass_unchanged(self, tmp_path, row):
        from read_data import read

        assert read("--heldout", write(tmp_path / "a.jsonl", [row | {"extra": 1}])).to_list() == [row]

    def test_a_file_may_name_its_column_differently_from_the_others(self, tmp_path):
        from read_data import read

        one = read("--a", write(tmp_path / "a.jsonl", [{"question": "q", "reply": "r"}]), columns=(None, "reply"))
        other = read("--b", write(tmp_path / "b.jsonl", [{"question": "q", "answer": "r"}]), columns=(None, "reply"))
        assert one.to_list() == other.to_list()

    @pytest.mark.parametrize(
        ("name", "row", "message"),
        [
            (
                "a.jsonl",
                {"question": "q", "answer": "a", "solution": "s"},
                "--x: columns answer and solution could",
            ),
            ("a.jsonl", {"question": "q", "reply": "r"}, "--x: found none of .* Say which with --completion-column"),
            ("a.csv", {"question": "q", "answer": "a"}, "--x .*a.csv: the file is not JSONL or Parquet"),
        ],
    )
    def test_unreadable_data_is_refused_by_the_argument_that_gave_it(self, tmp_path, name, row, message):
        from read_data import read

        with pytest.raises(SystemExit, match=message):
            read("--x", write(tmp_path / name, [row]))

    def test_missing_files_and_columns_are_refused(self, tmp_path):
        from read_data import read

        with pytest.raises(SystemExit, match=r"--x .*none.jsonl: the file is not there"):
            read("--x", str(tmp_path / "none.jsonl"))
        with pytest.raises(SystemExit, match="there is no column 'source', only question, answer"):
            read("--x", write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}]), keep=["source"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--anchors a.jsonl", "--anchors alone is not enough"),
        ("--source solver", "describe data of yours"),
        ("--keep 1.5", "--keep is the share"),
        ("--keep 0.5 --policy reweight", "--keep is the share"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(arguments, message, capsys):
    from sft_gain import parse

    with pytest.raises(SystemExit):
        parse(arguments.split())
    assert message in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_is_refused_by_name(tmp_path):
    from small_model import load_model

    with pytest.raises(SystemExit, match=r"(?s)--model .*nowhere.* or a preset: llama-0.5m"):
        load_model(str(tmp_path / "nowhere"), None, [], 0)


@pytest.mark.slow
def test_the_pipeline_runs_on_its_own_and_then_on_files(tmp_path, capsys):
    """The main job at its smallest: from nothing but what it wrote itself, then with its student on files."""
    import sft_gain

    own = tmp_path / "own"
    sft_gain.main(["--model", "llama-0.5m", "--limit", "16", "--policy", "monitor", "--output", str(own)])
    printed = capsys.readouterr().out
    for what in ("T=0.3", "T=1.4", "held-out real samples", "I(S_anchor; W')", "GGMI"):
        assert what in printed
    assert pq.read_table(own / "ledger.parquet").num_rows == 4 * 16

    question = {"question": "Ann has 2 pens and finds 3. How many?"}
    human = [question | {"answer": f"She has <<2+3=5>>5.\n#### {i}"} for i in range(12)]
    made = [question | {"solution": f"<<2+3={i}>>{i}\n#### {i}", "by": "AB"[i % 2], "good": i == 5} for i in range(16)]
    data = ["--anchors", write(tmp_path / "h.jsonl", human), "--heldout", write(tmp_path / "e.jsonl", human)]
    data += ["--synthetic", write(tmp_path / "s.jsonl.gz", made), "--model", str(own / "student")]
    told = ["--source", "by", "--label", "good"]
    for policy, *more in (["filter", "--keep", "0.5", *told], ["reweight", *told], ["monitor"]):
        out = tmp_path / policy
        sft_gain.main([*data, "--output", str(out), "--policy", policy, *more])
        assert policy.capitalize() in capsys.readouterr().out
        table = pq.read_table(out / "ledger.parquet")
        assert {"step", "id", "source", "gain", "weight", "kept"} <= set(table.column_names)
        assert set(table["source"].to_pylist()) == ({"A", "B"} if more else {None})
        assert (out / "gain.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "student" / "config.json").exists()


@pytest.mark.slow
def test_self_training_goes_on_from_the_round_that_it_had_reached(tmp_path, capsys):
    import self_training

    arguments = ["--quick", "--output", str(tmp_path), "--arms", "everything"]
    self_training.main([*arguments, "--rounds", "1"])
    first = (tmp_path / "cells" / "0--everything--1.json").stat().st_mtime_ns
    self_training.main(arguments)
    assert (tmp_path / "cells" / "0--everything--1.json").stat().st_mtime_ns == first
    table = pd.read_csv(tmp_path / "rounds.csv")
    assert table["round"].tolist() == [0, 1, 2]
    assert table.loc[1:, ["right", "kept", "nats", "shared_information"]].notna().all(axis=None)
    assert (tmp_path / "rounds.png").read_bytes().startswith(b"\x89PNG")
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_the_rollout_example_shows_what_groups_without_signal_cost(tmp_path, capsys):
    import grpo_gain

    grpo_gain.main(["--quick", "--output", str(tmp_path)])
    table = pd.read_csv(tmp_path / "grpo.csv", index_col="run")
    assert table.index.tolist() == ["start", *grpo_gain.RUNS]
    assert table.loc["Filter()", "groups_without_signal"] == 1.0  # a model that has read so little is never right
    assert "seconds_saved" in capsys.readouterr().out


@pytest.mark.slow
def test_the_script_says_what_it_cannot_read(tmp_path):
    files = ["--anchors", "a.jsonl", "--synthetic", "b.jsonl", "--heldout", "c.jsonl"]
    command = [sys.executable, str(EXAMPLES / "sft_gain.py"), *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "--anchors a.jsonl: the file is not there" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_pairs_of_a_judge_who_errs_are_told_from_the_others(tmp_path, capsys):
    import dpo_gain

    dpo_gain.main(["--quick", "--output", str(tmp_path)])
    rows = re.findall(r"^\| Filter\(\) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", capsys.readouterr().out, re.M)
    (mistaken, right, wrong) = map(float, rows[0])
    assert mistaken < 0.3
    assert wrong < right


def test_the_gsm8k_split_keeps_the_halves_apart(tmp_path):
    import gsm8k_split

    test = [{"question_id": f"t{i}", "question": f"{i}?", "answer": f"#### {i}"} for i in range(10)]
    train = [{"question_id": f"a{i}", "question": f"{i}!", "answer": f"#### {i}"} for i in range(200)]
    made = [{**row, "solver": by, "solution": "so\nA: 1", "is_correct": True} for row in test for by in "xy"]
    for name, rows in (("train", train), ("test", test), ("model_solutions", made)):
        write(tmp_path / f"gsm8k_{name}.jsonl.gz", rows)
    gsm8k_split.main(["--data", str(tmp_path), "--output", str(tmp_path)])
    anchors, synthetic, heldout = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("anchors", "synthetic", "heldout")
    )
    assert len(anchors) == 128
    assert len(synthetic) == 2 * len(heldout) == 10
    assert not {row["question"] for row in synthetic} & {row["question"] for row in heldout}
    assert {row["solution"] for row in synthetic} == {"so\n#### 1"}


def test_the_trainer_example_logs_losses_and_gains_by_source(tmp_path):
    command = [sys.executable, str(EXAMPLES / "trainer_gain.py"), "--samples", "48", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert re.search(r"ggmi/kept/shuffled +0\.\d+\nggmi/kept/whole +[01]\.\d+\nggmi/nll/shuffled", done.stdout)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert {"train/ggmi/nll/whole", "train/ggmi/gain/shuffled"} <= set(events.Tags()["scalars"])
    assert "eval/ggmi/nll/whole" in events.Tags()["scalars"]
