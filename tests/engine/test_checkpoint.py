"""Checkpoints: a search that was loaded goes on as if it had not been saved."""

from __future__ import annotations

import copy
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_search import Clock, FreeTask, Scripted, asks_of, in_child, seen, written_search
from search_checks import arrays

import bavt_fast as bavt
from bavt_fast.engine import Search
from bavt_fast.protocols import Step
from bavt_fast.tasks.countdown import Countdown

SEARCHES = int(os.environ.get("BAVT_CHECKPOINT_SEARCHES", "40"))


@pytest.fixture
def written(tmp_path: Path) -> tuple[Search, Path, Path]:
    return written_search(tmp_path)


@pytest.mark.parametrize("seed", range(SEARCHES))
def test_a_search_that_was_loaded_goes_on_as_it_would_have(seed: int, tmp_path: Path) -> None:
    steps = 60
    whole, times_s = Scripted(seed), []
    for number in range(steps):
        whole.save(tmp_path / str(number))
        times_s.append(whole.clock.now_s)
        whole.step(number)
    expected = seen(whole.search)
    rng = random.Random(seed)
    for moment in [0, *rng.sample(range(1, steps), 4)]:
        again = Scripted(seed)
        again.clock.now_s = times_s[moment]
        again.load(tmp_path / str(moment))
        for number in range(moment, steps):
            again.save(tmp_path / "again")  # reads the clock, as above
            if rng.random() < 0.2:
                before = asks_of(again.search)
                again.load(tmp_path / "again")
                assert asks_of(again.search) == before
            again.step(number)
        assert seen(again.search) == expected


def test_steps_of_a_cancelled_answer_are_kept_and_its_keys_keep_their_numbers(tmp_path: Path) -> None:
    search = Search("q", task=FreeTask(), budget=bavt.Budget(tokens=500), seed=1, clock=Clock())
    first = search.ask(1)[0]
    search.tell(first, ["a"])
    dropped = search.ask(1)[0]
    search.admit(dropped, ["b", "c"][: dropped.count])
    search.cancel(dropped)
    search.save(tmp_path / "file")
    loaded = Search.load(tmp_path / "file", FreeTask(), clock=Clock())
    assert [n.tried for n in loaded.nodes] == [n.tried for n in search.nodes]
    for each in (search, loaded):
        each.tell(each.ask(1)[0], ["d"])
    assert loaded._native.to_bytes() == search._native.to_bytes()


def test_countdown_with_prompts_of_its_own(tmp_path: Path) -> None:
    search = Search("4 5 6 10", task=Countdown(), budget=bavt.Budget(tokens=500), clock=Clock())
    search.tell(search.ask(1)[0], [Step("10 + 4 = 14 (left: 5 6 14)\n", 10)], [0.5])
    search.ask(1)
    search.save(tmp_path / "file")
    loaded = Search.load(tmp_path / "file", Countdown(), clock=Clock())
    assert asks_of(loaded) == asks_of(search)
    assert seen(loaded) == seen(search)


STEPS = [
    Step("", 1),
    Step("\n\0\x7f\u2028 \N{SNOWMAN} \U0001f600", 1),
    Step("\ud83d", 1),
    Step("\ud83d\ude00", 1),  # two surrogates, which a JSON escape would make one character
    Step("huge", 2**60, "end", 2**60, 2**60, 9e6, 1e308),
    Step("ids", 3, token_ids=(1, -5, 10**40), token_probabilities=(0.5, 0.0, 1e-320)),
    Step("infinite", 1, log_probability=-float("inf")),
    Step("numpy", 2, token_ids=tuple(np.arange(2)), token_probabilities=(np.float32(0.5), 1)),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: ascii(step.text)[:20])
def test_any_step_comes_back(step: Step, tmp_path: Path) -> None:
    search = Search("\ud800?", task=FreeTask(), budget=bavt.Budget(tokens=500), seed=2**63 - 1)
    search.tell(search.ask(1)[0], [step])
    search.save(tmp_path / "file")
    loaded = Search.load(tmp_path / "file", FreeTask())
    assert loaded.nodes[1].step == step
    assert seen(loaded) == seen(search)


# ---- Other processes


def test_a_forked_child_goes_on_as_its_parent_does(tmp_path: Path) -> None:
    scripted = Scripted(5)
    for number in range(15):
        scripted.step(number)

    def go_on() -> bytes:
        for number in range(15, 60):
            scripted.step(number)
        return scripted.search._native.to_bytes()

    assert in_child(lambda: (tmp_path / "child").write_bytes(go_on()) and None) == 0
    assert (tmp_path / "child").read_bytes() == go_on()


def test_a_file_is_loaded_in_another_process(written: tuple[Search, Path, Path], tmp_path: Path) -> None:
    search, path, _ = written
    script = """if True:
        import sys
        sys.path[:0] = sys.argv[3:]
        from scripted import World, WorldTask
        from bavt_fast.engine import Search
        from saved_search import Scripted
        again = Scripted(3)
        again.load(sys.argv[1])
        open(sys.argv[2], "wb").write(again.search._native.to_bytes())
    """
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    subprocess.run([sys.executable, "-c", script, path, tmp_path / "out", *folders], check=True)
    assert (tmp_path / "out").read_bytes() == search._native.to_bytes()


def test_a_search_is_saved_and_not_pickled(written: tuple[Search, Path, Path]) -> None:
    search, _, _ = written
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"save\(path\)"):
            copied(search)  # type: ignore[operator]


def test_asks_and_requests_are_pickled(written: tuple[Search, Path, Path]) -> None:
    search, _, _ = written
    for ask in search.open_asks():
        again = pickle.loads(pickle.dumps(ask))
        assert (again.ticket, again.node, again.count, again.limit) == (ask.ticket, ask.node, ask.count, ask.limit)
        for name in ("text", "prompt", "token_ids", "seed", "tried", "sampling", "seconds_left"):
            assert getattr(again.request, name) == getattr(ask.request, name)
        search.tell(again, ["!no"])
    assert search.open_asks() == []


class Number:
    """A task whose states, and their keys, are numbers."""

    def initial_state(self, question: str) -> float:
        return float(question)

    def apply(self, state: float, step: Step) -> float:
        return float(step.text)

    def key(self, state: float) -> Any:
        return state

    def describe(self, state: float) -> bavt.Description:
        return bavt.Description(prompt=f"{state}\n")


@pytest.mark.parametrize("question", ["nan", "1"])
def test_keys_that_are_not_equal_to_themselves(question: str, tmp_path: Path) -> None:
    search = Search(question, task=Number(), budget=bavt.Budget(tokens=50))
    for text in ("nan", "1.5", "nan", "1.5"):
        search.tell(search.ask()[0], [text])
    search.save(tmp_path / "saved")
    loaded = Search.load(tmp_path / "saved", Number())
    for one in (search, loaded):
        one.tell(one.ask()[0], ["1.5"])
        one.tell(one.ask()[0], ["nan"])
    assert search.result().duplicate_steps == loaded.result().duplicate_steps == 2
    assert arrays(loaded.tree) == arrays(search.tree)


def test_keys_that_are_new_every_time_are_named(tmp_path: Path) -> None:
    class Forgetful(Number):
        def key(self, state: float) -> Any:
            return object()

    search = Search("1", task=Forgetful(), budget=bavt.Budget(tokens=50))
    with pytest.raises(ValueError, match="key: expected of each state the same key every time, got the new one"):
        search.save(tmp_path / "saved")
    assert not list(tmp_path.iterdir())
