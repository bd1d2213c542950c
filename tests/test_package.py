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
        ggmi_callbacks.Fliter  # noqa: B018


def test_the_command_line_starts_without_torch():
    code = "import sys, ggmi_callbacks.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_build_ships_every_package():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    root = Path(__file__).parent.parent
    shipped = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(p.parent.relative_to(root).parts) for p in (root / "ggmi_callbacks").rglob("__init__.py")}
    assert set(shipped) == found | {"ggmi_callbacks.integrations"}
