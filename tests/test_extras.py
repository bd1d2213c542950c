"""What lies behind extras: the package works without it, and what needs it says what to install."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ggmi_callbacks

ROOT = Path(ggmi_callbacks.__file__).parent
CORE = {"torch", "torchmetrics", "numpy", "scipy", "pyarrow", "tqdm"}
OPTIONAL = {"sklearn", "threadpoolctl", "matplotlib", "typer", "jinja2"}


BLOCK = """
import sys
if MISSING != ("typer",):
    import torchmetrics  # which itself imports scipy and matplotlib where they are installed
for name in list(sys.modules):
    if name.startswith(MISSING):
        del sys.modules[name]
for name in MISSING:
    sys.modules[name] = None
"""


def without(*modules: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which some modules are missing."""
    whole = f"MISSING = {modules!r}\n{BLOCK}\n{code}"
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("folder", ["functional", "metrics"])
def test_functions_and_metrics_import_nothing_optional(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used = {name.split(".")[0] for name in names} & OPTIONAL
            assert used <= ({"matplotlib"} if path.name == "_base.py" else set()), path  # inside `plot`


def test_intervals_copulas_and_verification_do_without_scikit_learn() -> None:
    code = """
import torch, ggmi_callbacks.verification
from ggmi_callbacks import functional, metrics
x, noise = torch.randn(2, 300)
functional.mutual_information(x, x + noise, confidence=0.9)
functional.noisy_mean_twin_information(5, 1.0, 0.1)
functional.total_variation_lower_bound(x[:, None], noise[:, None], confidence=0.9)
metrics.WeightInformation(confidence=0.9)(x, noise)
"""
    run = without("sklearn", "threadpoolctl", "typer", code=code)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("missing", "code", "message"),
    [
        ("typer", "import ggmi_callbacks.cli", "The command line needs typer: pip install 'ggmi-callbacks[cli]'"),
        (
            "sklearn",
            "import ggmi_callbacks.verification.baseline",
            "The timing of baselines needs sklearn: pip install 'ggmi-callbacks[verify]'",
        ),
        (
            "matplotlib",
            "import torch; from ggmi_callbacks.metrics import Gain; Gain().plot(torch.tensor(1.0))",
            "`plot` needs matplotlib: pip install 'ggmi-callbacks[plot]'",
        ),
        (
            "matplotlib",
            "from ggmi_callbacks import Ledger; Ledger().plot()",
            "`plot` needs matplotlib: pip install 'ggmi-callbacks[plot]'",
        ),
        (
            "jinja2",
            "import ggmi_callbacks as g; from ggmi_callbacks.report import report; report(g.Ledger(), 'gain.html')",
            "The report page needs jinja2: pip install 'ggmi-callbacks[report]'",
        ),
    ],
)
def test_what_needs_an_extra_names_it(missing: str, code: str, message: str) -> None:
    assert f"ImportError: {message}" in without(missing, code=code).stderr


def test_the_console_script_without_its_extra_is_one_line() -> None:
    run = without("typer", code="from ggmi_callbacks.__main__ import main; main()")
    assert run.returncode == 1
    assert run.stderr == "Error: The command line needs typer: pip install 'ggmi-callbacks[cli]'\n"


def test_the_console_script_and_the_module_are_one_program() -> None:
    run = subprocess.run([sys.executable, "-m", "ggmi_callbacks", "--help"], capture_output=True, text=True)
    assert run.returncode == 0
    assert "ggmi [OPTIONS] COMMAND" in run.stdout
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    scripts = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"ggmi": "ggmi_callbacks.__main__:main"}


def test_the_core_depends_on_six_packages_and_each_extra_on_what_its_errors_name() -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    names = {
        extra: {entry.split(">=")[0] for entry in needs} for extra, needs in project["optional-dependencies"].items()
    }
    assert {entry.split(">=")[0] for entry in project["dependencies"]} == CORE
    assert names["plot"] == {"matplotlib"}
    assert names["cli"] == {"typer"}
    assert names["labels"] == {"scikit-learn"}
    assert names["report"] == {"jinja2"}
    assert names["verify"] == {"ggmi-callbacks[plot]", "scikit-learn", "threadpoolctl"}
    (whole,) = (name for name in names["dev"] if name.startswith("ggmi-callbacks["))
    assert set(whole.removeprefix("ggmi-callbacks[").removesuffix("]").split(",")) == set(names) - {"dev"}


def test_every_file_of_the_core_imports_the_core_dependencies_only() -> None:
    """At the top of a file, that is, outside functions, ``with extra(...)`` and ``if TYPE_CHECKING``."""
    allowed = {*sys.stdlib_module_names, *CORE, "ggmi_callbacks"}
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_a_verification_without_its_extra_stops_before_it_computes(tmp_path: Path) -> None:
    code = f"from ggmi_callbacks.cli import app; app(['verify', '--output', {str(tmp_path)!r}])"
    run = without("matplotlib", code=code)
    assert run.returncode == 2
    assert run.stderr == "Error: The picture of a verification needs matplotlib: pip install 'ggmi-callbacks[plot]'.\n"


def test_labels_say_which_extra_joins_scores_by_them() -> None:
    code = """
from ggmi_callbacks import ColumnScorer, JointScorer
JointScorer([ColumnScorer("reward")])
JointScorer([ColumnScorer("reward")], label="right")
"""
    run = without("sklearn", code=code)
    assert "JointScorer(label=...) needs sklearn: pip install 'ggmi-callbacks[labels]'" in run.stderr
