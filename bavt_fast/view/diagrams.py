"""A search as a diagram in a file: graphviz dot, mermaid, SVG, PNG. The nodes visited most, as many as asked for."""

from __future__ import annotations

import os
import warnings
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from bavt_fast._checks import as_count
from bavt_fast._optional import needs
from bavt_fast.view.labels import label, node_label, node_notes, number, summary
from bavt_fast.view.record import Picture

__all__ = ["dot", "mermaid", "png", "svg"]

MOST_NODES = 200
_COLUMN, _ROW, _BOX = 260, 46, (220, 36)  # pixels
_TEXT = 31  # columns of a label


def dot(picture: Picture, *, most_nodes: int = MOST_NODES) -> str:
    """The tree in the language of graphviz."""
    most_nodes = as_count("most_nodes", most_nodes, minimum=1)
    lines = ["digraph search {", "  rankdir=LR;", '  node [shape=box, style="rounded,filled", fontname="sans-serif"];']
    path = {0, *picture.path}
    for node in picture.foremost(most_nodes):
        text = "\\n".join(_quoted(line) for line in _lines(picture, node, most_nodes))
        width = 2.5 if node in path else 1
        lines.append(f'  n{node} [label="{text}", fillcolor="{_color(picture, node)}", penwidth={width}];')
        if node:
            lines.append(f"  n{picture.nodes.parents[node]} -> n{node};")
    return "\n".join([*lines, "}", ""])


def _quoted(line: str) -> str:
    return line.replace("\\", "\\\\").replace('"', '\\"')


def mermaid(picture: Picture, *, most_nodes: int = MOST_NODES) -> str:
    """The tree as a flowchart of mermaid."""
    most_nodes = as_count("most_nodes", most_nodes, minimum=1)
    lines = ["flowchart LR"]
    for node in picture.foremost(most_nodes):
        text = "<br/>".join(_entities(line) for line in _lines(picture, node, most_nodes))
        lines.append(f'  n{node}["{text}"]')
        if node:
            lines.append(f"  n{picture.nodes.parents[node]} --> n{node}")
    kept = {0, *picture.path} & set(picture.foremost(most_nodes))
    lines.append("  classDef path stroke-width:3px")
    lines.append(f"  class {','.join(f'n{node}' for node in sorted(kept))} path")
    return "\n".join([*lines, ""])


def _entities(line: str) -> str:
    """Everything but letters, digits and spaces as an entity of mermaid, which reads Markdown and HTML in labels."""
    return "".join([c if c.isalnum() or c in " .,=()" else f"#{ord(c)};" for c in line])


def _lines(picture: Picture, node: int, most_nodes: int) -> list[str]:
    """What stands in a node's box."""
    nodes = picture.nodes
    below = len(picture.children[node])
    visits = nodes.visit_counts[node]
    figures = f"V {number(nodes.values[node])}, {visits} visit{'s' * (visits != 1)}"
    if below and picture.count > most_nodes:
        figures += f", {below} children"
    return [node_label(picture, node, _TEXT), figures, *[label(note, _TEXT) for note in node_notes(picture, node)]]


def _color(picture: Picture, node: int) -> str:
    """From pale to green with V."""
    value = picture.nodes.values[node]
    share = min(1.0, max(0.0, value)) if value == value else 0.0
    pale, full = (244, 244, 246), (126, 200, 148)
    return "#" + "".join(f"{round(p + (f - p) * share):02x}" for p, f in zip(pale, full, strict=True))


# ---- Pictures with places


class _Drawing(NamedTuple):
    nodes: list[int]
    at: dict[int, tuple[float, float]]  # left and middle of each box
    size: tuple[float, float]


def _drawing(picture: Picture, most_nodes: int) -> _Drawing:
    """A row for every leaf; a parent stands in the middle of its children."""
    nodes = picture.foremost(as_count("most_nodes", most_nodes, minimum=1))
    kept = set(nodes)
    children = {node: [child for child in picture.children[node] if child in kept] for node in nodes}
    rows: dict[int, float] = {}
    leaves = 0
    stack = [(0, False)]
    while stack:
        node, done = stack.pop()
        below = children[node]
        if done:
            rows[node] = (rows[below[0]] + rows[below[-1]]) / 2
        elif below:
            stack.append((node, True))
            stack += [(child, False) for child in reversed(below)]
        else:
            rows[node] = leaves
            leaves += 1
    at = {node: (10.0 + picture.depths[node] * _COLUMN, 60.0 + (rows[node] + 0.5) * _ROW) for node in nodes}
    deepest = max(picture.depths[node] for node in nodes)
    return _Drawing(nodes, at, (20.0 + deepest * _COLUMN + _BOX[0], 70.0 + leaves * _ROW))


