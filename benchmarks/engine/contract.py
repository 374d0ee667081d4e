"""All that the benchmarks of the engine know of the search's protocols: where a protocol changes, this file follows.

A generator and a critic that cost next to nothing, tasks that see what they are asked, and the questions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bavt_fast import Budget, Searcher
from bavt_fast._core import countdown_solvable, untracked
from bavt_fast.protocols import Description, GenerationStatistics, Node, Step, StepRequest
from bavt_fast.tasks.countdown import Countdown
from bavt_fast.tasks.text import TextTask
from benchmarks.harness import Stopwatch, elapsed_s

STEP_TOKENS = 10
PREPARED = 65_537  # a prime: questions side by side never come round to their own steps again
STEP_TEXT = "Step {:05d}: then x + {:05d} = {:05d}, which is less.\n"
CRITIC_VALUES = 997  # a prime too
TARGET = 997  # of Countdown: a prime that few sets of small numbers reach


class FreeText:
    """Hands out steps of plain text that were made beforehand: `STEP_TOKENS` each, all different."""

    def __init__(self) -> None:
        # What lives on is looked at by the garbage collector again and again, which would count as the search's.
        texts = [STEP_TEXT.format(i, i % 977, i % 1013) for i in range(PREPARED)]
        self._steps = [untracked((Step(text, STEP_TOKENS),)) for text in texts]
        self._next = 0

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[Any]:
        first, self._next = self._next, (self._next + len(states)) % PREPARED
        steps = self._steps[first : first + len(states)]
        return steps if len(steps) == len(states) else steps + self._steps[: self._next]


class FreeCountdown:
    """Replays legal steps of each state, one after the other; they are made the first time that a state is seen."""

    def __init__(self) -> None:
        self._steps: dict[str, list[list[Step]]] = {}

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        return [self._step(state, limit) for state, limit in zip(states, limits, strict=True)]

    def _step(self, request: StepRequest, limit: int) -> list[Step]:
        steps = self._steps.get(request.text)
        if steps is None:
            steps = self._steps[request.text] = [[step] for step in legal_steps(request.text)]
        found = steps[len(request.tried) % len(steps)]
        if found[0].tokens > limit:
            return [Step("", limit, "limit")]
        return found


def legal_steps(prompt: str) -> list[Step]:
    """All steps from a state that the task shows as ``Target: 24 (left: 4 5 6 10)``, as the task writes them."""
    numbers = [int(word) for word in prompt.rpartition("left: ")[2].strip().rstrip(")").split()]
    texts: dict[str, int] = {}
    for i, j in itertools.combinations(range(len(numbers)), 2):
        b, a = numbers[i], numbers[j]  # ascending: a is the larger
        rest = [number for place, number in enumerate(numbers) if place not in (i, j)]
        results = [("+", a + b), ("-", a - b), ("*", a * b)] + ([("/", a // b)] if b and a % b == 0 else [])
        for operator, result in results:
            if result <= 999:
                left = sorted([*rest, result])
                texts[f"{a} {operator} {b} = {result} (left: {' '.join(map(str, left))})"] = 7 + len(left)
    return [Step(text, tokens) for text, tokens in texts.items()]


class FreeCritic:
    """Values that were drawn beforehand."""

    predicts = "value"

    def __init__(self) -> None:
        values = [0.05 + 0.9 * (i * 619 % CRITIC_VALUES) / CRITIC_VALUES for i in range(CRITIC_VALUES)]
        self._values = itertools.cycle(values)

    def score(self, candidates: Sequence[Node]) -> list[float]:
        return list(itertools.islice(self._values, len(candidates)))


class Watched:
    """A generator and a critic whose time and steps are counted from then on."""

    def __init__(self, generator: Any, critic: Any) -> None:
        self.steps = 0
        streams = hasattr(generator, "submit")
        answers = "collect" if streams else "propose"
        self._answers = getattr(generator, answers)
        setattr(generator, answers, self._counted)
        calls = (answers, "submit", "discard") if streams else (answers,)
        self._clocks = [*(Stopwatch(generator, call) for call in calls), Stopwatch(critic, "score")]

    def _counted(self, *arguments: Any) -> Any:
        answers = self._answers(*arguments)
        proposals = answers if arguments else [steps for _, steps in answers]  # `collect` takes nothing
        self.steps += sum(map(len, proposals))
        return answers

    def run(self, search: Callable[[], object]) -> tuple[float, float, int]:
        """Seconds of a search, those of them outside generator and critic, and the steps proposed."""
        inside_s, steps = sum(clock.seconds for clock in self._clocks), self.steps
        total_s = elapsed_s(search)
        return total_s, total_s - (sum(clock.seconds for clock in self._clocks) - inside_s), self.steps - steps


class Recorded:
    """What a streaming generator told and a critic gave from then on, in order, to be played back without either."""

    def __init__(self, generator: Any, critic: Any) -> None:
        self.told: list[Any] = []
        self.scores: list[Any] = []
        self.predicts = critic.predicts
        generator.collect = self._keeping(generator.collect, self.told)
        critic.score = self._keeping(critic.score, self.scores)

    @staticmethod
    def _keeping(call: Callable[..., Any], kept: list[Any]) -> Callable[..., Any]:
        def keeping(*arguments: Any) -> Any:
            result = call(*arguments)
            kept.append(list(result))
            return result

        return keeping

    def clear(self) -> None:
        self.told.clear()
        self.scores.clear()


class Playback:
    """A generator and a critic in one, for the same search again: they tell what was recorded, once in order."""

    def __init__(self, recorded: Recorded) -> None:
        self.predicts = recorded.predicts
        self._told, self._scores = iter([*recorded.told]), iter([*recorded.scores])

    def propose(self, states: Any, counts: Any, limits: Any) -> Any:
        raise AssertionError("a recorded search streams")

    def submit(self, *arguments: Any) -> None:
        pass

    def collect(self) -> Any:
        return next(self._told)

    def discard(self, tickets: Sequence[int]) -> None:
        pass

    def statistics(self) -> GenerationStatistics:
        return GenerationStatistics()

    def score(self, candidates: Sequence[Node]) -> Any:
        return next(self._scores)


GENERATORS = {"TextTask": FreeText, "Countdown": FreeCountdown}
TASKS = {"TextTask": TextTask, "Countdown": Countdown}


class Coroutine:
    """A generator whose `propose` is a coroutine that never waits."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    async def propose(self, *arguments: Any) -> Any:
        return self._generator.propose(*arguments)


