"""``bavt-fast view``: searches that were saved, as text or in a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bavt_fast.checkpoint import is_checkpoint
from bavt_fast.cli.options import refuse_options
from bavt_fast.cli.output import refuse
from bavt_fast.cli.run_table import run_table
from bavt_fast.runs.folder import is_run

if TYPE_CHECKING:
    from bavt_fast.view.record import Picture

__all__ = ["view"]

ENDINGS = ".html, .svg, .png, .dot, .mmd, .json"


def view(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="What Search.save, --save or result.to_json() wrote, folders of such files, or the folder of a run; "
            "several side by side."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            dir_okay=False,
            help=f"The file to write, by its ending: {ENDINGS}; the terminal without it.",
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, help="Most nodes, or results of a run, to show: 200 in a diagram, 60 in the terminal."),
    ] = None,
    depth: Annotated[int | None, typer.Option(min=0, help="Deepest nodes to show in the terminal.")] = None,
) -> None:
    """Look at saved searches: a tree in the terminal, one HTML file, or a diagram."""
    made: list[str] = []
    try:
        _check_options(context, files, out)
        if out is None:
            made = _texts(files, depth, nodes)
        else:
            _check_apart(files, out)
            _write(files, out, title, nodes)
    except (ValueError, TypeError, OSError, ImportError) as error:
        refuse(error)
    for one in made:
        typer.echo(one)


def _texts(files: Sequence[Path], depth: int | None, nodes: int | None) -> list[str]:
    """The tables of runs, then the trees of the other files."""
    from bavt_fast.view.sources import pictures
    from bavt_fast.view.terminal import text

    console = Console()
    tables = [run_table(path, width=console.width, lines=nodes) for path in files if is_run(path)]
    others = [path for path in files if not is_run(path)]
    shown = pictures(others) if others else []
    color = console.is_terminal and not console.no_color
    trees = [text(one, depth=depth, lines=nodes, color=color) for one in shown]
    if len(shown) > 1:
        trees = [f"{one.name}\n{tree}" for one, tree in zip(shown, trees, strict=True)]
    return [*tables, *trees]


def _write(files: Sequence[Path], out: Path, title: str | None, nodes: int | None) -> None:
    """All of them into a page, or one into a diagram."""
    from bavt_fast.view.page import page
    from bavt_fast.view.sources import pictures

    for path in files:
        if is_run(path) and not (path / "searches").is_dir():
            raise ValueError(f"{path}: expected a run that kept its searches; `bavt-fast run --save` does")
    shown = pictures(files)
    if _is_page(out):
        out.write_text(page(shown, title=title), encoding="utf-8")
        return
    diagram = _writer(out, nodes)
    if len(shown) > 1:
        raise ValueError(f"--out: expected a file of .html for {len(shown)} searches, got {out.name}")
    diagram(shown[0])


def _is_page(out: Path) -> bool:
    return out.suffix.lower() in (".html", ".htm")


def _check_options(context: typer.Context, files: Sequence[Path], out: Path | None) -> None:
    """Refuses what was given and has no effect."""
    if out is not None:
        refuse_options(context, ("depth",), "in the terminal, got it beside --out")
    elif all(map(is_run, files)):
        refuse_options(context, ("depth",), "beside a tree, got it beside the table of a run")
    if out is not None and (_is_page(out) or out.suffix.lower() == ".json"):
        refuse_options(context, ("nodes",), f"in the terminal or beside a diagram, got it beside --out {out.name}")
    if out is None or not _is_page(out):
        refuse_options(context, ("title",), "beside --out of a page (.html), got it without")


def _check_apart(files: Sequence[Path], out: Path) -> None:
    """Raises ValueError where the file to write is one that is read: a picture of a search is no search."""
    place = Path(os.path.realpath(out))
    for path in files:
        read = Path(os.path.realpath(path))
        if place == read or (read in place.parents and _may_be_read(place)):
            raise ValueError(f"--out: expected a file of its own, got {out}, which is read with {path}")


def _may_be_read(file: Path) -> bool:
    """Of a folder."""
    return file.is_file() and (file.suffix.lower() == ".json" or is_checkpoint(file))


def _writer(out: Path, nodes: int | None) -> Callable[[Picture], None]:
    """What writes a picture into a file of that ending."""
    import bavt_fast.view.diagrams as diagrams

    most = diagrams.MOST_NODES if nodes is None else nodes

    def write(made: str) -> None:
        out.write_text(made, encoding="utf-8", errors="replace")

    writers: dict[str, Callable[[Picture], None]] = {
        ".svg": lambda one: write(diagrams.svg(one, most_nodes=most)),
        ".dot": lambda one: write(diagrams.dot(one, most_nodes=most)),
        ".gv": lambda one: write(diagrams.dot(one, most_nodes=most)),
        ".mmd": lambda one: write(diagrams.mermaid(one, most_nodes=most)),
        ".json": lambda one: write(one.to_json()),
        ".png": lambda one: diagrams.png(one, out, most_nodes=most),
    }
    writer = writers.get(out.suffix.lower())
    if writer is None:
        raise ValueError(f"--out: expected a file that ends in one of {ENDINGS}, got {out.name}")
    return writer
