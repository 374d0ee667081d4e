"""Fixtures of the benchmarks: ``measure`` times one row, ``rng`` makes the values of its rounds."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.harness import Case, elapsed_s
from benchmarks.tree.effort import effort

Setup = Callable[[], tuple[Any, ...]]
Measure = Callable[[Case, Callable[..., Any], Setup], None]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Measure:
    """Time ``target(*setup())`` for as many rounds as the effort allows; setting up and tidying up are not timed."""

    def run(case: Case, target: Callable[..., Any], setup: Setup) -> None:
        def fresh() -> tuple[tuple[Any, ...], dict[str, Any]]:
            arguments = setup()
            gc.collect()  # the trees of earlier rounds; inside a round the collector does what it does for any program
            return arguments, {}

        first_s = elapsed_s(partial(target, *fresh()[0]))  # warms up, and says how many rounds there is time for
        benchmark.extra_info.update(asdict(case))
        benchmark.pedantic(target, setup=fresh, rounds=effort().limits.rounds(first_s), iterations=1)

    return run