def searcher_of(task: str, wave: int, coroutine: bool = False, **options: Any) -> tuple[Searcher, Watched]:
    """A searcher whose generator and critic are free, and watched."""
    generator, critic = GENERATORS[task](), FreeCritic()
    watched = Watched(generator, critic)
    asked = Coroutine(generator) if coroutine else generator
    return Searcher(asked, critic, TASKS[task](), wave=wave, **options), watched


def questions_of(task: str, count: int) -> list[str]:
    """Different questions. Those of Countdown have five numbers and no solution, so that no search ends early."""
    if task == "TextTask":
        return [f"Question {i}: which number comes next, and why?" for i in range(count)]
    numbers = np.array(list(itertools.islice(itertools.combinations(range(1, 20), 5), 2 * count)), dtype=np.int32)
    unsolvable = numbers[~countdown_solvable(numbers, np.full(len(numbers), TARGET, dtype=np.int32))]
    return [f"{' '.join(map(str, row))} -> {TARGET}" for row in unsolvable[:count]]


def budget_of(steps: int) -> Budget:
    return Budget(tokens=steps * STEP_TOKENS)


# ---- Verdicts ------------------------------------------------------------------------------------------------------


class CountedVerdicts:
    """A task that counts the different terminal states that steps lead to, and how often one is described."""

    def __init__(self, task: str) -> None:
        self._task = TextTask(max_depth=3) if task == "TextTask" else Countdown()
        self._terminal: set[Any] = set()
        self.verify_calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def apply(self, state: Any, step: Step) -> Any:
        child = self._task.apply(state, step)
        if child is not None and self._task.describe(child).terminal:
            self._terminal.add(self._task.key(child))
        return child

    def describe(self, state: Any) -> Description:
        about = self._task.describe(state)
        self.verify_calls += about.terminal
        return about

    @property
    def terminal_states(self) -> int:
        return len(self._terminal)


def verify_calls_per_terminal_state(task: str, steps: int) -> float:
    counted = CountedVerdicts(task)
    question = "4 5 6 10" if task == "Countdown" else "question"
    Searcher(GENERATORS[task](), FreeCritic(), counted).search(question, budget=budget_of(steps))
    return counted.verify_calls / counted.terminal_states


# ---- Memory --------------------------------------------------------------------------------------------------------


WEIGHTLESS = Description(prompt="prompt", min_tokens=1)


class WeightlessTask:
    """States, texts and keys that exist before the search: what grows during it is the engine's own."""

    def __init__(self, states: int) -> None:
        self._prepared = list(range(1_000, 1_000 + states))
        self._new_state = iter(self._prepared).__next__  # the list keeps them

    def initial_state(self, question: str) -> int:
        return self._new_state()

    def apply(self, state: int, step: Step) -> int:
        return self._new_state()

    def key(self, state: int) -> int:
        return state

    def describe(self, state: int) -> Description:
        return WEIGHTLESS


def weightless_search(steps: int, probe: Callable[[], int]) -> Callable[[], tuple[int, int]]:
    """A search of one question for so many steps, for which all that is not the engine's is made beforehand.

    It returns what `probe` says when the last step is asked for, while the search still holds all it needs, and the
    nodes.
    """
    generator = FreeText()
    searcher = Searcher(generator, FreeCritic(), WeightlessTask(steps + 2))
    propose, budget, probed = generator.propose, budget_of(steps), [0]
    calls = itertools.count(1)

    def probing(*arguments: Any) -> Any:
        if next(calls) == steps:
            probed[0] = probe()
        return propose(*arguments)

    def search() -> tuple[int, int]:
        result = searcher.search("question", budget=budget)
        return probed[0], result.tree.num_nodes

    generator.propose = probing
    return search
