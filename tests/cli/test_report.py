"""``ggmi report``: three words for a page, one line for what is wrong."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ggmi_callbacks.cli import app
from tests.report._ledgers import known


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture
def ledger(tmp_path):
    known().to_parquet(tmp_path / "ledger.parquet")
    return tmp_path / "ledger.parquet"


def test_a_ledger_and_its_data_make_a_page(ledger, tmp_path):
    rows = [json.dumps({"question": f"question {i}", "answer": f"answer {i}"}) for i in range(8)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    output = tmp_path / "new" / "gain.html"
    result = run(ledger, "-o", output, "--data", tmp_path / "data.jsonl", "--title", "My data")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Wrote {output} (")
    page = output.read_text(encoding="utf-8")
    assert "<h1>My data</h1>" in page
    assert "answer 3" in page


def test_what_is_wrong_is_one_line_and_exit_code_2(ledger, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"text": "one"}\n')
    for arguments, words in [
        ((tmp_path / "none.parquet",), "there is no file"),
        ((ledger, "--data", tmp_path / "few.jsonl"), "`texts` has no row for sample"),
        ((ledger, "--data", tmp_path / "none.jsonl"), "there is no file"),
        ((ledger, "-o", tmp_path), "Is a directory"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
