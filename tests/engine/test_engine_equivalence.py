"""The native engine against its twin over random programs: asks, answers out of order, cancels, more budget."""

from __future__ import annotations

import os
import random

import pytest
from engine_pair import EnginePair

PROGRAMS = int(os.environ.get("BAVT_ENGINE_PROGRAMS", "1000"))
CHUNKS = 20


def run_program(seed: int) -> EnginePair:
    rng = random.Random(seed)
    pair = EnginePair(rng, questions=rng.choice([1, 1, 3, 6]), leaves=rng.choice([1, 2, 8]))
    for _ in range(rng.choice([10, 30, 80])):
        one_call(pair, rng)
        pair.check()
        pair.now_s += rng.choice([0.0, rng.uniform(0.0, 0.5)])
    return pair


def one_call(pair: EnginePair, rng: random.Random) -> None:
    verb = rng.choices(["ask", "admit", "grow", "cancel", "stop", "extend", "add"], [30, 30, 30, 4, 0.5, 1, 0.5])[0]
    if verb == "ask":
        pair.ask(rng.choice([0, 1, 4, 16]))
    elif verb == "admit" and pair.asked:
        pair.admit(rng.sample(pair.asked, rng.randint(1, min(4, len(pair.asked)))))
    elif verb == "grow" and pair.admitted:
        pair.grow(rng.sample(pair.admitted, rng.randint(1, min(4, len(pair.admitted)))), rng.random() < 0.3)
    elif verb == "cancel" and pair.asked + pair.admitted:
        pair.cancel(*rng.choice(pair.asked + pair.admitted)[:2])
    elif verb == "stop":
        pair.stop(rng.randrange(len(pair.natives)), rng.choice(["cancelled", "interrupted", "error"]))
    elif verb == "extend":
        pair.extend(rng.randrange(len(pair.natives)))
    elif verb == "add":
        pair.add()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_engine_does_what_its_twin_does(chunk: int) -> None:
    reasons = set()
    for seed in range(chunk * PROGRAMS // CHUNKS, (chunk + 1) * PROGRAMS // CHUNKS):
        try:
            pair = run_program(seed)
        except AssertionError as error:
            raise AssertionError(f"program {seed}: {error}") from error
        reasons.update(question.stop_reason for question in pair.natives)
    assert len(reasons) > 3  # the programs reach the ends that there are


def test_programs_reach_every_end() -> None:
    reasons: set[str | None] = set()
    for seed in range(10_000, 10_150):
        reasons.update(question.stop_reason for question in run_program(seed).natives)
    assert reasons >= {None, "solved", "budget", "deadline", "exhausted", "max_nodes", "cancelled", "error"}
