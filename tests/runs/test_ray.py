"""Runs by Ray on a local cluster: workers and drivers that are killed lose nothing; totals hold (`make test-ray`).

BAVT_RAY_KILLS says how often a driver is killed at a random moment (10).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import local_cluster
from run_worlds import completed, questions, results, searcher, written
from scripted import World

import bavt_fast as bavt
from bavt_fast.runs import RunError, read_run

ray = pytest.importorskip("ray")

from bavt_fast.runs.ray import RayRun  # noqa: E402 (needs ray)

KILLS = int(os.environ.get("BAVT_RAY_KILLS", "10"))
WORLD, WAVE, WORKERS, TOKENS = World(seed=5, goal_share=0.02, dead_share=0.02), 4, 3, 120
MAKER = """
import os, time
from run_worlds import Mortal, searcher
from scripted import World

LOG = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

class Slow(Mortal):
    def propose(self, states, counts, limits):
        answers = super().propose(states, counts, limits)
        os.write(LOG, "".join(f"{{os.getpid()}} {{q}} {{seed}} {{tried}}\\n" for q, seed, tried in self.asked).encode())
        self.asked.clear()
        time.sleep(0.005)
        return answers

Slow.__qualname__ = "Mortal"

def make():
    return searcher(Slow({world}), {world}, wave={wave})
