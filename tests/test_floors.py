"""The house: nothing imports upwards, no files import in a circle, and the core knows no trainer.

Read from the imports themselves, those inside functions and under TYPE_CHECKING included.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ggmi_callbacks

FLOORS = [
    {"functional", "distributed", "rows", "_extras"},
    {"tasks", "metrics"},
    {"model", "data", "policies"},
    {"scorers"},
    {"engine", "expressions"},
    {"weighting", "report", "config"},
    {"integrations", "verification", "scoring"},
    {"cli"},
    {"__main__"},
]
"""Rooms from the ground upwards; rooms of one floor do not import each other."""

TRAINERS = {"transformers", "trl", "lightning", "pytorch_lightning", "peft", "accelerate"}
LOADS = {"transformers", "transformers.AutoModelForCausalLM", "transformers.AutoTokenizer"}
"""What loads a model and a tokenizer by name, for scores before training."""
OWN = {
    "transformers": {"transformers", "accelerate", "peft"},
    "trl": {"trl", "transformers", "accelerate", "peft"},
    "lightning": {"lightning", "pytorch_lightning"},
}

CORE = Path(ggmi_callbacks.__file__).parent
INTEGRATIONS = CORE.parent / "integrations"


def modules() -> dict[str, Path]:
    """Every file of the package by its module name, integrations mapped into it."""
    found = {}
    for root, prefix in ((CORE, "ggmi_callbacks"), (INTEGRATIONS, "ggmi_callbacks.integrations")):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join([prefix, *(p for p in parts if p != "__init__")])] = path
    return found


def imports(path: Path) -> set[str]:
    """Names of all modules that a file imports, wherever it does."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative imports hide which floor they reach"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def floor(module: str) -> int:
    room = module.split(".")[1]
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


FILES = {name: path for name, path in modules().items() if name.count(".") > 0}


def test_every_file_has_a_room() -> None:
    rooms = set().union(*FLOORS)
    assert {name for name in FILES if name.split(".")[1] not in rooms} == set()


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_imports_upwards(name: str) -> None:
    reached = {other for other in imports(FILES[name]) if other in FILES}
    upwards = [o for o in reached if o.split(".")[1] != name.split(".")[1] and floor(o) >= floor(name)]
    assert upwards == []


def test_no_files_import_in_a_circle() -> None:
    graph = {name: {other for other in imports(path) if other in FILES} - {name} for name, path in FILES.items()}
    for name in graph:  # a room's own front door is open to its files' readers, not to its files
        graph[name] = {o for o in graph[name] if not name.startswith(f"{o}.")}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", sorted(n for n in FILES if not n.startswith("ggmi_callbacks.integrations")))
def test_the_core_imports_no_trainer(name: str) -> None:
    reached = {other for other in imports(FILES[name]) if other.split(".")[0] in TRAINERS}
    assert reached == (LOADS if name == "ggmi_callbacks.scoring.load" else set())


@pytest.mark.parametrize("name", sorted(OWN))
def test_an_integration_imports_only_its_own_trainer(name: str) -> None:
    reached = {other.split(".")[0] for other in imports(FILES[f"ggmi_callbacks.integrations.{name}"])}
    assert reached & TRAINERS <= OWN[name]
