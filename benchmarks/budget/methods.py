"""All methods, what can be chosen of each, and how a method becomes a curve: problems solved against tokens.

A method is run on a `Ground` (problems, a pool, a seed) with options and gives, for every question and budget, whether
it was solved (or how often, of several runs). Every run of a method at a question has random numbers of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.budget import beams, ours, published, rivals, sampling, trees
from benchmarks.budget.pool import Pool
from benchmarks.budget.problems import Problems
from benchmarks.budget.walk import Walk, Wants, drive

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Ground:
    """What methods are compared on: the same problems, steps and values for all."""

    problems: Problems
    pool: Pool
    seed: int
    baseline_runs: int = 1

    def random(self, who: str, question: int, run: int = 0) -> np.random.Generator:
        """Random numbers for one run of one method at one question."""
        return np.random.default_rng([self.seed, zlib.crc32(who.encode()), question, run])


@dataclass(frozen=True)
class Curve:
    """Which problems were solved within which budget.

    Attributes:
        budgets: (budgets,) tokens, ascending.
        solved: (problems, budgets) share of runs, 0 or 1 where there is one.
    """

    budgets: np.ndarray
    solved: np.ndarray

    @property
    def rates(self) -> np.ndarray:
        """(budgets,) share of problems solved."""
        return self.solved.mean(axis=0)

    def at(self, budget: float) -> np.ndarray:
        """(problems,) at a budget that was run."""
        (place,) = np.flatnonzero(self.budgets == budget)
        return self.solved[:, place]


Run = Callable[[Ground, Options, Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class Method:
    """A way to spend tokens.

    Args:
        run: bool or share (questions, budgets) of those solved, for ascending budgets.
        choices: what is chosen on validation problems, besides the temperature: values by option, the default first.
        by_budget: the option that is chosen for each budget by itself.
        is_dense: whether further budgets cost nothing: a run up to the largest says when it was solved.
        only_full: left out of the default run.
        is_slow: left out of every run that does not ask for it: seconds a step.
    """

    name: str
    run: Run
    choices: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    by_budget: str | None = None
    is_dense: bool = True
    only_full: bool = False
    is_slow: bool = False

    @property
    def defaults(self) -> dict[str, Any]:
        return {name: values[0] for name, values in self.choices.items()}

    def curve(self, ground: Ground, options: Options, budgets: Sequence[int]) -> Curve:
        """Its curve; questions that the task cannot state are not solved."""
        solved = np.asarray(self.run(ground, options, budgets), dtype=float)
        refused = np.zeros((ground.problems.refused, len(budgets)))
        return Curve(np.array(budgets), np.concatenate([solved.reshape(-1, len(budgets)), refused]))


# ---- walks


def _walks(ground: Ground, most_tokens: int) -> list[Walk]:
    return [Walk(ground.pool, ground.problems.task, q, most_tokens) for q in ground.problems.questions]


def _first_solved(walks: Sequence[Walk], budgets: Sequence[int]) -> np.ndarray:
    for walk in walks:
        if walk.tokens > walk.most_tokens:
            raise AssertionError(f"a walk of {walk.most_tokens} tokens spent {walk.tokens}")
    return np.array([walk.solved_tokens for walk in walks])[:, None] <= np.array(budgets)


def searching(method: Callable[..., Wants]) -> Run:
    """A search without random numbers of its own."""

    def run(ground: Ground, options: Options, budgets: Sequence[int]) -> np.ndarray:
        walks = _walks(ground, max(budgets))
        drive(ground.pool, [method(walk, **options) for walk in walks])
        return _first_solved(walks, budgets)

    return run


def drawing(method: Callable[..., Wants]) -> Run:
    """One with random numbers of its own."""

    def run(ground: Ground, options: Options, budgets: Sequence[int]) -> np.ndarray:
        walks = _walks(ground, max(budgets))
        randoms = [ground.random(method.__name__, i) for i in range(len(walks))]
        drive(ground.pool, [method(walk, random, **options) for walk, random in zip(walks, randoms, strict=True)])
        return _first_solved(walks, budgets)

    return run


def parallel(ground: Ground, options: Options, budgets: Sequence[int]) -> np.ndarray:
    """Oracle-verified parallel sampling, as a mean of `Ground.baseline_runs` runs, each with paths of its own."""
    most, count = max(budgets), ground.baseline_runs
    paths = _paths(ground)
    solved_tokens: list[list[float]] = [[] for _ in paths]

    def wants_more(number: int, own: sampling.Paths) -> bool:
        solved_tokens[number] = list(_runs(own, most))
        return len(solved_tokens[number]) < count

    sampling.sample(paths, wants_more)
    runs = np.array([(tokens + [np.inf] * count)[:count] for tokens in solved_tokens])
    return (runs.reshape(len(paths), -1, 1) <= np.array(budgets)).mean(axis=1)


def _runs(paths: sampling.Paths, most_tokens: int) -> Iterator[float]:
    """Tokens until each run was solved, of the runs that are over: one takes up the paths after the last one's."""
    tokens = 0
    for path in paths.done:
        tokens += path.tokens
        if tokens > most_tokens:
            yield np.inf
        elif path.place.right:
            yield tokens
        else:
            continue
        tokens = 0


