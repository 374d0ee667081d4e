"""The page: one HTML file that holds searches and draws them, without a network.

    page.html + style.css + vendor/d3-hierarchy + *.js + the searches as JSON, compressed, in base64

Nothing of a search is ever read as HTML: texts are escaped or in base64 here, and reach the page as text nodes. A
content security policy allows this one script and this one style sheet, by their hashes, and nothing from elsewhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html as escapes
import json
import math
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bavt_fast.view.labels import label, printable, summary
from bavt_fast.view.record import EVENTS, REASONS, STATUSES, NodeColumns, Picture, RefusedColumns, finite
from bavt_fast.view.sources import pictures
from bavt_fast.view.terminal import text as as_text

__all__ = ["chunk_of", "chunk_of_part", "dump", "final_columns", "frame", "html", "page"]

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("data", "replay", "layout", "painter", "pane", "outline", "details", "exports", "main")
_KINDS = {kind: i for i, kind in enumerate(EVENTS)}
_IN_NOTEBOOK = 20_000
"""Nodes up to which a notebook gets the page; a larger search would swell its file."""


def html(sources: Any, path: str | os.PathLike[str] | None = None, *, title: str | None = None) -> str:
    """One HTML file of one search or of several side by side; it needs no network and no other file.

    Args:
        sources: what `bavt_fast.view.pictures` takes: a result, a checkpoint's path, a folder; or a list or a
            dictionary ``{name: source}`` of them.
        path: where to write it.
        title: of the page.

    Returns:
        The HTML.

    Raises:
        TypeError, ValueError: as `bavt_fast.view.picture`.
        OSError: a file cannot be read or written.
    """
    made = page(pictures(sources), title=title)
    if path is not None:
        Path(path).write_text(made, encoding="utf-8")
    return made


def page(shown: Sequence[Picture], *, title: str | None = None, live: bool = False) -> str:
    """The HTML of pictures. With `live` they are not in it: the page asks for them at ``events`` beside its address."""
    if title is not None and not isinstance(title, str):
        raise TypeError(f"title: expected a str, got {title!r:.80}")
    if title is None:
        title = label(shown[0].question, 80) if len({one.question for one in shown}) == 1 else ""
    names = [one.name or (label(one.question, 60) if len(shown) > 1 else "") for one in shown]
    script, style, template = _assets()
    blocks = [] if live else [_block(i, one) for i, one in enumerate(shown)]
    parts = {
        "title": escapes.escape(printable(title or "bavt_fast")),
        "policy": _policy(script, style, live),
        "style": style,
        "plain": "" if live else escapes.escape("\n\n".join(_plain(one) for one in shown[:20])),
        "index": json.dumps({"live": live, "pictures": names}).replace("<", "\\u003c"),
        "pictures": "\n".join(blocks),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


@cache
def _assets() -> tuple[str, str, str]:
    """(script, style, template)."""
    library = (_ASSETS / "vendor" / "d3-hierarchy.min.js").read_text(encoding="utf-8")
    own = [(_ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    script = "\n".join([library, "(() => {", *own, "})();"])
    style, template = [(_ASSETS / name).read_text(encoding="utf-8") for name in ("style.css", "page.html")]
    return script, style, template


def _policy(script: str, style: str, live: bool) -> str:
    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    connect = "; connect-src 'self'" if live else ""
    return (
        f"default-src 'none'; script-src {source(script)}; style-src {source(style)}{connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def _block(place: int, picture: Picture) -> str:
    packed = gzip.compress(dump(chunk_of(picture)), compresslevel=6, mtime=0)
    return f'<script type="text/plain" id="picture-{place}">{base64.b64encode(packed).decode("ascii")}</script>'


def _plain(picture: Picture) -> str:
    """For where no script runs."""
    shown = as_text(picture, width=120, encoding="utf-8").encode("utf-8", "replace").decode()
    return f"{printable(picture.name)}\n{shown}" if picture.name else shown


def frame(picture: Picture) -> str:
    """The page as an element of a notebook, apart from the notebook's own page; a large search as text."""
    if picture.count > _IN_NOTEBOOK:
        hint = "This search is too large for a notebook: bavt_fast.view.html(result, 'tree.html') writes a page."
        return f"<p>{hint}</p><pre>{escapes.escape(_plain(picture))}</pre>"
    inside = escapes.escape(page([picture]), quote=True)
    style = "width:100%;height:560px;border:1px solid #8888"
    return f'<iframe sandbox="allow-scripts allow-downloads" style="{style}" title="Search" srcdoc="{inside}"></iframe>'