"""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests: it takes seconds to start, and half a minute on a busy machine."""
    with local_cluster(WORKERS + 1):
        yield


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a searcher that logs its asks with the process that made them."""
    source = MAKER.format(log=str(tmp_path / "log"), world=repr(WORLD), wave=WAVE)

    def made() -> Any:
        names: dict[str, Any] = {"__name__": "maker"}
        exec(source, names)
        return names["make"]()

    return made


def asks(folder: Path) -> list[list[str]]:
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_workers_that_are_killed_lose_nothing_and_repeat_at_most_a_wave(make: Any, tmp_path: Path) -> None:
    rows = questions(40)
    completed(tmp_path / "whole", rows, searcher(None, WORLD, wave=WAVE), budget=bavt.Budget(tokens=TOKENS))
    rng = random.Random(time.time_ns())
    killed: list[int] = []
    budget = bavt.Budget(tokens=TOKENS)
    with RayRun(tmp_path / "out", make, rows, budget=budget, workers=WORKERS) as run:
        for done, _ in enumerate(run, start=1):
            alive = sorted({int(ask[0]) for ask in asks(tmp_path)[-20:]} - {*killed})
            if done >= 8 * (len(killed) + 1) and alive and len(killed) < 3:
                killed.append(rng.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)
        summary = run.summary()
    assert (summary.end, summary.finished, summary.errors, len(killed) > 0) == ("done", 40, 0, True)
    found = results(tmp_path / "out")
    assert found == results(tmp_path / "whole")
    assert all(line["spent"]["tokens"] <= TOKENS for line in found.values())
    counts = Counter(tuple(ask[1:]) for ask in asks(tmp_path))
    assert counts.total() - len(counts) <= summary.lost_asks <= len(killed) * WAVE
    assert len({ask[0] for ask in asks(tmp_path)}) > len(killed), "others took their places"


def test_a_total_is_hard_over_all_workers(make: Any, tmp_path: Path) -> None:
    rows, budget = questions(20), bavt.Budget(tokens=TOKENS)
    total = bavt.Budget(tokens=800)
    with RayRun(tmp_path / "out", make, rows, budget=budget, workers=WORKERS, total=total) as run:
        list(run)
        summary = run.summary()
    assert summary.end == "total"
    assert 800 - 64 < summary.spent.tokens + summary.lost.tokens <= 800
    assert completed(tmp_path / "out", rows, searcher(None, WORLD, wave=WAVE), budget=budget).end == "done"


def test_a_searcher_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    def broken() -> Any:
        raise FileNotFoundError("no model folder at /models/none")

    with pytest.raises(RunError, match=r"cannot make its searcher \(FileNotFoundError: no model folder at /models"):
        RayRun(tmp_path / "out", broken, questions(3), budget=bavt.Budget(tokens=9), workers=1)
    assert not (tmp_path / "out").exists()


# ---- The command, in processes of its own that join the cluster


@pytest.fixture(autouse=True)
def hears_ctrl_c() -> Iterator[None]:
    """A background job is started deaf to it, and so are its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def command(tmp_path: Path, path: Path, *more: str) -> subprocess.Popen[str]:
    source = MAKER.format(log=str(tmp_path / "log"), world=repr(WORLD), wave=WAVE)
    (tmp_path / "maker.py").write_text(source)
    words = ["run", str(path), "--out", "out", "--searcher", "maker:make", "--budget-tokens", str(TOKENS), "--json"]
    cluster = ["--ray", ray.get_runtime_context().gcs_address, "--ray-workers", "2"]
    line = [sys.executable, "-m", "bavt_fast", *words, *cluster, *more]
    path_of = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": path_of}
    return subprocess.Popen(
        line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(event: str, child: subprocess.Popen[str], count: int = 1) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        count -= json.loads(line)["event"] == event
        if count == 0:
            return
    raise AssertionError(f"it ended before: {child.communicate()[1][-2000:]}")


def test_a_driver_that_is_killed_or_interrupted_goes_on(tmp_path: Path) -> None:
    rows = questions(200)  # a quick machine does 30 while Ctrl-C is on its way
    path = written(tmp_path, rows)
    completed(tmp_path / "whole", rows, searcher(None, WORLD, wave=WAVE), budget=bavt.Budget(tokens=TOKENS))
    for kind in (signal.SIGKILL, signal.SIGINT):
        child = command(tmp_path, path)
        try:
            until("result", child, 5)
            child.send_signal(kind)
            errors = child.communicate(timeout=120)[1]
        finally:
            child.kill()
            child.wait()
        assert child.returncode == (-9 if kind == signal.SIGKILL else 130), errors[-2000:]
    assert 10 <= len(list(read_run(tmp_path / "out"))) < len(rows)
    child = command(tmp_path, path)
    said, errors = child.communicate(timeout=240)
    end = json.loads(said.splitlines()[-1])
    assert (end["event"], end["end"], child.returncode) == ("end", "done", 0), errors[-2000:]
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    counts = Counter(tuple(ask[1:]) for ask in asks(tmp_path))
    assert counts.total() - len(counts) <= end["lost_asks"] <= 2 * WAVE, "one kill, and nothing for Ctrl-C"


def workers_of(tmp_path: Path, known: set[int]) -> list[int]:
    """The processes that have asked in this life and are alive."""
    found = {int(ask[0]) for ask in asks(tmp_path)} - known
    return sorted(pid for pid in found if command_line(pid).startswith(b"ray::"))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_drivers_and_workers_that_are_killed_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """The same command goes on each time. A third of the drivers dies early, a third loses a worker before."""
    rows = questions(150 * KILLS)  # a quick machine answers some dozen before each kill, and more in the long lives
    path = written(tmp_path, rows)
    completed(tmp_path / "whole", rows, searcher(None, WORLD, wave=WAVE), budget=bavt.Budget(tokens=TOKENS))
    rng = random.Random(time.time_ns())
    drivers = workers = 0
    while drivers < KILLS:
        known = {int(ask[0]) for ask in asks(tmp_path)}
        child = command(tmp_path, path)
        try:
            if drivers % 3 == 2:  # while it starts, and perhaps later
                time.sleep(rng.uniform(0.5, 3.0))
            else:
                until("result", child)
                time.sleep(rng.uniform(0.0, 0.2))
                alive = workers_of(tmp_path, known)
                if alive and drivers % 3 == 1:
                    os.kill(rng.choice(alive), signal.SIGKILL)
                    workers += 1
                    time.sleep(rng.uniform(0.0, 0.5))
        finally:
            child.kill()
            child.communicate()
        assert child.returncode == -9, "the run was over too soon to be killed often"
        drivers += 1
    child = command(tmp_path, path)
    said, errors = child.communicate(timeout=240 + 6 * KILLS)
    end = json.loads(said.splitlines()[-1])
    assert (end["event"], end["end"], child.returncode) == ("end", "done", 0), errors[-2000:]
    found = results(tmp_path / "out")
    assert found == results(tmp_path / "whole")
    assert all(line["spent"]["tokens"] <= TOKENS for line in found.values())
    assert workers > 0
    counts = Counter(tuple(ask[1:]) for ask in asks(tmp_path))
    repeated = counts.total() - len(counts)
    print(f"{drivers} drivers and {workers} workers killed, {end['lost_asks']} asks lost, {repeated} repeated")
    assert repeated <= end["lost_asks"] <= (2 * drivers + workers) * WAVE, "at most a wave of each worker"
