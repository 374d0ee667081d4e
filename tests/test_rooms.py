"""Who may know whom inside the package, read from its imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bavt_fast"
ENGINE = (
    "searcher",
    "engine",
    "home",
    "answer_checks",
    "drive",
    "drive_base",
    "async_drive",
    "checkpoint",
    "waves",
    "result",
    "settings",
    "step_checks",
    "reference",
)
HEAVY = ("torch", "transformers", "tokenizers", "safetensors", "triton")
# Only these join what the others keep apart.
JOINERS = ("__init__", "cli", "language_model", "model_folder", "searcher", "training")


def imports(source: str, at_import_time: bool = False) -> set[str]:
    """The modules that a source names in imports; with `at_import_time` those that importing it loads by itself."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if at_import_time and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # A name may be a module of a package: both are told.
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def room(path: Path) -> str:
    """The first name below the package: ``tasks`` for bavt_fast/tasks/text.py, ``cli`` for bavt_fast/cli/ask.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMED = [pytest.param(path, id=path.relative_to(PACKAGE).as_posix()) for path in SOURCES]


def knows(path: Path, *rooms: str) -> set[str]:
    modules = imports(path.read_text(encoding="utf-8"))
    return {name for name in modules if any(re.match(rf"bavt_fast\.{other}(\.|$)", name) for other in rooms)}


def test_imports_are_read_as_python_reads_them() -> None:
    source = "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\ndef f():\n    import g\n"
    assert imports(source) == {"a.b", "c", "c.d", "g"}
    assert imports(source, at_import_time=True) == {"a.b", "c", "c.d"}
    assert knows(PACKAGE / "model_folder.py", "generators", "critics") != set()
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", NAMED)
def test_only_its_own_room_names_countdown(path: Path) -> None:
    if "countdown" not in path.parts:
        found = re.findall(r"countdown|game.?(?:of.?)?24", path.read_text(encoding="utf-8"), re.IGNORECASE)
        assert found == []


@pytest.mark.parametrize("path", NAMED)
def test_nothing_inside_imports_from_the_face(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.module == "bavt_fast"), node.lineno


@pytest.mark.parametrize("path", NAMED)
def test_generators_critics_and_tasks_know_neither_each_other_nor_the_engine(path: Path) -> None:
    apart = ("generators", "critics", "tasks")
    if room(path) in apart:
        others = [other for other in apart if other != room(path)]
        assert knows(path, *others, *ENGINE, "model_folder", "cli", "recipe") == set()


@pytest.mark.parametrize("path", NAMED)
def test_tasks_do_not_know_each_other(path: Path) -> None:
    if room(path) == "tasks" and path.parent != PACKAGE / "tasks":
        own = path.relative_to(PACKAGE / "tasks").parts[0]
        assert not {name for name in knows(path, "tasks") if not f"{name}.".startswith(f"bavt_fast.tasks.{own}.")}


@pytest.mark.parametrize("path", NAMED)
def test_a_task_is_there_without_torch(path: Path) -> None:
    if room(path) == "tasks" and "training" not in path.parts:
        loaded = imports(path.read_text(encoding="utf-8"), at_import_time=True)
        assert not {name for name in loaded if name.split(".")[0] in HEAVY or name.startswith("bavt_fast.training")}


@pytest.mark.parametrize("path", NAMED)
def test_views_know_searches_alone_and_nothing_loads_them_unasked(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    if room(path) == "view":
        assert knows(path, "generators", "critics", "tasks", "searcher", "cli", "training", "recipe") == set()
        loaded = {name.split(".")[0] for name in imports(source, at_import_time=True)}
        assert loaded & {"matplotlib", "networkx", "pandas", *HEAVY} == set()
    else:
        assert {name for name in imports(source, at_import_time=True) if name.startswith("bavt_fast.view")} == set()


@pytest.mark.parametrize("path", NAMED)
def test_training_knows_no_task(path: Path) -> None:
    if room(path) == "training":
        assert knows(path, "tasks") == set()


def test_the_value_predictor_is_taken_from_one_place() -> None:
    """Where it stands is the business of two among those that join: who loads one and who trains one. The face names it
    for lazy loading."""
    users = {
        room(path)
        for path in SOURCES
        if room(path) in JOINERS
        and any(name.endswith(".ResidualValuePredictor") for name in imports(path.read_text(encoding="utf-8")))
    }
    assert users == {"model_folder", "training"}
