"""What it costs a search that its events are kept, that its page is served, and that somebody watches it.

Processor seconds of the whole process, the server's threads and the watcher's included: they do not depend on what else
the machine does. Once with the model that ships with the package, and once with one that costs nothing, where a search
is nothing but what is watched.
"""

from __future__ import annotations

import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from bavt_fast.budget import Budget
from bavt_fast.searcher import Searcher
from bavt_fast.view import Live
from bavt_fast.view.page import dump
from bavt_fast.view.server import Seen, look
from benchmarks.harness import LeftOut, Limits, Row, ratios, rounds_of, row_of
from benchmarks.view.searches import steps_of

SIDES = ("neither", "events kept", "page served", "page watched")
LOOK = "a look at a search"
COST = "processor time beside a search without events and page"


def watched(rounds: int, nodes: int = 20_000, tokens: int = 250) -> Iterator[Row]:
    """Processor time of searches as a ratio to the same search that nobody records or watches; and that of a look."""
    yield from _looks(nodes, rounds)
    yield from _rows("a free model", lambda record: _free(record, nodes), "Which words?", 20 * nodes, rounds)
    try:
        from bavt_fast.model_folder import load_folder

        model = load_folder()
    except (ImportError, AttributeError) as error:
        raise LeftOut(f"the embedded model needs torch ({error})") from error

    def embedded(record: bool) -> Searcher:
        return Searcher(model.generator, model.critic, model.task, **model.settings.search, record=record)

    yield from _rows("the embedded model", embedded, "5 11 23 47 -> 97", tokens, rounds)


def _looks(nodes: int, rounds: int) -> Iterator[Row]:
    """Milliseconds of what a server does for a watcher: for one who has nothing yet, and where nothing is new."""
    search = _free(True, nodes).start("Which words?", budget=Budget(tokens=20 * nodes))
    _free(True, nodes).complete(search)
    _, everything = look(search, Seen(), ending=False)
    for news, seen in (("everything", Seen()), ("nothing", everything)):
        times = []
        for _ in range(rounds):
            start_s = time.process_time()
            dump(look(search, seen, ending=False)[0])
            times.append(1e3 * (time.process_time() - start_s))
        yield row_of(LOOK, "server", "ms", times, {"nodes": nodes, "new": news})


def _free(record: bool, nodes: int) -> Searcher:
    rng = random.Random(0)
    return Searcher(steps_of(rng), lambda text: rng.random(), record=record, wave=4, max_nodes=nodes)


def _rows(name: str, make: Callable[[bool], Searcher], question: str, tokens: int, rounds: int) -> Iterator[Row]:
    sides = {who: _side(make, who, question, tokens) for who in SIDES}
    seconds = rounds_of(sides, Limits(0.0, fewest=rounds, most=rounds))
    for who in SIDES[1:]:
        yield row_of(COST, who, "x", ratios(seconds[who], seconds[SIDES[0]]), {"model": name})
    yield row_of("a search", SIDES[0], "s", seconds[SIDES[0]], {"model": name})


def _side(make: Callable[[bool], Searcher], who: str, question: str, tokens: int) -> Callable[[], float]:
    def run() -> float:
        searcher = make(who != SIDES[0])
        search = searcher.start(question, budget=Budget(tokens=tokens), seed=0)
        with ExitStack() as stack:
            if who.startswith("page"):
                live = stack.enter_context(Live(search))
                if who == "page watched":
                    threading.Thread(target=_watch, args=(live.url,), daemon=True).start()
                    while not live.watchers:
                        time.sleep(0.01)
            start_s = time.process_time()
            searcher.complete(search)
            return time.process_time() - start_s

    return run


def _watch(url: str) -> None:
    with urllib.request.urlopen(f"{url}events") as stream:
        while stream.read(65536):
            pass