# ---- What the page's script reads


def dump(chunk: dict[str, Any]) -> bytes:
    """A chunk as JSON in ASCII, in which any text can stand, lone surrogates too."""
    return json.dumps(chunk, separators=(",", ":"), allow_nan=False).encode("ascii")


def chunk_of(picture: Picture) -> dict[str, Any]:
    """A whole picture as `assets/data.js` takes it."""
    chunk = chunk_of_part(picture, 0, live=False)
    chunk["nodes"] |= final_columns(picture.nodes)
    return chunk


def chunk_of_part(part: Picture, first: int, live: bool) -> dict[str, Any]:
    """A part of a search: nodes from the id `first` on, and what was refused and happened since the part before."""
    return {
        "from": first,
        "live": live,
        "header": header_of(part),
        "nodes": node_chunk(part.nodes, first),
        "refused": refused_chunk(part.refused),
        "events": None if part.events is None else event_chunk(part.events),
    }


def final_columns(nodes: NodeColumns) -> dict[str, Any]:
    """What changes while a search runs, as it is at its end."""
    statuses = [STATUSES.index(status) for status in nodes.statuses]
    return {"visits": nodes.visit_counts, "tries": nodes.tries, "statuses": statuses}


def header_of(picture: Picture) -> dict[str, Any]:
    """What a page shows of a search as a whole."""
    found, _ = summary(picture)
    stopped = "" if picture.stop_reason is None else f"; stopped: {picture.stop_reason}"
    settings = picture.settings or {}
    kept = ("policy", "decay", "tried_exponent", "patience")
    return {
        "question": picture.question,
        "found": found + stopped + ("" if picture.error is None else f" ({label(picture.error, 200)})"),
        "stop_reason": picture.stop_reason,
        "path": list(picture.path),
        "spent": finite(picture.spent),
        "budget": finite(picture.budget),
        "left": _left(picture),
        "settings": None if not settings else {name: finite(settings.get(name)) for name in kept},
        "missing": list(picture.missing),
    }


def _left(picture: Picture) -> float | None:
    """r at the end: the smallest share of a limited resource that is left."""
    limits = {name: limit for name, limit in (picture.budget or {}).items() if limit}
    shares = [1.0 - picture.spent.get(name, 0) / limit for name, limit in limits.items()]
    return max(0.0, min(shares)) if shares and all(map(math.isfinite, shares)) else None


def _short(value: float | None, digits: int = 6) -> float | str | None:
    """As many digits as a page shows, and what JSON has no form for as text."""
    if value is None or not math.isfinite(value):
        return value if value is None else str(finite(value))
    return float(f"{value:.{digits}g}")


def node_chunk(nodes: NodeColumns, first: int) -> dict[str, Any]:
    """Columns of nodes; those that say nothing are None. `first` is the id of the first of them."""
    values = [_short(value) for value in nodes.values]
    weights = [_short(weight) for weight in nodes.weights]
    said = any(probability is not None for probability in nodes.log_probabilities)
    return {
        "parents": nodes.parents,
        "texts": nodes.texts,
        "values": values,
        "weights": None if weights == values else weights,
        "tokens": nodes.tokens,
        "prompt_tokens": nodes.prompt_tokens if any(nodes.prompt_tokens) else None,
        "log_probabilities": [_short(p) for p in nodes.log_probabilities] if said else None,
        "answers": [[first + i, answer] for i, answer in enumerate(nodes.answers) if answer is not None],
    }


def refused_chunk(refused: RefusedColumns) -> dict[str, Any]:
    return {
        "nodes": refused.nodes,
        "reasons": [REASONS.index(reason) for reason in refused.reasons],
        "texts": refused.texts,
        "tokens": refused.tokens,
        "log_probabilities": [_short(p) for p in refused.log_probabilities],
    }


def event_chunk(events: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Events in columns; what an event has no entry for is 0."""
    padded = [(*event[4:7], 0, 0)[:3] for event in events]
    return {
        "kinds": [_KINDS[event[0]] for event in events],
        "seconds": [_short(round(event[1], 4)) if math.isfinite(event[1]) else _short(event[1]) for event in events],
        "tokens": [event[2] for event in events],
        "left": [_short(event[3], 5) for event in events],
        "nodes": [node for node, _, _ in padded],
        "counts": [count for _, count, _ in padded],
        "news": [new for _, _, new in padded],
    }
