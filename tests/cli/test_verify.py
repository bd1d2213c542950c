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


@pytest.mark.slow
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
    assert {"forward_gap", "reverse_gap", "ggmi_mixture", "slack", "a"} <= {row["quantity"] for row in rows}


def test_verify_in_eight_dimensions_has_no_histograms(tmp_path):
    run("verify", "--quick", "--repeats", "2", "--dimension", "8", "--output", tmp_path)
    rows = list(csv.DictReader((tmp_path / "verification.csv").read_text().splitlines()))
    assert {row["d"] for row in rows} == {"8"}
    assert not any(row["quantity"].startswith("histogram") for row in rows)


@pytest.mark.slow
def test_verify_language_writes_table_and_picture(tmp_path):
    output = run("verify-language", "--quick", "--output", tmp_path)
    assert "exact dI" in output
    assert (tmp_path / "language.png").read_bytes().startswith(PNG)
    rows = list(csv.DictReader((tmp_path / "language.csv").read_text().splitlines()))
    assert [row["copy"] for row in rows] == ["0"] * 4 + ["0.9"] * 4


def refused(*arguments: str) -> str:
    """The one line on stderr, without the computation having begun."""
    result = CliRunner().invoke(app, ["verify", "--quick", *map(str, arguments)])
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)  # no traceback
    (line,) = result.stderr.splitlines()
    assert result.stdout == ""
    return line


def test_an_output_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        line = refused("--output", path)
        assert line.startswith(f"Error: expected --output to be a folder, there already or to be made but got {path} (")
        assert line.endswith("; name another one.")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("seed", ["1e20", "100000000000000000000", "-1", "4294967296", "one"])
def test_a_seed_out_of_range_is_refused_in_one_line(seed, tmp_path):
    assert refused("--seed", seed, "--output", tmp_path) == (
        f"Error: expected --seed to be a whole number from 0 to 4294967295 but got {seed}; "
        "pass a smaller one, or none for 0."
    )


def test_the_largest_seed_runs(tmp_path):
    run("verify", "--quick", "--repeats", "2", "--seed", "4294967295", "--output", tmp_path)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "cuda"])
@pytest.mark.parametrize("command", ["verify", "verify-language"])
def test_an_unknown_or_absent_device_is_refused_in_one_line(device, command, tmp_path):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    result = CliRunner().invoke(app, [command, "--quick", "--device", device, "--output", str(tmp_path / "new")])
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: expected --device to be a device that torch can compute on here but got {device}; "
        "pass --device cpu, or none.\n"
    )
    assert not (tmp_path / "new").exists()


def test_help_lists_the_commands():
    output = run("--help")
    assert "verify" in output
    assert "verify-language" in output
