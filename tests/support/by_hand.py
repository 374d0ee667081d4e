"""A search driven by hand: its start, and answers as a scripted world gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from scripted import ScriptedGenerator, World, WorldTask

import bavt_fast as bavt
from bavt_fast.engine import Ask, Search
from bavt_fast.protocols import Step

EASY = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, branching=26, depth=8, min_tokens=0)
TOKENS = bavt.Budget(tokens=400)


def start(world: World = EASY, tokens: int = 400, seed: int = 0, **fields: Any) -> Search:
    return Search("q", task=WorldTask(world), budget=bavt.Budget(tokens=tokens), seed=seed, **fields)


def steps_for(search: Search, ask: Ask, world: World = EASY) -> list[Step]:
    return ScriptedGenerator(world).steps(ask.request, ask.count, ask.limit)


def values_for(search: Search, ask: Ask, steps: Sequence[Step], world: World = EASY) -> list[float]:
    """The critic's numbers, one per step; of steps that lead nowhere they do not matter."""
    state, task = search.nodes[ask.node].state, search.task
    after = [task.apply(state, step) for step in steps]
    return [0.5 if state is None else world.value(state) for state in after]


def answer(search: Search, ask: Ask, world: World = EASY) -> list[int]:
    steps = steps_for(search, ask, world)
    return search.tell(ask, steps, values_for(search, ask, steps, world))


def unchanged(search: Search, call: Callable[[], Any], error: type[Exception], match: str) -> None:
    """The call is refused, and nothing has changed, to the last bit."""
    before = search._native.to_bytes(), len(search.nodes), list(search.refused), search.error
    with pytest.raises(error, match=match):
        call()
    assert (search._native.to_bytes(), len(search.nodes), search.refused, search.error) == before
