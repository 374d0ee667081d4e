"""Run the benchmark of the page that shows a search, and write the report.

    python -m benchmarks.view [--effort full|tiny] [--out DIR]

Bytes of the HTML file, seconds to make it, milliseconds to the first picture and between frames while panning, in
headless Chromium without a GPU; and what it costs a search to be watched live. Writes view-CPU-DATE.json and .md.
`full` takes two minutes; `tiny` only shows that it runs. Needs chromium and the extra `browser`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bavt_fast.view import html
from benchmarks import harness
from benchmarks.harness import Results, Row, Target, row_of
from benchmarks.view.browser import draws, frames_while_panning, load, opened, places_in_sight
from benchmarks.view.live import COST, watched
from benchmarks.view.searches import search_of

SIZE, MAKING, FIRST = "file", "making the file", "first picture"
FRAME, SLOW, DRAW, SIGHT = "frame", "slowest twentieth of frames", "drawing a frame, to its pixels", "nodes in sight"
WHO = "page"
SCENES = {
    "as opened": "",
    "all unfolded, in the middle": (
        "bavt.pane.command('all'); bavt.pane.select(bavt.pane.layout.order[bavt.pane.layout.order.length >> 1].data.id)"
    ),
    "all unfolded, all in sight": "bavt.pane.command('fit')",
}


def pages(sizes: Sequence[int], rounds: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder, opened() as browser:
        for nodes in sizes:
            result = search_of(nodes)
            path = Path(folder, f"{nodes}.html")
            start_s = time.perf_counter()
            html(result, path)
            yield row_of(MAKING, WHO, "s", [time.perf_counter() - start_s], {"nodes": nodes})
            yield row_of(SIZE, WHO, "MB", [path.stat().st_size / 1e6], {"nodes": nodes})
            firsts = []
            for _ in range(rounds):
                page, first_ms = load(browser, path)
                firsts.append(first_ms)
                page.close()
            yield row_of(FIRST, WHO, "ms", firsts, {"nodes": nodes})
            page, _ = load(browser, path)
            for scene, command in SCENES.items():
                if command:
                    page.evaluate(command)
                    page.wait_for_timeout(200)
                frames = [ms for _ in range(rounds) for ms in frames_while_panning(page)]
                at = {"nodes": nodes, "scene": scene}
                yield row_of(FRAME, WHO, "ms", frames, at)
                yield row_of(SLOW, WHO, "ms", [statistics.quantiles(frames, n=20)[-1]], at)
                yield row_of(DRAW, WHO, "ms", draws(page), at)
                yield row_of(SIGHT, WHO, "nodes", [places_in_sight(page)], at)
            page.close()


def targets_of(results: Results) -> list[Target]:
    def of(what: str, nodes: int, **at: str) -> float | None:
        return results.median(what, WHO, nodes=nodes, **at)

    return [
        Target("HTML of 10,000 nodes", of(SIZE, 10_000), 3.0, "MB"),
        Target("its first picture", of(FIRST, 10_000), 1000.0, "ms"),
        *[
            Target(f"its frames while panning, {scene}: 19 of 20 within", of(SLOW, 10_000, scene=scene), 33.0, "ms")
            for scene in SCENES
        ],
        Target("HTML of 200,000 nodes", of(SIZE, 200_000), 60.0, "MB"),
        Target(
            "a watched search's processor time, the embedded model",
            results.median(COST, "page watched", model="the embedded model"),
            1.05,
            "x",
        ),
    ]


def parts_of(effort: str) -> list[Callable[[], Iterator[Row]]]:
    if effort == "tiny":
        return [lambda: pages((100,), 1), lambda: watched(1, 500, 20)]
    return [lambda: pages((10_000, 200_000), 3), lambda: watched(7)]


def main(arguments: list[str] | None = None) -> int:
    return harness.run(
        "view",
        title="The page that shows a search, measured",
        command="make bench-view",
        parts=parts_of,
        targets=targets_of,
        efforts=("full", "tiny"),
        packages=("numpy", "playwright"),
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
