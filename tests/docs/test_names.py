"""What a reader can type is explained: every option of the command on a page, every public name in the reference."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markdown_blocks import PYTHON, Block, blocks_of

import bavt_fast

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
MODULES = (bavt_fast, bavt_fast.kernels, bavt_fast.view, bavt_fast.runs)
NAMES = [pytest.param(module, name, id=name) for module in MODULES for name in module.__all__]


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = [
    pytest.param(block, id=f"{page.relative_to(ROOT).as_posix()}:{block.line}")
    for page in PAGES
    for block in blocks_of(page.read_text(encoding="utf-8"))
    if block.language == PYTHON and block.why_not is not None
]


def parameters(command: Any) -> Iterator[Any]:
    yield from command.params
    for part in getattr(command, "commands", {}).values():
        yield from parameters(part)


def of_the_command() -> list[Any]:
    typer = pytest.importorskip("typer")
    from bavt_fast.cli import app

    return list(parameters(typer.main.get_command(app)))


def test_every_option_of_the_command_says_what_it_is() -> None:
    assert [one.name for one in of_the_command() if not one.help] == []


def test_every_option_of_the_command_is_on_a_page() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    flags = [flag for one in of_the_command() for flag in (*one.opts, *one.secondary_opts) if flag.startswith("--")]
    assert [flag for flag in flags if not re.search(re.escape(flag) + r"(?![\w-])", text)] == []


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_is_in_the_reference(module: Any, name: str) -> None:
    if inspect.ismodule(getattr(module, name)):
        return
    pages = (ROOT / "docs" / "reference").glob("*.md")
    assert any(re.search(rf"^::: [\w.]+\.{name}$", page.read_text(), re.MULTILINE) for page in pages)


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_help_says_what_a_public_name_is(module: Any, name: str) -> None:
    """In words of its own: ``inspect`` takes those of a base class where there are none."""
    item = getattr(module, name)
    assert vars(item).get("__doc__") if isinstance(item, type) else item.__doc__


def test_help_of_the_native_classes_begins_as_their_stubs_do() -> None:
    stub = ast.parse((ROOT / "bavt_fast" / "_core.pyi").read_text(encoding="utf-8"))
    texts = {item.name: ast.get_docstring(item) for item in stub.body if isinstance(item, ast.ClassDef)}
    classes = (
        bavt_fast.Tree,
        bavt_fast.Forest,
        bavt_fast.CapacityError,
        bavt_fast.SnapshotError,
        bavt_fast.TicketError,
    )
    for native in classes:
        beginning, _, _ = (native.__doc__ or "").partition("\n")
        assert beginning
        assert " ".join((texts[native.__name__] or "").split()).startswith(beginning)


def imported(node: ast.ImportFrom) -> Any:
    """The module that names are imported from; skips where a package that it needs is not installed."""
    try:
        return importlib.import_module(node.module or "")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "bavt_fast":
            raise
        pytest.skip(str(error))


def named(node: ast.expr) -> Any:
    """What ``bavt.a.b`` is; None for what is no name of the package. AttributeError where there is no such name."""
    if isinstance(node, ast.Name):
        return bavt_fast if node.id == "bavt" else None
    owner = named(node.value) if isinstance(node, ast.Attribute) else None
    return None if owner is None else getattr(owner, node.attr)  # type: ignore[attr-defined]


@pytest.mark.parametrize("block", NOT_RUN)
def test_names_of_a_block_that_is_not_run_are_there(block: Block) -> None:
    """And its calls of the package's own names have arguments of these names."""
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bavt_fast"):
            module = imported(node)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Attribute):
            named(node)
        elif isinstance(node, ast.Call) and (called := named(node.func)) is not None:
            keywords = {word.arg: None for word in node.keywords if word.arg is not None}
            inspect.signature(called).bind_partial(*node.args, **keywords)
