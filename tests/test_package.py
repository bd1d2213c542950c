import subprocess
import sys
from pathlib import Path

import pytest

import ggmi_callbacks


def test_every_public_name_is_there_and_metrics_are_whole():
    for name in ggmi_callbacks.__all__:
        assert getattr(ggmi_callbacks, name) is not None, name
    assert set(ggmi_callbacks.metrics.__all__) <= set(ggmi_callbacks.__all__)
    assert set(ggmi_callbacks.__all__) <= set(dir(ggmi_callbacks))
    code = "import ggmi_callbacks as g; g.model.train_shadow, g.policies, g.weighting, g.integrations, g.verification"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0  # modules too, whatever was asked for before
    with pytest.raises(AttributeError, match="no attribute 'Fliter'"):
        ggmi_callbacks.Fliter  # type: ignore[attr-defined]  # noqa: B018


def python(code: str) -> str:
    """What a fresh process that runs ``code`` prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["ggmi_callbacks", "ggmi_callbacks.__main__", "ggmi_callbacks.cli"])
def test_the_package_and_its_command_line_are_imported_without_torch(module):
    brought = python(f"import sys, {module}; print(*sys.modules)").split()
    assert {"torch", "torchmetrics", "numpy", "pyarrow"}.isdisjoint(brought)


def test_the_package_is_imported_in_a_tenth_of_a_second():
    code = "import time; start = time.process_time(); import ggmi_callbacks; print(time.process_time() - start)"
    assert float(python(code)) < 0.1


def test_metrics_bring_in_nothing_that_they_may_have_to_do_without():
    """torchmetrics itself looks for matplotlib, scipy and transformers: what it brought in is taken out first."""
    heavy = ("scipy", "sklearn", "matplotlib", "transformers", "datasets", "pandas", "typer")
    code = f"""
import sys, torch, torchmetrics
for name in [name for name in sys.modules if name.split(".")[0] in {heavy}]:
    del sys.modules[name]
import ggmi_callbacks.metrics, ggmi_callbacks.functional
print(*[name for name in sys.modules if name.split(".")[0] in {heavy}])
"""
    assert python(code).split() == []


def test_the_build_ships_every_package():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    root = Path(__file__).parent.parent
    shipped = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(p.parent.relative_to(root).parts) for p in (root / "ggmi_callbacks").rglob("__init__.py")}
    assert set(shipped) == found | {"ggmi_callbacks.integrations"}
