"""Water jugs: fill, empty and pour until some jug holds the target, as reasoning-gym's family "jugs" asks it.

A question is the capacities and the target, and a state is how much each jug holds. All begin empty:

    4 9 9 -> 6

A step is one move, written from where to where; jugs are letters, and nothing stands for the tap or for the drain:

    >A      fill A to its capacity
    A>      empty A
    A>B     pour from A into B until A is empty or B is full

A move that changes nothing is invalid. No number of moves ends a path unless the task is told one: what was poured so
far takes nothing from what can still be reached, for any jug can be emptied again. So a state is its volumes, whatever
moves led there, and a search that comes to the same volumes twice drops them the second time; jugs of one capacity are
alike in this.

The prompt is all that a step depends on: the target, and of each jug its volume and its capacity.

    6 0/4 5/9 9/9
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from bavt_fast._checks import as_count, as_share
from bavt_fast.protocols import Description, Node, Step

__all__ = ["Jugs", "JugsOracle", "JugsState", "distance", "gym_question", "make_oracle", "make_task"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_CAPACITY = 999
MOST_STATES = 100_000
"""Beyond these the exact solver gives up."""
_QUESTION = re.compile(r"\s*([1-9]\d{0,2}(?: +[1-9]\d{0,2})+) *-> *([1-9]\d{0,2})\s*", re.ASCII)
_STEP = re.compile(r"\s*([A-Z]?)>([A-Z]?)\s*", re.ASCII)
_MOVE = re.compile(r"fill ([A-Z])|empty ([A-Z])|pour ([A-Z])->([A-Z])", re.ASCII)


class JugsState(NamedTuple):
    """What each jug holds, what it can hold, what one of them is to hold, and the moves that led here."""

    volumes: tuple[int, ...]
    capacities: tuple[int, ...]
    target: int
    moves: tuple[str, ...] = ()


class Jugs:
    """The task. An answer is a JSON list of moves in the family's words, such as ``["fill A", "pour A->B"]``.

    Args:
        max_moves: a path that has made so many moves without the target is wrong; None for no limit.
    """

    def __init__(self, max_moves: int | None = None) -> None:
        self.max_moves = _checked_moves(max_moves)

    def initial_state(self, question: str) -> JugsState:
        """Parses the capacities of 2 to 26 jugs and the target, all from 1 to 999.

        Raises:
            TypeError, ValueError: it is not that.
        """
        if not isinstance(question, str):
            raise TypeError(f"question: expected capacities and a target as a str, got {type(question).__name__}")
        match = _QUESTION.fullmatch(question)
        capacities = tuple(map(int, match[1].split())) if match else ()
        if match is None or len(capacities) > len(LETTERS):
            raise ValueError(
                f"question: expected 2 to {len(LETTERS)} capacities and a target from 1 to {MAX_CAPACITY}, such as "
                f"'4 9 9 -> 6', got {question!r:.80}"
            )
        return JugsState((0,) * len(capacities), capacities, int(match[2]))

    def apply(self, state: JugsState, step: Step) -> JugsState | None:
        match = _STEP.fullmatch(step.text)
        if match is None:
            return None
        source, into = (LETTERS.index(letter) if letter else None for letter in match.groups())
        volumes = moved(state.volumes, state.capacities, source, into)
        if volumes is None:
            return None
        return state._replace(volumes=volumes, moves=(*state.moves, f"{match[1]}>{match[2]}"))

    def key(self, state: JugsState) -> Hashable:
        """Jugs that are alike may change places: what is left to do is the same. With a limit on the moves those that
        were made count too: fewer leave more."""
        volumes = tuple(sorted(zip(state.capacities, state.volumes, strict=True)))
        return volumes if self.max_moves is None else (volumes, len(state.moves))

    def describe(self, state: JugsState) -> Description:
        """A move takes a token at the least; where none brings the target at once there are two."""
        if state.target in state.volumes:
            return Description(True, True, json.dumps([in_words(move) for move in state.moves]))
        if self.max_moves is not None and len(state.moves) >= self.max_moves:
            return Description(True, False)
        is_near = any(state.target in volumes for volumes in _after(state.volumes, state.capacities))
        return Description(prompt=prompt_of(state.volumes, state.capacities, state.target), min_tokens=2 - is_near)

    def check_answer(self, question: str, answer: str | None) -> bool:
        """Whether an answer is a list of moves after which a jug holds the target. Moves that change nothing may be in
        it, as for the family.

        Raises:
            TypeError, ValueError: a bad question, as `initial_state`.
        """
        asked = self.initial_state(question)
        try:
            words = json.loads(answer or "")
        except (ValueError, TypeError, RecursionError):
            return False
        if not isinstance(words, list):
            return False
        volumes = asked.volumes
        for word in words:
            match = _MOVE.fullmatch(word) if isinstance(word, str) else None
            if match is None:
                return False
            filled, emptied, *poured = (None if letter is None else LETTERS.index(letter) for letter in match.groups())
            source, into = (None, filled) if filled is not None else (emptied, None) if emptied is not None else poured
            if max(source or 0, into or 0) >= len(volumes):
                return False
            volumes = moved(volumes, asked.capacities, source, into) or volumes
        return asked.target in volumes


class JugsOracle:
    """The perfect critic: ``gamma`` to the power of the moves that are left; ``unsolvable_value`` where none help.

    Up to some thousands of states of a puzzle, such as three jugs up to 30, it is quick.

    Args:
        gamma: what a move costs, in (0, 1].
        unsolvable_value: V of a state that cannot reach the target.
        max_moves: as of the task.
    """

    predicts: Literal["value", "residual"] = "value"

    def __init__(self, gamma: float = 0.9, unsolvable_value: float = 1e-6, max_moves: int | None = None) -> None:
        self._gamma = as_share("gamma", gamma)
        self._unsolvable_value = unsolvable_value
        self._max_moves = _checked_moves(max_moves)

    def score(self, candidates: Sequence[Node]) -> list[float]:
        return [self._value(node.state) for node in candidates]

    def _value(self, state: JugsState) -> float:
        left = distance(state)
        if left is None or (self._max_moves is not None and len(state.moves) + left > self._max_moves):
            return self._unsolvable_value
        return self._gamma**left


make_task = Jugs
"""What a model folder that names this module is given."""


def make_oracle(max_moves: int | None = None) -> JugsOracle:
    """The exact solver, as what a critic is to learn: 0 where the target cannot be reached.

    Args:
        max_moves: as of the task.
    """
    return JugsOracle(unsolvable_value=0.0, max_moves=max_moves)


def gym_question(problem: Mapping[str, Any]) -> str:
    """A problem of reasoning-gym's "jugs" as `Jugs` takes it, for `ReasoningGymTask`."""
    puzzle = problem["metadata"]["puzzle"]
    return f"{' '.join(map(str, puzzle['jug_capacities']))} -> {puzzle['target']}"


