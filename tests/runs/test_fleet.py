"""Runs over workers that die: what one process alone gives, with nothing lost or doubled, and totals that hold."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fleet_pool import ThreadPool
from run_worlds import BUDGET, Killed, Mortal, completed, one_life, questions, results, searcher, written
from scripted import AsyncGenerator, StreamingGenerator, World

import bavt_fast as bavt
from bavt_fast.runs import RunError
from bavt_fast.runs.fleet import FleetRun
from bavt_fast.runs.worker import Made, Worker

SMALL = World(seed=7, goal_share=0.03)


def fleet_run(
    folder: Path, rows: Any, make: Callable[[], Any], size: int = 3, deaths: int = 0, seed: int = 0, **options: Any
) -> FleetRun:
    options = {"budget": BUDGET, **options}
    own = {name: options[name] for name in ("seed", "verify", "keep") if name in options}
    pool = ThreadPool(size, lambda place: Worker(make, options["budget"], wait_s=0.05, **own), deaths, seed)
    return FleetRun(folder, pool, rows, **options)


def made(world: World = SMALL, generators: list[Mortal] | None = None, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        generator = Mortal(world)
        if generators is not None:
            generators.append(generator)
        return searcher(generator, world, **{"wave": 4, **options})

    return make


def asked(generators: list[Mortal]) -> Counter[Any]:
    return Counter(ask for generator in generators for ask in generator.asked)


@pytest.mark.parametrize("size", [1, 3])
def test_a_fleet_gives_what_one_process_gives(size: int, tmp_path: Path) -> None:
    rows = [*questions(10), {"id": "own", "question": "q", "budget_tokens": 30, "seed": 9}]
    path = written(tmp_path, [*rows, "broken"])
    whole = Mortal(SMALL)
    expected = completed(tmp_path / "whole", path, searcher(whole, SMALL, wave=4))
    generators: list[Mortal] = []
    summary = fleet_run(tmp_path / "out", path, made(generators=generators), size).complete()
    assert summary == expected
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert asked(generators) == Counter(whole.asked)
    assert (tmp_path / "out" / "run.json").read_text() == (tmp_path / "whole" / "run.json").read_text()


@pytest.mark.parametrize("kind", ["coroutine", "stream"])
def test_other_generators_give_the_same(kind: str, tmp_path: Path) -> None:
    def make() -> Any:
        generator: Any = AsyncGenerator(SMALL) if kind == "coroutine" else StreamingGenerator(SMALL)
        return searcher(generator, SMALL, wave=4)

    rows = questions(9)
    completed(tmp_path / "whole", rows, searcher(AsyncGenerator(SMALL).inner, SMALL, wave=4))
    assert fleet_run(tmp_path / "out", rows, make, deaths=2).complete().end == "done"
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.parametrize("seed", range(4))
def test_dead_workers_lose_at_most_a_wave_each_and_the_results_are_the_same(seed: int, tmp_path: Path) -> None:
    rows = questions(16)
    completed(tmp_path / "whole", rows, searcher(Mortal(SMALL), SMALL, wave=4))
    generators: list[Mortal] = []
    run = fleet_run(tmp_path / "out", rows, made(generators=generators), deaths=6, seed=seed)
    pool: Any = run._pool
    summary = run.complete()
    assert (summary.end, summary.errors) == ("done", 0)
    assert pool.died > 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    counts = asked(generators)
    repeated = counts.total() - len(counts)
    assert 0 < repeated <= summary.lost_asks <= 4 * pool.died


def test_a_run_goes_on_with_workers_and_without(tmp_path: Path) -> None:
    rows = questions(14)
    completed(tmp_path / "whole", rows, searcher(Mortal(SMALL), SMALL, wave=4))
    rng = random.Random(3)
    for life in range(8):
        if life % 2:
            one_life(tmp_path / "out", rows, rng.randint(1, 5), SMALL, settings={"wave": 4})
            continue
        with fleet_run(tmp_path / "out", rows, made(), seed=life, deaths=1) as run:
            for done, _ in enumerate(run, start=1):
                if done == 2:
                    break
    assert fleet_run(tmp_path / "out", rows, made()).complete().end == "done"
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_a_second_loop_is_refused_unless_all_is_done(tmp_path: Path) -> None:
    with fleet_run(tmp_path, questions(6), made()) as run:
        assert next(iter(run))
        with pytest.raises(ValueError, match="expected one loop, whose workers end with it; make it again to go on"):
            list(run)
    with fleet_run(tmp_path, questions(6), made()) as run:
        list(run)
        assert (list(run), run.summary().end) == ([], "done")


def test_answers_that_the_task_does_not_take_are_said_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="questions: 3 have an answer") as said:
        fleet_run(tmp_path / "verified", questions(3, answer="x"), made()).complete()
    assert len(said) == 1
    fleet_run(tmp_path / "compared", questions(3, answer="x"), made(), verify=False).complete()


# ---- The total


@pytest.mark.parametrize("kind", ["tokens", "cost", "tool_calls"])
def test_the_total_is_hard_over_all_workers_and_lives(kind: str, tmp_path: Path) -> None:
    amount = {"tokens": 500, "cost": 0.5, "tool_calls": 60}[kind]
    settings = {"token_cost": 0.001, "max_step_tokens": 6}
    rows, total = questions(20), bavt.Budget(**{kind: amount})
    summaries = []
    for life in range(4):
        run = fleet_run(tmp_path, rows, made(**settings), deaths=1, seed=life, total=total)
        with run:
            for _ in run:
                if life < 2:
                    break
            summaries.append(run.summary())
        now = summaries[-1]
        assert getattr(now.spent, kind) + getattr(now.lost, kind) <= amount
    left = amount - getattr(now.spent, kind) - getattr(now.lost, kind)
    assert (now.end, now.finished < 20) == ("total", True)
    assert 0 <= left < {"tokens": 6, "cost": 0.0061, "tool_calls": 1}[kind]
    more = fleet_run(tmp_path, rows, made(**settings), total=bavt.Budget(**{kind: 100 * amount})).complete()
    assert more.end == "done"
    completed(tmp_path / "whole", rows, searcher(Mortal(SMALL), SMALL, wave=4, **settings))
    assert results(tmp_path) == results(tmp_path / "whole")


def test_what_workers_had_when_a_life_was_killed_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind a life that ended in order, and where they went on with questions that had begun."""
    rows, make = questions(8), made(max_step_tokens=6)
    assert fleet_run(tmp_path, rows, make, total=bavt.Budget(tokens=200)).complete().end == "total"
    run = fleet_run(tmp_path, rows, make, total=bavt.Budget(tokens=400))
    pool: Any = run._pool
    before, wait = run.lost_asks, pool.wait

    def killed(timeout_s: float) -> Any:
        if any(place.questions for place in run._places):
            raise Killed
        return wait(timeout_s)

    monkeypatch.setattr(run, "_end", pool.close)  # nothing is written any more
    pool.wait = killed
    with run, pytest.raises(Killed):
        list(run)
    given = sum(len(place.questions) for place in run._places)
    assert given > 0
    with fleet_run(tmp_path, rows, make, total=bavt.Budget(tokens=400)) as again:
        assert again.lost_asks == before + given


