"""The parts of the benchmark, each of which runs in a process of its own: settings for one temperature, the methods on
one set, asks in flight, the guarantee.

What a part gives is plain data. All of it comes from the plan's seed: the pool's draws, the problems, every method's
random numbers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.model_folder import load_folder
from benchmarks.budget import guarantee, ours
from benchmarks.budget.curves import spliced
from benchmarks.budget.methods import OURS, PARALLEL, SOLVER, Curve, Ground, Method, engine
from benchmarks.budget.plan import FIXED, FRESH_SEED, VALIDATION_SEED, Plan
from benchmarks.budget.pool import Pool
from benchmarks.budget.problems import SETS, Problems, validation_set
from benchmarks.budget.tuning import Choice, choose
from benchmarks.budget.visits import Visits, visits_of
from benchmarks.harness import LeftOut

STORE_BYTES = 2**27
LONGEST_STEP_TOKENS = 16
"""What an ask in flight reserves: by default so much that a small budget holds only a few. A step of this task that is
whole takes at most 12."""


class Model:
    """A model folder and its pools, one for each temperature."""

    def __init__(self, plan: Plan) -> None:
        torch.set_num_threads(1)
        self.folder = load_folder(plan.model, threads=1)
        # Every state has a prompt of its own, and is seldom asked again: there is little to store.
        own = self.folder.generator
        self.generator = TorchGenerator(
            own.model, own.tokenizer, delimiter=own.delimiters, threads=1, store_bytes=STORE_BYTES
        )
        self.plan = plan
        self._pools: dict[float, Pool] = {}

    def pool(self, temperature: float) -> Pool:
        if temperature not in self._pools:
            self._pools[temperature] = Pool(self.generator, self.folder.critic, temperature, self.plan.seed)
        return self._pools[temperature]

    def ground(self, problems: Problems, temperature: float) -> Ground:
        return Ground(problems, self.pool(temperature), self.plan.seed, self.plan.baseline_runs)

    @property
    def drawn(self) -> tuple[int, int]:
        """Steps and tokens that the model has drawn."""
        pools = self._pools.values()
        return sum(pool.drawn_steps for pool in pools), sum(pool.drawn_tokens for pool in pools)


@dataclass
class Tuned:
    """Choices for one temperature, by the method's name."""

    temperature: float
    choices: dict[str, Choice]
    left_out: list[str]


def tune(plan: Plan, temperature: float, names: Sequence[str]) -> Tuned:
    """The options of some methods for one temperature, by their success on the validation problems."""
    model = Model(plan)
    ground = model.ground(validation_set(plan.validation, VALIDATION_SEED), temperature)
    found = Tuned(temperature, {}, [])
    for method in [method for method in plan.methods if method.name in names]:
        start_s = time.monotonic()
        try:
            found.choices[method.name] = choose(method, ground, temperature, plan.budgets)
        except LeftOut as reason:
            found.left_out.append(str(reason))
            continue
        choice = found.choices[method.name]
        _say(f"T = {temperature}: {method.name}: {dict(choice.options)}, {choice.success:.1%}", start_s)
    return found


@dataclass
class Measured:
    """What came of one set.

    Attributes:
        curves: by the method's name.
        visits: of our search with the folder's own settings.
        spent: mean tokens that our search took, by budget.
    """

    name: str
    problems: int
    refused: int
    held_out: int
    curves: dict[str, Curve]
    visits: Visits
    spent: dict[int, float]
    drawn: tuple[int, int]
    wall_s: float
    left_out: list[str] = field(default_factory=list)


