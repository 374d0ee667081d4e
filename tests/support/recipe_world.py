"""A scripted model and critic for the recipe's search: seeded, and logging every call."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

INF, NAN = math.inf, math.nan
# How a scripted critic draws its values. Ties, signs and zeros decide the order of children; what is not a
# finite float64 takes another path through our search.
VALUES: dict[str, Callable[[random.Random], Any]] = {
    "uniform": lambda rng: rng.random(),
    "signed": lambda rng: rng.uniform(-1, 1),
    "negative": lambda rng: -rng.random(),
    "ties": lambda rng: rng.choice((0.0, 0.5, 1.0)),
    "zero": lambda rng: rng.choice((0.0, -0.0)),
    "constant": lambda rng: 0.1,
    "large": lambda rng: rng.choice((-1.0, 1.0)) * 10.0 ** rng.randint(-300, 200),
    "overflowing": lambda rng: rng.choice((1.7e308, 1.0, -1.7e308)),
    "integers": lambda rng: rng.choice((-2, 0, 3, 2**60 + 1, True)),
    "numpy": lambda rng: np.float64(rng.random()),
    "float32": lambda rng: np.float32(rng.random()),
    "rare nan": lambda rng: NAN if rng.random() < 0.1 else rng.random(),
    "nan": lambda rng: NAN,
    "rare inf": lambda rng: rng.choice((INF, -INF)) if rng.random() < 0.1 else rng.random(),
}
CONTAINERS: dict[str, Callable[[list[str]], Iterable[str]]] = {
    "list": list,
    "tuple": tuple,
    "generator": iter,
    "dict": dict.fromkeys,
}


@dataclass
class Script:
    """What a scripted model and critic do; `seed` and the order of calls fix every answer."""

    seed: int = 0
    values: str = "uniform"
    container: str = "list"
    branching: tuple[int, ...] = (3,)
    empty_chance: float = 0.0
    budget: int = 50
    max_depth: float = 10
    exploration: float = 1.0


@dataclass
class ScriptedWorld:
    """Model and critic in one; logs every call with what the search shows at that moment."""

    script: Script
    log: list[tuple[Any, ...]] = field(default_factory=list)
    search: Any = None

    def __post_init__(self) -> None:
        self.rng = random.Random(self.script.seed)
        self.reused: list[str] = []

    def generate_next_steps(self, text: str, num_candidates: int) -> Iterable[str]:
        self.log.append(("steps", text, num_candidates, self.search.remaining_budget))
        count = 0 if self.rng.random() < self.script.empty_chance else self.rng.choice(self.script.branching)
        self.reused[:] = [f"s{i}" for i in range(count)]  # the same list again and again, as some models return
        return self.reused if self.script.container == "list" else CONTAINERS[self.script.container](self.reused)

    def estimate_residual_value(self, trajectory_text: str) -> Any:
        self.log.append(("value", trajectory_text, self.search.remaining_budget))
        return VALUES[self.script.values](self.rng)


def run_search(search_class: Any, ucb_class: Any, script: Script) -> tuple[str, list[tuple[Any, ...]], int]:
    world = ScriptedWorld(script)
    world.search = search_class(world, world, script.budget)
    world.search.ucb = ucb_class(script.exploration)
    with np.errstate(all="ignore"):
        answer = world.search.search("question", script.max_depth)
    return answer, world.log, world.search.remaining_budget