def svg(picture: Picture, *, most_nodes: int = MOST_NODES) -> str:
    """The tree as an SVG image without scripts. Hover over a box for its whole step (up to 2,000 characters)."""
    drawing = _drawing(picture, most_nodes)
    width, height = drawing.size
    path = {0, *picture.path}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{_xml(label(picture.question, 200) or 'A search')}</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
        *[f'<text x="10" y="{20 + 18 * i}">{_xml(line)}</text>' for i, line in enumerate(summary(picture))],
    ]
    for node in drawing.nodes[1:]:
        (x0, y0), (x1, y1) = drawing.at[picture.nodes.parents[node]], drawing.at[node]
        middle = (x0 + _BOX[0] + x1) / 2
        stroke = 'stroke="#1a7f45" stroke-width="2.5"' if node in path else 'stroke="#9a9aa2"'
        line = f"M{x0 + _BOX[0]:g} {y0:g}C{middle:g} {y0:g} {middle:g} {y1:g} {x1:g} {y1:g}"
        out.append(f'<path d="{line}" fill="none" {stroke}/>')
    for node in drawing.nodes:
        x, y = drawing.at[node]
        stroke = 'stroke="#1a7f45" stroke-width="2.5"' if node in path else 'stroke="#9a9aa2"'
        whole = picture.nodes.texts[node][:2000] if node else picture.question[:2000]
        first, *others = _lines(picture, node, most_nodes)
        out.append(
            f'<g><title>{_xml(whole)}</title><rect x="{x:g}" y="{y - _BOX[1] / 2:g}" width="{_BOX[0]}" '
            f'height="{_BOX[1]}" rx="5" fill="{_color(picture, node)}" {stroke}/>'
            f'<text x="{x + 7:g}" y="{y - 3:g}">{_xml(first)}</text>'
            f'<text x="{x + 7:g}" y="{y + 12:g}" fill="#555555" font-size="10">'
            f"{_xml(label('; '.join(others), 44))}</text></g>"
        )
    return "\n".join([*out, "</svg>", ""])


def _xml(text: str) -> str:
    """Escaped, without what XML has no form for."""
    return escape("".join([c if _is_xml(ord(c)) else "\ufffd" for c in text]), {'"': "&quot;"})


def _is_xml(code: int) -> bool:
    return code in (0x9, 0xA, 0xD) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or 0x10000 <= code <= 0x10FFFF


def png(picture: Picture, path: str | os.PathLike[str], *, most_nodes: int = MOST_NODES) -> None:
    """Writes the tree as a PNG image of at most 8,000 pixels a side.

    Raises:
        ModuleNotFoundError: matplotlib, which draws it, is not installed.
        OSError: the file cannot be written.
    """
    with needs("view", "png"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import FancyBboxPatch

    drawing = _drawing(picture, most_nodes)
    width, height = drawing.size
    dpi = min(144.0, 8000 * 100 / max(width, height))
    figure: Any = Figure(figsize=(width / 100, height / 100), dpi=dpi)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    on_path = {0, *picture.path}

    def write(x: float, y: float, line: str, **style: Any) -> None:
        axes.text(x, y, line, va="center", parse_math=False, **style)

    def style_of(node: int) -> dict[str, Any]:
        return {"color": "#1a7f45", "lw": 1.8} if node in on_path else {"color": "#9a9aa2", "lw": 0.8}

    for i, line in enumerate(summary(picture)):
        write(10, 16 + 18 * i, line, fontsize=9)
    for node in drawing.nodes[1:]:
        (x0, y0), (x1, y1) = drawing.at[picture.nodes.parents[node]], drawing.at[node]
        bend = x0 + _BOX[0] + (x1 - x0 - _BOX[0]) / 2
        axes.plot([x0 + _BOX[0], bend, bend, x1], [y0, y0, y1, y1], **style_of(node))
    for node in drawing.nodes:
        x, y = drawing.at[node]
        box = FancyBboxPatch((x, y - _BOX[1] / 2), *_BOX, boxstyle="round,pad=0,rounding_size=5")
        box.set(facecolor=_color(picture, node), edgecolor=style_of(node)["color"], linewidth=style_of(node)["lw"])
        axes.add_patch(box)
        first, *others = _lines(picture, node, most_nodes)
        write(x + 7, y - 7, first, fontsize=8)
        write(x + 7, y + 9, label("; ".join(others), 44), fontsize=6.5, color="#555555")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # it draws a box for a sign that its fonts do not have
        figure.savefig(path, dpi=dpi, format="png")