def _paths(ground: Ground) -> list[sampling.Paths]:
    """Paths of every question: the same for all who sample independently."""

    def uniform(question: int) -> Callable[[int], np.random.Generator]:
        return lambda path: ground.random("paths", question, path)

    pool, problems = ground.pool, ground.problems
    return [sampling.Paths(pool, problems.task, q, uniform(i)) for i, q in enumerate(problems.questions)]


def choosing(choose: Callable[[sampling.Ended, Sequence[int]], list[bool]]) -> Run:
    """Independent paths, one of which the critic chooses."""

    def run(ground: Ground, options: Options, budgets: Sequence[int]) -> np.ndarray:
        paths = _paths(ground)
        sampling.sample(paths, lambda _, own: sum(path.tokens for path in own.done) <= max(budgets))
        return np.array([choose(sampling.Ended.of(own), budgets) for own in paths])

    return run


def recipe(ground: Ground, options: Options, budgets: Sequence[int]) -> np.ndarray:
    """The recipe looks at its whole budget, so it runs at each."""
    columns = []
    for budget in budgets:
        walks = _walks(ground, budget)
        drive(ground.pool, [published.recipe(walk, budget) for walk in walks])
        columns.append(_first_solved(walks, [budget])[:, 0])
    return np.stack(columns, axis=1)


def engine(judge: ours.Judge) -> Run:
    """This package's search, at each budget."""

    def run(ground: Ground, options: Options, budgets: Sequence[int]) -> np.ndarray:
        problems = ground.problems
        found = ours.search_all(
            ground.pool,
            problems.task,
            problems.questions,
            budgets,
            options,
            judge,
            seed=ground.seed,
            solver=problems.solver,
        )
        return ours.solved(found)

    return run


# ---- the list

PARALLEL, OURS, TUNED, SOLVER = "parallel sampling, oracle", "ours", "ours, tuned", "ours, exact solver as critic"
SEARCH_CHOICES: Mapping[str, Sequence[Any]] = {
    "policy": ("best_first", "power"),
    "decay": (0.9, 0.8, 0.95),
    "tried_exponent": (1.0, 0.5, 0.0),
    "root_value": (1.0, 0.5),
    "discount": (0.97, 1.0),
}
_WIDTHS = (4, 1, 2, 8)
_BEAMS = (4, 1, 2, 8, 16)

METHODS = (
    Method(PARALLEL, parallel),
    Method("parallel sampling without replacement, oracle", drawing(sampling.without_replacement)),
    Method("best of n by the critic", choosing(sampling.best_of)),
    Method("majority by the critic", choosing(sampling.majority), only_full=True),
    Method("beam search", searching(beams.beam_search), {"width": (4, 2), "beams": _BEAMS}, by_budget="beams"),
    Method("DVTS", searching(beams.dvts), {"width": (4, 2), "beams": _BEAMS}, by_budget="beams", only_full=True),
    Method("best-first", searching(trees.best_first), {"width": _WIDTHS}),
    Method("UCT", searching(trees.uct), {"width": _WIDTHS, "exploration": (0.5, 0.1, 1.5)}, only_full=True),
    Method("the recipe as published", recipe, is_dense=False),
    Method("treequest AB-MCTS-A", drawing(rivals.ab_mcts_a), {"dist_type": ("gaussian", "beta")}),
    Method("treequest AB-MCTS-M", drawing(rivals.ab_mcts_m), only_full=True, is_slow=True),
    Method(
        "treequest StandardMCTS",
        drawing(rivals.standard_mcts),
        {"width": _WIDTHS, "exploration": (1.4, 0.5, 0.1)},
        only_full=True,
    ),
    Method("ours without a critic", engine("nothing"), {"decay": (0.7, 0.85)}, is_dense=False),
    Method(TUNED, engine("model"), SEARCH_CHOICES, is_dense=False),
    Method(SOLVER, engine("solver"), SEARCH_CHOICES, is_dense=False),
)
