"""``kill -9`` at random moments: nothing lost, nothing doubled, budgets exact, at most a wave of work repeated a kill.

BAVT_KILLS says how often (10); `make soak` takes 200.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from run_worlds import Mortal, completed, questions, results, searcher, written
from scripted import World

from bavt_fast.runs import read_run

KILLS = int(os.environ.get("BAVT_KILLS", "10"))
WORLD, WAVE, TOKENS = World(seed=5, goal_share=0.02, dead_share=0.02), 8, 120
CHILD = """if True:
    import os, sys, time
    sys.path[:0] = sys.argv[4:]
    from run_worlds import Mortal, searcher
    from test_kills import TOKENS, WAVE, WORLD
    import bavt_fast as bavt
    from bavt_fast.runs import Run
    log = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    class Slow(Mortal):
        def propose(self, states, counts, limits):
            answers = super().propose(states, counts, limits)
            os.write(log, "".join(f"{q} {seed} {tried}\\n" for q, seed, tried in self.asked).encode())
            self.asked.clear()
            time.sleep(0.002)
            return answers
    Slow.__qualname__ = "Mortal"
    made = searcher(Slow(WORLD), WORLD, wave=WAVE)
    with Run(sys.argv[2], made, sys.argv[1], budget=bavt.Budget(tokens=TOKENS), flush_s=0.05) as run:
        print("go", flush=True)
        for line in run:
            pass
        print(run.summary().end, flush=True)
"""


def life(arguments: list[str], seconds: float | None, at_once: bool = False) -> str:
    """What a life says: it is killed so long after it has begun to ask, or after it was started (`at_once`)."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        said = "" if at_once else child.stdout.readline()
        if seconds is None:
            child.wait(timeout=300)
        else:
            time.sleep(seconds)
            child.send_signal(signal.SIGKILL)
        return said + child.stdout.read()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_kills_at_random_moments_lose_nothing_and_repeat_at_most_a_wave(tmp_path: Path) -> None:
    rows = questions(15 * KILLS)  # a fast machine answers a dozen before it is killed
    whole = Mortal(WORLD)
    completed(tmp_path / "whole", rows, searcher(whole, WORLD, wave=WAVE))
    path, log, out = written(tmp_path, rows), tmp_path / "log", tmp_path / "out"
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]
    arguments = [str(path), str(out), str(log), *folders]
    rng = random.Random(time.time_ns())
    kills = lives = 0
    while kills < KILLS and (not (out / "results.jsonl").exists() or len(list(read_run(out))) < len(rows)):
        if rng.random() < 0.2:  # while it starts, and perhaps later
            life(arguments, rng.uniform(0.2, 1.0), at_once=True)
            lives += 1
        said = life(arguments, rng.uniform(0.0, 0.12))
        assert said.startswith("go")
        kills += "done" not in said
        lives += 1
    assert life(arguments, None) == "go\ndone\n"
    found = results(out)
    assert found == results(tmp_path / "whole")
    assert all(line["spent"]["tokens"] <= TOKENS for line in found.values())
    asked = Counter(log.read_text().splitlines())
    assert asked.keys() == {f"{q} {seed} {tried}" for q, seed, tried in whole.asked}
    repeated = asked.total() - len(asked)
    assert repeated <= lives * WAVE
    assert kills >= KILLS // 2, "the run was over too soon to be killed often"