# ---- What ends a run


def test_a_searcher_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    def make() -> Any:
        raise FileNotFoundError("no model folder at /models/none")

    with pytest.raises(RunError, match=r"worker \d: cannot make its searcher \(FileNotFoundError: no model folder"):
        fleet_run(tmp_path / "out", questions(3), make)
    assert not (tmp_path / "out").exists()
    with pytest.raises(RunError, match=r"expected a function that makes a bavt\.Searcher, got 7"):
        fleet_run(tmp_path / "out", questions(3), lambda: 7)


def test_workers_that_die_one_after_the_other_end_the_run_and_it_goes_on_later(tmp_path: Path) -> None:
    class Deadly(Mortal):
        def propose(self, *arguments: Any) -> Any:
            raise SystemExit("out of memory")

    Deadly.__qualname__ = "Mortal"
    rows = questions(5)
    with fleet_run(tmp_path, rows, lambda: searcher(Deadly(SMALL), SMALL, wave=4), size=1) as run:
        with pytest.raises(RunError, match=r"worker 0: died 3 times without an answer \(.*SystemExit: out of memory"):
            list(run)
        assert run.summary().spent.tokens == 0
    assert fleet_run(tmp_path, rows, made()).complete().end == "done"


def test_workers_search_with_the_same(tmp_path: Path) -> None:
    policies = iter(["power", "best_first"] * 9)

    def make() -> Any:
        return searcher(Mortal(SMALL), SMALL, wave=1, policy=next(policies))

    with fleet_run(tmp_path, questions(9), make) as run, pytest.raises(RunError, match="the same as the others"):
        list(run)