def _checked_moves(max_moves: int | None) -> int | None:
    return None if max_moves is None else as_count("max_moves", max_moves, minimum=1)


def prompt_of(volumes: Sequence[int], capacities: Sequence[int], target: int) -> str:
    """The target, and of each jug its volume and its capacity."""
    jugs = [f"{volume}/{capacity}" for volume, capacity in zip(volumes, capacities, strict=True)]
    return f"{target} {' '.join(jugs)}\n"


def in_words(move: str) -> str:
    """A step as the family writes it."""
    source, _, into = move.partition(">")
    return f"fill {into}" if not source else f"empty {source}" if not into else f"pour {source}->{into}"


def moved(
    volumes: tuple[int, ...], capacities: tuple[int, ...], source: int | None, into: int | None
) -> tuple[int, ...] | None:
    """The volumes after a move; None stands for the tap and the drain. None where there is no such move, or where it
    changes nothing."""
    count = len(volumes)
    if source == into or (source is not None and source >= count) or (into is not None and into >= count):
        return None
    there = MAX_CAPACITY if source is None else volumes[source]
    amount = there if into is None else min(there, capacities[into] - volumes[into])
    if not amount:
        return None
    after = list(volumes)
    if source is not None:
        after[source] -= amount
    if into is not None:
        after[into] += amount
    return tuple(after)


def _after(volumes: tuple[int, ...], capacities: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The volumes after each move that changes something."""
    places = [None, *range(len(volumes))]
    found = [moved(volumes, capacities, source, into) for source in places for into in places]
    return [after for after in found if after is not None]


def distance(state: JugsState) -> int | None:
    """The least number of moves to the target: exact, by search. None where it cannot be reached.

    Raises:
        ValueError: a puzzle of more than `MOST_STATES` states, or volumes that no moves bring about.
    """
    known = _distances(state.capacities, state.target)
    if state.volumes not in known:
        raise ValueError(f"state: expected volumes that moves from empty jugs bring about, got {state!r:.80}")
    return known[state.volumes]


@lru_cache(maxsize=4096)
def _distances(capacities: tuple[int, ...], target: int) -> dict[tuple[int, ...], int | None]:
    """Of all volumes that can be reached: once forward to find them, once back from those with the target."""
    start = (0,) * len(capacities)
    found: dict[tuple[int, ...], int | None] = {start: None}
    before: dict[tuple[int, ...], list[tuple[int, ...]]] = {start: []}
    open_states = deque([start])
    while open_states:
        volumes = open_states.popleft()
        for after in _after(volumes, capacities):
            if after not in found:
                if len(found) == MOST_STATES:
                    raise ValueError(f"state: expected a puzzle of at most {MOST_STATES} states, got {capacities}")
                found[after] = None
                before[after] = []
                open_states.append(after)
            before[after].append(volumes)
    open_states.extend(volumes for volumes in found if target in volumes)
    found.update(dict.fromkeys(open_states, 0))
    while open_states:
        volumes = open_states.popleft()
        left = found[volumes]
        assert left is not None, "it was counted when it was put there"
        for earlier in before[volumes]:
            if found[earlier] is None:
                found[earlier] = left + 1
                open_states.append(earlier)
    return found
