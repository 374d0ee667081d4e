"""What a browser makes of a page: headless Chromium, driven by Playwright, without a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import LeftOut

WINDOW = {"width": 1280, "height": 800}
_PAN = """(count) => new Promise((done) => {
  const intervals = [];
  let last = performance.now();
  const frame = () => {
    const now = performance.now();
    intervals.push(now - last);
    last = now;
    const turn = (2 * Math.PI * intervals.length) / 60;
    bavt.pane.pan(12 * Math.cos(turn), 12 * Math.sin(turn));
    if (intervals.length <= count) requestAnimationFrame(frame);
    else done(intervals.slice(1));
  };
  requestAnimationFrame(frame);
})"""
_DRAW = """(count) => {
  const { pane } = bavt;
  const times = [];
  for (let i = 0; i < count; i++) {
    const turn = (2 * Math.PI * i) / 60;
    pane.view.x += 12 * Math.cos(turn);
    pane.view.y += 12 * Math.sin(turn);
    const start = performance.now();
    pane.draw();
    pane.context.getImageData(0, 0, 1, 1);
    times.push(performance.now() - start);
  }
  return times;
}"""


@contextmanager
def opened() -> Iterator[Any]:
    """A browser. Raises LeftOut where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise LeftOut("playwright is not installed") from error
    if program is None:
        raise LeftOut("there is no Chromium on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def load(browser: Any, path: Path) -> tuple[Any, float]:
    """The page of a file, and the milliseconds from its navigation to the end of its first frame."""
    page = browser.new_page(viewport=WINDOW)
    page.goto(path.as_uri())
    page.locator("html[data-ready]").wait_for(state="attached", timeout=120_000)
    return page, float(page.evaluate("window.bavt.ready"))


def frames_while_panning(page: Any, count: int = 120) -> list[float]:
    """Milliseconds from frame to frame while every frame moves the tree, round in a circle, and so is drawn anew."""
    return list(page.evaluate(_PAN, count))


def draws(page: Any, count: int = 60) -> list[float]:
    """Milliseconds that drawing takes until its pixels are there, without waiting for the screen."""
    return list(page.evaluate(_DRAW, count))


def places_in_sight(page: Any) -> int:
    return int(page.evaluate("() => { bavt.pane.draw(); return bavt.pane.drawn; }"))
