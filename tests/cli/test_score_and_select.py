"""From a JSONL file to a selected one, as a person would do it; and all that is refused in one line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ggmi_callbacks import ColumnScorer, __version__, score
from ggmi_callbacks.cli import app

from .._sums import sums
from ._program import ggmi

ROWS = [{**row, "note": "Zoë", "worth": (7 * i) % 10} for i, row in enumerate(sums(10))]
LINES = [json.dumps(row, ensure_ascii=i % 2 == 0, separators=(",", " : ")) for i, row in enumerate(ROWS)]


@pytest.fixture
def folder(tmp_path, tokenizer, make_model):
    """A model folder, anchors, made rows, and a file of their scores by a column."""
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "made.jsonl").write_text("\n\n".join(LINES))  # lines of every kind of white space
    (tmp_path / "human.jsonl").write_text("\n".join(json.dumps(row) for row in sums(12, seed=1, bad=False)))
    score(
        "none", tmp_path / "made.jsonl", scorer=ColumnScorer("worth", threshold=4), tokenizer=tokenizer,
        source="source", output=tmp_path / "scored.parquet",
    )  # fmt: skip
    return tmp_path


def run(*arguments, folder, code=0):
    """The program in this process: quick, and without pipes of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_three_commands_from_rows_to_the_rows_that_are_kept(folder):
    command = ["score", "made.jsonl", "--anchors", "human.jsonl", "--model", "model", "-o", "gain.parquet"]
    scored = ggmi(*command, "--source", "source", "--learning-rate", "1e-2", "--json", folder=folder)
    assert scored.returncode == 0, scored.stderr
    numbers = json.loads(scored.stdout)
    assert [row["source"] for row in numbers["sources"]] == ["right", "wrong", "all"]
    assert "GGMI scores" in scored.stderr  # the progress bar
    kept = ggmi("select", "gain.parquet", "--data", "made.jsonl", "--keep", ".5", "-o", "kept.jsonl", folder=folder)
    assert kept.stdout == "Kept 5 of 10 rows (10 with a score).\n"
    assert {json.loads(line)["source"] for line in (folder / "kept.jsonl").read_text().splitlines()} == {"right"}


def test_kept_lines_are_those_of_the_file_byte_by_byte(folder):
    run("select", "scored.parquet", "-d", "made.jsonl", "--above", "3", "-o", "kept.jsonl", folder=folder)
    wanted = [line for row, line in zip(ROWS, LINES, strict=True) if row["worth"] > 7]
    assert (folder / "kept.jsonl").read_text().splitlines() == wanted
    run("select", "scored.parquet", "-d", "made.jsonl", "--above", "3", "-o", "kept.jsonl.gz", folder=folder)
    assert gzip.decompress((folder / "kept.jsonl.gz").read_bytes()) == (folder / "kept.jsonl").read_bytes()


def test_a_share_is_taken_of_all_or_of_each_source(folder):
    def kept(*how):
        result = run("select", "scored.parquet", "-d", "made.jsonl", *how, "-o", "-", folder=folder)
        rows = [json.loads(line) for line in result.stdout.splitlines()]
        assert f"Kept {len(rows)} of 10 rows (10 with a score)." in result.stderr
        return [row["worth"] for row in rows]

    assert kept("--keep", ".3") == [7, 8, 9]
    assert kept("--keep", ".3", "--within", "source") == [7, 8, 9, 6]  # two of five each, in the order of the rows
    assert kept("--keep", ".3", "--above", "4.5") == [9]


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_rows_of_other_files_keep_their_form(form, folder, tokenizer):
    name = folder / f"other.{form}"
    if form == "json":
        name.write_text(json.dumps(ROWS))
    else:
        schema = pa.table(pa.Table.from_pylist(ROWS)).schema.set(4, pa.field("worth", pa.int8()))
        pq.write_table(pa.Table.from_pylist(ROWS, schema=schema), name)
    score("none", name, scorer=ColumnScorer("worth", threshold=4), tokenizer=tokenizer, output=folder / "o.parquet")
    run("select", "o.parquet", "-d", name, "--above", "0", "-o", f"kept.{form}", folder=folder)
    kept = [row for row in ROWS if row["worth"] > 4]
    if form == "json":
        assert json.loads((folder / "kept.json").read_text()) == kept
    else:
        table = pq.read_table(folder / "kept.parquet")
        assert table.to_pylist() == kept
        assert table.schema == schema
    run("select", "o.parquet", "-d", name, "--above", "0", "-o", "kept.jsonl", folder=folder)
    assert [json.loads(line) for line in (folder / "kept.jsonl").read_text().splitlines()] == kept


