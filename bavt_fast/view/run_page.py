"""The page that lists what a run has under way. It loads itself anew every two seconds, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

__all__ = ["run_page"]

MOST_ROWS = 200
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="2">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{finished} of {questions} questions</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; }}
progress {{ width: 20rem; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: 0.15rem 0.9rem 0.15rem 0; vertical-align: top; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
</style>
<h1>{finished} of {questions} questions</h1>
<p><progress max="{questions}" value="{finished}"></progress></p>
<p>{solved} solved, {errors} errors, {tokens:,} tokens</p>
<table>
<caption>{under_way} under way{more}</caption>
<tr><th scope="col">id</th><th scope="col">question</th><th scope="col">tokens</th><th scope="col">nodes</th></tr>
{rows}
</table>
</html>
"""
_ROW = """<tr><td><a href="{line}/">{id}</a></td><td>{question}</td><td class="number">{tokens:,}</td>\
<td class="number">{nodes:,}</td></tr>"""


def run_page(progress: Any, searches: Sequence[tuple[Any, Any]]) -> str:
    """The page.

    Args:
        progress: a `bavt_fast.runs.RunProgress`.
        searches: (row, search) of each question under way.
    """
    rows = [
        _ROW.format(
            line=int(row.line),
            id=escape(f"{row.id!s:.80}"),
            question=escape(f"{row.question:.200}"),
            tokens=search.spent.tokens,
            nodes=len(search.nodes),
        )
        for row, search in searches[:MOST_ROWS]
    ]
    return _PAGE.format(
        questions=progress.questions,
        finished=progress.finished,
        solved=progress.solved,
        errors=progress.errors,
        tokens=progress.spent.tokens,
        under_way=len(searches),
        more=f", {MOST_ROWS} of them shown" if len(searches) > MOST_ROWS else "",
        rows="\n".join(rows),
    )
