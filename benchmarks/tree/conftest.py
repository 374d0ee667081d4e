"""Fixtures of the benchmarks: ``measure`` times one row, ``rng`` makes the values of its rounds."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.tree.effort import effort
from benchmarks.tree.rows import Row

Setup = Callable[[], tuple[Any, ...]]
Measure = Callable[[Row, Callable[..., Any], Setup], None]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.fixture
def measure(benchmark: BenchmarkFixture) -> Measure:
    """Time ``target(*setup())`` for as many rounds as the effort allows; setting up and tidying up are not timed."""

    def run(row: Row, target: Callable[..., Any], setup: Setup) -> None:
        def fresh() -> tuple[tuple[Any, ...], dict[str, Any]]:
            arguments = setup()
            gc.collect()  # the trees of earlier rounds; inside a round the collector does what it does for any program
            return arguments, {}

        arguments, _ = fresh()
        start_s = time.perf_counter()
        target(*arguments)  # the first run warms up, and says how many rounds there is time for
        first_s = time.perf_counter() - start_s
        del arguments
        fewest, most = effort().rounds
        rounds = max(fewest, min(most, int(effort().row_s / first_s)))
        benchmark.extra_info.update(asdict(row))
        benchmark.pedantic(target, setup=fresh, rounds=rounds, iterations=1)

    return run
