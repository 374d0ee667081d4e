"""A Countdown puzzle whose every step is listed by hand, for the budget benchmark's methods.

1 2 3 -> 6    A 3 - 2 = 1, dead, V 0.9    C invalid    B 3 * 2 = 6, V 0.6    D 2 + 1 = 3, V 0.7      10 tokens each
A             1 + 1 = 2    1 * 1 = 1                                                                  8 tokens each
B             6 + 1 = 7    6 * 1 = 6, right
D             3 + 3 = 6, right    3 - 3 = 0
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bavt_fast.protocols import Node, Step, StepRequest

QUESTION = "1 2 3 -> 6"


def step(text: str, tokens: int, probability: float) -> Step:
    ids = (sum(text.encode()), *range(1, tokens))
    return Step(text, tokens, token_ids=ids, token_probabilities=(probability, *[1.0] * (tokens - 1)))


STEPS: dict[str, list[tuple[Step, float]]] = {
    "1 2 3": [
        (step("3 - 2 = 1 (left: 1 1)", 10, 0.4), 0.9),
        (step("3 + 2 = 6 (left: 1 6)", 10, 0.1), 0.5),
        (step("3 * 2 = 6 (left: 1 6)", 10, 0.3), 0.6),
        (step("2 + 1 = 3 (left: 3 3)", 10, 0.2), 0.7),
    ],
    "1 1": [(step("1 + 1 = 2 (left: 2)", 8, 0.6), 0.1), (step("1 * 1 = 1 (left: 1)", 8, 0.4), 0.2)],
    "1 6": [(step("6 + 1 = 7 (left: 7)", 8, 0.7), 0.3), (step("6 * 1 = 6 (left: 6)", 8, 0.3), 0.8)],
    "3 3": [(step("3 + 3 = 6 (left: 6)", 8, 0.5), 0.95), (step("3 - 3 = 0 (left: 0)", 8, 0.5), 0.1)],
}


def prompt(numbers: str) -> str:
    return f"Target: 6 (left: {numbers})\n"


class ListedGenerator:
    """Proposes the listed steps in their order; counts its calls."""

    def __init__(self) -> None:
        self.steps = {prompt(numbers): [one for one, _ in steps] for numbers, steps in STEPS.items()}
        self.calls = 0

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        self.calls += 1
        return [
            self.steps[request.prompt][len(request.tried) : len(request.tried) + count]
            for request, count in zip(states, counts, strict=True)
        ]


class ListedCritic:
    predicts = "value"

    def __init__(self) -> None:
        self.values = {one.text: value for steps in STEPS.values() for one, value in steps}

    def score(self, candidates: Sequence[Node]) -> list[float]:
        return [self.values[node.step.text] for node in candidates if node.step is not None]


class ListedRandom:
    """Stands in for a numpy generator: the numbers that a test gives, then an error."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = iter(numbers)

    def random(self) -> float:
        return next(self._numbers)


class SeededGenerator:
    """Draws one of the listed steps by the request's seed, without those tried: as a model would."""

    def __init__(self) -> None:
        self.steps = ListedGenerator().steps

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        return [self._draw(*ask) for ask in zip(states, counts, strict=True)]

    def _draw(self, request: StepRequest, count: int) -> list[Step]:
        tried = {one.text for one in request.tried}
        left = [one for one in self.steps[request.prompt] if one.text not in tried]
        weights = [one.token_probabilities[0] for one in left]
        drawn = []
        for candidate in range(count if left else 0):
            u = math.modf((request.seed % 2**32) / 2**32 + candidate * 0.6180339887)[0] * sum(weights)
            place = next((i for i in range(len(left)) if u < sum(weights[: i + 1])), -1)
            drawn.append(left[place])
        return drawn
