"""Look at a search: as text, as a page, as a diagram, as a table, and while it runs.

    result = searcher.search(question, budget=budget)        # with record=True there is a replay too
    print(result)
    bavt_fast.view.html(result, "tree.html")
    bavt_fast.view.html({"no critic": first, "critic": second}, "two.html")
    bavt_fast.view.html("search.bavt", "tree.html")          # what Search.save wrote; no task is needed
    with bavt_fast.view.Live(search) as live: print(live.url)   # while it runs

`picture` makes one plain record of whatever holds a search, and everything else is a function of that record.
"""

from __future__ import annotations

import os
from typing import Any

import bavt_fast.view.diagrams as diagrams
import bavt_fast.view.tables as tables
import bavt_fast.view.terminal as terminal
from bavt_fast.view.page import html
from bavt_fast.view.record import NodeColumns, Picture, RefusedColumns
from bavt_fast.view.server import Live, LiveRun
from bavt_fast.view.sources import picture, pictures

__all__ = [
    "Live",
    "LiveRun",
    "NodeColumns",
    "Picture",
    "RefusedColumns",
    "dot",
    "html",
    "mermaid",
    "picture",
    "pictures",
    "png",
    "svg",
    "text",
    "to_dataframe",
    "to_networkx",
]


def text(source: Any, **options: Any) -> str:
    """A search as a tree of lines. The path to the answer is marked with "*".

    Args:
        source: what `picture` takes.
        options: ``width`` in columns (the terminal's), ``depth`` (steps from the question to show), ``lines`` (nodes to
            show at most, 60), ``color`` (False), ``encoding`` (that of standard output; what it lacks is escaped).
    """
    return terminal.text(picture(source), **options)


def dot(source: Any, *, most_nodes: int = diagrams.MOST_NODES) -> str:
    """A search in the language of graphviz: the path and the nodes visited most, ``most_nodes`` (200) at most.

    `source` is what `picture` takes, as for `mermaid`, `svg`, `png`, `to_dataframe` and `to_networkx`.
    """
    return diagrams.dot(picture(source), most_nodes=most_nodes)


def mermaid(source: Any, *, most_nodes: int = diagrams.MOST_NODES) -> str:
    """A search as a flowchart of mermaid; nodes as in `dot`."""
    return diagrams.mermaid(picture(source), most_nodes=most_nodes)


def svg(source: Any, *, most_nodes: int = diagrams.MOST_NODES) -> str:
    """A search as an SVG image; nodes as in `dot`."""
    return diagrams.svg(picture(source), most_nodes=most_nodes)


def png(source: Any, path: str | os.PathLike[str], *, most_nodes: int = diagrams.MOST_NODES) -> None:
    """Writes a search to `path` as a PNG image of at most 8,000 pixels a side; nodes as in `dot`.

    Raises:
        ModuleNotFoundError: matplotlib, which draws it, is not installed.
        OSError: the file cannot be written.
    """
    diagrams.png(picture(source), path, most_nodes=most_nodes)


def to_networkx(source: Any) -> Any:
    """A search as a ``networkx.DiGraph``."""
    return tables.to_networkx(picture(source))


def to_dataframe(source: Any) -> Any:
    """A search as a ``pandas.DataFrame`` with a row for each node."""
    return tables.to_dataframe(picture(source))
