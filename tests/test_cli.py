import csv

import pytest
import torch
from typer.testing import CliRunner

from ggmi_callbacks.cli import app

PNG = b"\x89PNG\r\n"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_verify_writes_table_picture_and_findings_that_its_seed_determines(tmp_path):
    for folder, seed in (("first", 3), ("again", 3), ("other", 4)):
        output = run("verify", "--quick", "--repeats", "3", "--seed", seed, "--output", tmp_path / folder)
        assert "Baselines were not timed." in output
    first, again, other = ((tmp_path / f / "verification.csv").read_text() for f in ("first", "again", "other"))
    assert first == again != other
    assert (tmp_path / "first" / "verification.png").read_bytes().startswith(PNG)
    assert "| J | rises | jensen_shannon_gap |" in (tmp_path / "first" / "verification.md").read_text()
    rows = list(csv.DictReader(first.splitlines()))
    assert {(row["panel"], row["value"]) for row in rows} >= {("K", "2"), ("J", "15"), ("L", "8")}
    assert {"forward_gap", "reverse_gap", "ggmi_mixture", "slack", "a_star"} <= {row["quantity"] for row in rows}


def test_verify_in_eight_dimensions_has_no_histograms(tmp_path):
    run("verify", "--quick", "--repeats", "2", "--dimension", "8", "--output", tmp_path)
    rows = list(csv.DictReader((tmp_path / "verification.csv").read_text().splitlines()))
    assert {row["d"] for row in rows} == {"8"}
    assert not any(row["quantity"].startswith("histogram") for row in rows)


def test_verify_language_writes_table_and_picture(tmp_path):
    output = run("verify-language", "--quick", "--output", tmp_path)
    assert "exact dI" in output
    assert (tmp_path / "language.png").read_bytes().startswith(PNG)
    rows = list(csv.DictReader((tmp_path / "language.csv").read_text().splitlines()))
    assert [row["copy"] for row in rows] == ["0"] * 4 + ["0.9"] * 4


def test_help_lists_the_commands():
    output = run("--help")
    assert "verify" in output
    assert "verify-language" in output
