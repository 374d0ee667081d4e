"""Every code block of the documentation runs as it is written."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_blocks import Block, blocks_of, put_command_on_path, run

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("typer")

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = {page: blocks_of(page.read_text(encoding="utf-8")) for page in PAGES}
WITH_CODE = [
    pytest.param(page, id=page.relative_to(ROOT).as_posix())
    for page, blocks in BLOCKS.items()
    if any(block.is_run() for block in blocks)
]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, and the environment of a reader who has installed the package."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "desk").mkdir()
    monkeypatch.setenv("PATH", put_command_on_path(tmp_path / "bin"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "passive"), ("MPLBACKEND", "agg")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "desk")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path / "desk"
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", WITH_CODE)
def test_its_blocks_run(page: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__page__", type(sys)("__page__"))  # where its classes are from
    names = sys.modules["__page__"].__dict__
    for block in BLOCKS[page]:
        if block.is_run():
            with contextlib.redirect_stdout(io.StringIO()):
                run(block, names, page)


def test_blocks_are_found_with_what_is_said_of_them() -> None:
    text = (
        "```python\na = 1\n```\n\n<!-- not run: a server -->\n```bash\nserve\n```\n1. step\n\n   ```console\n"
        "   $ ls\n   out\n   ```\n<!-- needs: json, no_such_module -->\n\n```python\nb\n```\n```text\nc\n```\n"
    )
    assert blocks_of(text) == [
        Block(2, "python", "a = 1\n"),
        Block(7, "bash", "serve\n", "a server"),
        Block(12, "console", "$ ls\nout\n"),
        Block(18, "python", "b\n", None, ("json", "no_such_module")),
    ]
    assert [block.is_run() for block in blocks_of(text)] == [True, False, True, False]
    for bad in ("```python\na\n", "<!-- not run: x -->\ntext\n"):
        with pytest.raises(ValueError, match="line"):
            blocks_of(bad)


def test_a_block_that_fails_names_its_line(desk: Path) -> None:
    page = Path("page.md")
    for code, language in (("x = 1\nx / 0\n", "python"), ("echo a\nfalse\necho b\n", "bash")):
        with pytest.raises((ZeroDivisionError, AssertionError)) as failed:
            run(Block(5, language, code), {}, page)
        assert "page.md" in str(failed.getrepr())
    run(Block(1, "console", "$ echo x > y\nnot a command\n"), {}, page)
    assert (desk / "y").read_text() == "x\n"