def measure(plan: Plan, set_name: str, choices: Mapping[str, Choice]) -> Measured | str:
    """All methods on one set; the reason where it is left out."""
    start_s = time.monotonic()
    model = Model(plan)
    try:
        problems = SETS[set_name](plan.problems, FRESH_SEED)
    except LeftOut as reason:
        return str(reason)
    problems = problems.part(plan.problems)
    curves = {}
    for method in plan.methods:
        if method.name in choices:
            began_s = time.monotonic()
            curves[method.name] = curve_of(method, choices[method.name], model, problems, plan)
            _say(f"{problems.name}: {method.name}: {_line(curves[method.name], plan.budgets)}", began_s)
    ground = model.ground(problems, model.folder.settings.temperature)
    options = model.folder.settings.search
    curves[OURS] = Method(OURS, engine("model")).curve(ground, options, plan.budgets)
    _say(f"{problems.name}: {OURS}: {_line(curves[OURS], plan.budgets)}", start_s)
    budgets = sorted({*plan.budgets, plan.visits_budget})
    searches = ours.search_all(ground.pool, problems.task, problems.questions, budgets, options, seed=plan.seed)
    spent = np.mean([[search.spent.tokens for search in row] for row in searches], axis=0)
    return Measured(
        problems.name,
        problems.size,
        problems.refused,
        problems.held_out,
        curves,
        visits_of([row[budgets.index(plan.visits_budget)] for row in searches]),
        dict(zip(budgets, map(float, spent), strict=True)),
        model.drawn,
        time.monotonic() - start_s,
    )


def curve_of(method: Method, choice: Choice, model: Model, problems: Problems, plan: Plan) -> Curve:
    """A method's curve with what was chosen for it."""
    ground = model.ground(problems, choice.temperature)
    if choice.by_budget is None:
        return method.curve(ground, choice.options, budgets_of(method, plan))
    assert method.by_budget is not None, "or nothing was chosen for each budget"
    values = list(dict.fromkeys(choice.by_budget.values()))
    curves = [method.curve(ground, {**choice.options, method.by_budget: v}, plan.budgets) for v in values]
    return spliced(curves, [values.index(choice.by_budget[budget]) for budget in plan.budgets])


def budgets_of(method: Method, plan: Plan) -> Sequence[int]:
    """As finely as it costs nothing more."""
    if not method.is_dense:
        return plan.fine if method.name == SOLVER else plan.budgets
    most = plan.baseline_tokens if method.name == PARALLEL else max(plan.budgets)
    dense = np.unique(np.round(np.geomspace(min(plan.fine), most, 200)).astype(int)).tolist()
    return sorted({*dense, *plan.fine, most, *(budget for budget in FIXED if budget <= most)})


# ---- asks in flight, and the guarantee


def in_flight(plan: Plan) -> dict[int, Curve]:
    """Countdown-5 with several asks in flight in every tree, each drawn by its own seed: a curve for each number."""
    model = Model(plan)
    problems = SETS["countdown5"](plan.wave_problems, FRESH_SEED)
    ground = model.ground(problems, model.folder.settings.temperature)
    found = {}
    for leaves in plan.waves:
        start_s = time.monotonic()
        runs = [_solved_in_flight(plan, model, ground, leaves, plan.seed + i) for i in range(plan.wave_seeds)]
        found[leaves] = Curve(np.array(plan.fine), np.mean(runs, axis=0))
        _say(f"{leaves} asks in flight: {_line(found[leaves], plan.budgets)}", start_s)
    return found


def _solved_in_flight(plan: Plan, model: Model, ground: Ground, leaves: int, seed: int) -> np.ndarray:
    problems, options = ground.problems, {**model.folder.settings.search, "max_step_tokens": LONGEST_STEP_TOKENS}
    arguments = (ground.pool, problems.task, problems.questions, plan.fine, options)
    return ours.solved(ours.search_all(*arguments, leaves=leaves, seed=seed, independent=True))


def check_guarantee(plan: Plan, set_name: str) -> list[dict[str, float]]:
    """The bound on iterations on problems of one set."""
    start_s = time.monotonic()
    model = Model(plan)
    problems = SETS[set_name](plan.guarantee_problems, FRESH_SEED)
    ground = model.ground(problems, model.folder.settings.temperature)
    trials = guarantee.simulate(ground, plan.guarantee_trials)
    steps = guarantee.searched(ground, model.folder.settings.search, tokens=5000)
    _say(f"guarantee on {problems.name}", start_s)
    return guarantee.table_of(trials, steps)


def _line(curve: Curve, budgets: Sequence[int]) -> str:
    return " ".join(f"{curve.at(budget).mean():.1%}" for budget in budgets)


def _say(what: str, start_s: float) -> None:
    print(f"{what} ({time.monotonic() - start_s:.0f} s)", flush=True)


__all__ = ["Measured", "Model", "Tuned", "check_guarantee", "in_flight", "measure", "tune"]