@pytest.mark.slow
def test_a_closed_pipe_is_quiet(folder):
    rows = [{"text": f"Tom has {i % 9} red balls " * 40, "worth": 1.0} for i in range(2000)]
    (folder / "many.jsonl").write_text("\n".join(map(json.dumps, rows)))
    score(
        "none", folder / "many.jsonl", scorer=ColumnScorer("worth"), tokenizer=str(folder / "model"),
        output=folder / "many.parquet",
    )  # fmt: skip
    command = f"{sys.executable} -m ggmi_callbacks select many.parquet -d many.jsonl --keep 1 -o - | head -1"
    result = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True)
    assert json.loads(result.stdout) == rows[0]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("select scored.parquet -d made.jsonl -o kept.jsonl", "Error: `keep` and `above` are both missing"),
        ("select scored.parquet -d made.jsonl --keep 2 -o kept.jsonl", "Error: `keep` must be a share above 0"),
        ("select scored.parquet -d made.jsonl --above 99 -o kept.jsonl", "Error: none of 10 samples is kept: the best"),
        ("select scored.parquet -d made.jsonl --keep 1 --within by -o k.jsonl", "Error: `within` 'by' is not a column"),
        ("select scored.parquet -d human.jsonl --keep 1 -o kept.jsonl", "holds scores of 10 other rows than those of"),
        ("select scored.parquet -d made.jsonl --keep 1 -o kept.csv", "Error: --output 'kept.csv' must end in .jsonl,"),
        ("select scored.parquet -d made.jsonl --keep 1 -o ./made.jsonl", "is the data themselves: name another file"),
        ("select made.jsonl -d made.jsonl --keep 1 -o kept.jsonl", "Error: 'made.jsonl' is no file of scores"),
        ("select none.parquet -d made.jsonl --keep 1 -o kept.jsonl", "none.parquet"),
        ("score none.jsonl -m model -a human.jsonl -o new.parquet", "Error: `data`: there is no file 'none.jsonl'"),
        ("score made.jsonl -m model -o new.parquet", "Error: `anchors` are missing"),
        ("score made.jsonl -m model -a human.jsonl -o scored.parquet", "holds scores of another job; not the same are"),
        ("score made.jsonl -m model -o new.parquet --scorer loss", "Error: --scorer 'loss' is none of likelihood,"),
        (
            "score made.jsonl -m model -o new.parquet --scorer column:by",
            "Error: `column='by'`: the training set has no column 'by'",
        ),
        ("score made.jsonl -m model -o new.parquet --device gpu", "Error: expected --device to be a device that torch"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments, message, folder):
    result = run(*arguments.split(), folder=folder, code=2)
    assert isinstance(result.exception, SystemExit)  # no traceback
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Loading weights")]
    (line,) = [line for line in lines if line]
    assert line.startswith("Error: ")
    assert message in line
    assert result.stdout == ""
    assert not (folder / "new.parquet").exists()


def test_the_version_is_printed(tmp_path):
    assert run("--version", folder=tmp_path).stdout == f"ggmi-callbacks {__version__}\n"


def test_help_of_each_command_has_examples(tmp_path):
    for command in ("score", "select", "demo"):
        assert (
            f"Example{'s' * (command != 'demo')}:\n    ggmi {command}" in run(command, "--help", folder=tmp_path).stdout
        )


def test_the_demo_ends_with_the_gain_of_each_source(tmp_path):
    text = run("demo", folder=tmp_path).stdout
    assert [line.split()[0] for line in text.splitlines()[2:7]] == ["source", "good", "shuffled", "talk", "all"]
    rows = {row["source"]: row["gain"] for row in json.loads(run("demo", "--json", folder=tmp_path).stdout)["sources"]}
    assert rows["good"] > rows["shuffled"] > rows["talk"]