def test_another_version_of_a_task_is_found_out(tmp_path: Path) -> None:
    one_life(tmp_path, questions(4), 4)

    def make() -> Any:
        return bavt.Searcher(Mortal(), None, searcher(world=World(seed=99)).task, wave=8, step_tool_calls=1)

    with pytest.raises((RunError, ValueError), match=r"critic: expected|does not fit"):
        fleet_run(tmp_path, questions(4), make)


def test_questions_that_failed_go_on(tmp_path: Path) -> None:
    class Failing(Mortal):
        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            if is_down and any(state.text.startswith("q1\n") for state in states):
                raise OSError("no such model")
            return super().propose(states, counts, limits)

    def make() -> Any:
        return searcher(Failing(SMALL), SMALL, wave=4)

    rows = questions(4)
    for is_down in (True, False):
        summary = fleet_run(tmp_path, rows, make, retry_errors=True).complete()
        assert (summary.finished, summary.errors) == (4, is_down)
    assert all(line["spent"]["tokens"] <= 120 for line in results(tmp_path).values())


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_ctrl_c_lets_asks_in_flight_be_answered(kind: str, tmp_path: Path) -> None:
    generators: list[Mortal] = []

    def make() -> Any:
        if kind == "plain":
            return made(generators=generators)()
        generator = AsyncGenerator(SMALL)
        return searcher(generator, SMALL, wave=4)

    rows = questions(30)
    completed(tmp_path / "whole", rows, searcher(Mortal(SMALL) if kind == "plain" else AsyncGenerator(SMALL), SMALL))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with fleet_run(tmp_path / "out", rows, make) as run:
            pool: Any = run._pool
            wait = pool.wait

            def pressed(timeout_s: float) -> Any:
                if pool.exchanges >= 12:
                    pool.wait = wait
                    signal.raise_signal(signal.SIGINT)
                return wait(timeout_s)

            pool.wait = pressed
            list(run)
            assert run.summary().end == "interrupted"
    finally:
        signal.signal(signal.SIGINT, before)
    summary = fleet_run(tmp_path / "out", rows, make).complete()
    assert (summary.end, summary.lost_asks) == ("done", 0)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    if kind == "plain":
        assert max(asked(generators).values()) == 1


def test_ctrl_c_while_the_driver_is_at_work_waits_for_no_worker_that_nobody_called(tmp_path: Path) -> None:
    """What the workers had reported by then is written, and they are told to end."""
    rows = questions(30)
    completed(tmp_path / "whole", rows, searcher(Mortal(SMALL), SMALL))
    with fleet_run(tmp_path / "out", rows, made()) as run:
        write, left = run.before_wait, [12]

        def pressed() -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            write()

        run.before_wait = pressed  # type: ignore[method-assign]
        began_s = time.monotonic()
        list(run)
        assert (run.summary().end, left[0] < 0, time.monotonic() - began_s < 20) == ("interrupted", True, True)
    summary = fleet_run(tmp_path / "out", rows, made()).complete()
    assert (summary.end, summary.lost_asks) == ("done", 0)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_searches_outcomes_and_facts_come_from_the_workers(tmp_path: Path) -> None:
    def make() -> Made:
        return Made(made()(), lambda row, result: {"shout": row.question.upper()}, {"model": "a"})

    fleet_run(tmp_path, questions(4), make, keep=True).complete()
    assert {line["shout"] for line in results(tmp_path).values()} == {"Q0", "Q1", "Q2", "Q3"}
    assert len(bavt.view.pictures(tmp_path)) == 4
    with pytest.raises(RunError, match=r"about.model: expected 'a', .* got 'b'"):
        fleet_run(tmp_path, questions(4), lambda: Made(made()(), None, {"model": "b"}))
