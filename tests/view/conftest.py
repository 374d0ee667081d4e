"""A real browser for the tests of the page: Chromium without a window, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bavt_fast.view import html

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")  # its driver has an event loop, beside which no other can run
def browser() -> Iterator[Any]:
    if PROGRAM is None:
        pytest.skip("no Chromium on PATH; `make test-view` installs one where it may")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A tab in which nothing may go wrong: an error of a script, or a request to anywhere, fails the test."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: faults.append(request.url) if not _is_own(request.url) else None)
    yield page
    page.close()
    assert faults == []


def _is_own(url: str) -> bool:
    return url.startswith(("file:", "blob:", "http://127.0.0.1:"))


@pytest.fixture
def show(tab: Any, tmp_path: Path) -> Callable[[Any], Any]:
    """Opens the page of searches; returns the tab once the first picture is there."""

    def opened(sources: Any) -> Any:
        path = tmp_path / "tree.html"
        html(sources, path)
        tab.goto(path.as_uri())
        tab.locator("html[data-ready]").wait_for(state="attached")
        return tab

    return opened
