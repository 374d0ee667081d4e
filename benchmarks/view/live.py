"""What it costs a search that its events are kept, that its page is served, and that somebody watches it.

Threads that the interpreter runs by turns take time from each other, so the whole search is timed, with the model that
ships with the package.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from benchmarks.harness import LeftOut, Limits, Row, ratios, rounds_of, row_of

SIDES = ("neither", "events kept", "page served", "page watched")
QUESTION = "5 11 23 47 -> 97"
TOKENS = 250
COST = "a search's time beside that without events and page"


def watched(rounds: int) -> Iterator[Row]:
    """Seconds of a search by the embedded model, as a ratio to the search that nobody records or watches."""
    try:
        from bavt_fast.model_folder import load_folder

        model = load_folder()
    except (ImportError, AttributeError) as error:
        raise LeftOut(f"the embedded model needs torch ({error})") from error
    sides = {who: _side(model, who) for who in SIDES}
    seconds = rounds_of(sides, Limits(0.0, fewest=rounds, most=rounds))
    for who in SIDES[1:]:
        yield row_of(COST, who, "x", ratios(seconds[who], seconds[SIDES[0]]), {"tokens": TOKENS})
    yield row_of("a search", SIDES[0], "s", seconds[SIDES[0]], {"tokens": TOKENS})


def _side(model: object, who: str) -> Callable[[], float]:
    from bavt_fast.budget import Budget
    from bavt_fast.searcher import Searcher
    from bavt_fast.view import Live

    record = who != "neither"
    own = model.settings.search  # type: ignore[attr-defined]
    searcher = Searcher(model.generator, model.critic, model.task, **own, record=record)  # type: ignore[attr-defined]

    def run() -> float:
        search = searcher.start(QUESTION, budget=Budget(tokens=TOKENS), seed=0)
        with ExitStack() as stack:
            if who.startswith("page"):
                live = stack.enter_context(Live(search))
                if who == "page watched":
                    threading.Thread(target=_watch, args=(live.url,), daemon=True).start()
                    while not live.watchers:
                        time.sleep(0.01)
            start_s = time.perf_counter()
            searcher.complete(search)
            return time.perf_counter() - start_s

    return run


def _watch(url: str) -> None:
    with urllib.request.urlopen(f"{url}events") as stream:
        while stream.read(65536):
            pass
