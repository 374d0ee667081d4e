"""The budget benchmark's pool and methods, on a puzzle whose steps are listed by hand (`budget_world`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from budget_world import QUESTION, ListedCritic, ListedGenerator, ListedRandom, SeededGenerator, prompt

from bavt_fast.protocols import Node, StepRequest
from bavt_fast.tasks.countdown import Countdown
from benchmarks.budget import beams, guarantee, methods, ours, published, rivals, sampling, trees
from benchmarks.budget.pool import Draws, Pool, PoolCritic, PoolGenerator
from benchmarks.budget.problems import Problems
from benchmarks.budget.tuning import choose
from benchmarks.budget.visits import KINDS, visits_of
from benchmarks.budget.walk import Walk, drive

ROOT = prompt("1 2 3")


@pytest.fixture
def pool() -> Pool:
    return Pool(ListedGenerator(), ListedCritic(), temperature=0.7, seed=3)


def ground_of(pool: Pool, seed: int = 0) -> methods.Ground:
    return methods.Ground(Problems("by hand", [QUESTION], 0, Countdown()), pool, seed)


def walk_of(pool: Pool, most_tokens: int = 1000, stops: bool = True) -> Walk:
    return Walk(pool, Countdown(), QUESTION, most_tokens, stops)


# ---- the pool


def texts(pool: Pool, text: str) -> list[str]:
    return [entry.step.text for entry in pool.steps(text).entries]


def test_a_pool_keeps_the_order_of_the_generator_and_draws_no_more_than_is_asked(pool: Pool) -> None:
    assert pool.entry(ROOT, 1).step.text == "3 + 2 = 6 (left: 1 6)"
    assert len(texts(pool, ROOT)) == 2
    assert pool.entry(ROOT, 3).value == 0.7
    assert pool.entry(ROOT, 4) is None
    assert pool.steps(ROOT).is_all
    calls = pool._generator.calls
    pool.fill({ROOT: 100})
    assert pool._generator.calls == calls


def test_prompts_are_drawn_together(pool: Pool) -> None:
    pool.fill({prompt("1 1"): 1, prompt("1 6"): 1, prompt("3 3"): 1})
    assert pool._generator.calls == 1


def test_a_pool_is_the_same_in_whatever_order_it_is_asked() -> None:
    one, other = (Pool(SeededGenerator(), ListedCritic(), 0.7, seed=3) for _ in range(2))
    for number in range(5):
        one.entry(ROOT, number)
    other.fill({prompt("3 3"): 2, ROOT: 4})
    assert texts(one, ROOT) == texts(other, ROOT)
    orders = {tuple(texts_of_seed(seed)) for seed in range(20)}
    assert len(orders) > 5


def texts_of_seed(seed: int) -> list[str]:
    pool = Pool(SeededGenerator(), None, 0.7, seed)
    pool.fill({ROOT: 4})
    assert len(set(texts(pool, ROOT))) == 4
    return texts(pool, ROOT)


def test_the_first_draws_of_pools_are_as_likely_as_the_model_has_them() -> None:
    first = [texts_of_seed(seed)[0] for seed in range(2000)]
    assert first.count("3 - 2 = 1 (left: 1 1)") / 2000 == pytest.approx(0.4, abs=0.04)
    assert first.count("3 * 2 = 6 (left: 1 6)") / 2000 == pytest.approx(0.3, abs=0.04)


def test_a_saved_pool_comes_back_to_the_bit(pool: Pool, tmp_path: Any) -> None:
    pool.fill({ROOT: 4, prompt("1 6"): 1})
    pool.save(tmp_path / "pool.json.gz")
    again = Pool(ListedGenerator(), ListedCritic(), temperature=0.7, seed=3)
    again.load(tmp_path / "pool.json.gz")
    assert again.steps(ROOT) == pool.steps(ROOT)
    assert again.entry(prompt("1 6"), 1) == pool.entry(prompt("1 6"), 1)
    with pytest.raises(ValueError, match=r"temperature: expected 1.0, got 0.7"):
        Pool(ListedGenerator(), None, temperature=1.0, seed=3).load(tmp_path / "pool.json.gz")


def test_the_replay_goes_on_after_what_was_tried_and_cuts_at_the_limit(pool: Pool) -> None:
    generator, critic = PoolGenerator(pool), PoolCritic(pool)
    ((first,),) = generator.propose([StepRequest(ROOT)], [1], [64])
    assert (first.text, first.tokens, first.finish_reason) == ("3 - 2 = 1 (left: 1 1)", 10, "delimiter")
    ((second, third),) = generator.propose([StepRequest(ROOT, tried=(first,))], [2], [9])
    assert (second.tokens, second.finish_reason, third.tokens) == (9, "limit", 9)
    assert generator.propose([StepRequest(ROOT, tried=(first,) * 4)], [1], [64]) == [[]]
    assert critic.score([Node(None, None, Node(None, ROOT), first)]) == [0.9]


def test_asks_in_flight_draw_by_their_own_seeds(pool: Pool) -> None:
    generator = PoolGenerator(pool, independent=True)
    requests = [StepRequest(ROOT, seed) for seed in range(400)]
    drawn = [step.text for (step,) in generator.propose(requests, [1] * 400, [64] * 400)]
    assert drawn == [step.text for (step,) in generator.propose(requests, [1] * 400, [64] * 400)]
    assert drawn.count("3 - 2 = 1 (left: 1 1)") / 400 == pytest.approx(0.4, abs=0.08)
    tried = (pool.entry(ROOT, 0).step,)
    rest = generator.propose([StepRequest(ROOT, seed, tried) for seed in range(400)], [1] * 400, [64] * 400)
    assert {step.text for (step,) in rest} == set(texts(pool, ROOT)[1:])
    everything = tuple(entry.step for entry in pool.steps(ROOT).entries)
    assert generator.propose([StepRequest(ROOT, 1, everything)], [1], [64]) == [[]]


def test_draws_with_replacement_are_made_of_the_pool(pool: Pool) -> None:
    pool.fill({ROOT: 4})
    steps, draws = pool.steps(ROOT), Draws()
    assert draws.number(steps, 0.99) == 0  # nothing was seen yet: the first, whatever the number
    draws.see(steps, 0)
    assert [draws.number(steps, u) for u in (0.0, 0.39, 0.4, 0.99)] == [0, 0, 1, 1]
    draws.see(steps, 1)
    assert [draws.number(steps, u) for u in (0.39, 0.45, 0.5)] == [0, 1, 2]


# ---- the methods


@pytest.mark.parametrize(
    ("method", "options", "tokens"),
    [
        (trees.best_first, {"width": 1}, 72),  # A, A1, C, A2, B, B1, D, D1
        (trees.best_first, {"width": 2}, 64),  # A C, A1 A2, B D, D1
        (trees.uct, {"width": 2, "exploration": 0.0}, 64),  # the same: A is the only child until it is closed
        (beams.beam_search, {"beams": 1, "width": 2}, 64),
        (beams.beam_search, {"beams": 2, "width": 2}, 64),  # A C B D, then A1 A2 and D1
        (beams.dvts, {"beams": 2, "width": 1}, 64),  # A C, A1; B D, B1 D1
        (published.recipe, {"iterations": 60}, 46),  # A C B, whose first visit comes next: B1 B2
    ],
)
def test_searches_pay_what_they_pay_by_hand(
    pool: Pool, method: Callable[..., Any], options: dict[str, Any], tokens: int
) -> None:
    walk = walk_of(pool)
    drive(pool, [method(walk, **options)])
    assert (walk.solved_tokens, walk.tokens) == (tokens, tokens)
    for most in range(tokens):
        short = walk_of(pool, most)
        drive(pool, [method(short, **options)])
        assert short.tokens <= most
        assert short.solved_tokens == math.inf
    exact = walk_of(pool, tokens)
    drive(pool, [method(exact, **options)])
    assert exact.solved_tokens == tokens


def test_parallel_sampling_by_hand(pool: Pool) -> None:
    numbers = {0: (0.0, 0.0), 1: (0.3, 0.5), 2: (0.5,), 3: (0.6, 0.0), 4: (0.55, 0.9), 5: (0.0, 0.0), 6: (0.0, 0.0)}
    paths = sampling.Paths(pool, Countdown(), QUESTION, lambda number: ListedRandom(*numbers.get(number, (0.0, 0.0))))
    sampling.sample([paths], lambda _, own: not any(path.place.right for path in own.done))
    ends = [(path.tokens, path.place.answer, path.place.right) for path in paths.done]
    assert ends[:5] == [
        (18, "(3 - 2) + 1", False),
        (18, "(3 - 2) + 1", False),
        (10, None, False),
        (18, "(3 * 2) + 1", False),
        (18, "(3 * 2) * 1", True),
    ]
    assert len(ends) == 8  # two batches
    assert list(methods._runs(paths, 1000)) == [82]
    assert list(methods._runs(paths, 81)) == [math.inf]  # the next run begins after the path that did not fit
    assert list(methods._runs(paths, 30))[:2] == [math.inf, math.inf]
    ended = sampling.Ended.of(paths)
    assert ended.tokens[:5] == [18, 36, 46, 64, 82]
    assert ended.answers[:5] == [(2,), (2,), None, (7,), (6,)]
    assert ended.values[:5] == [0.1, 0.1, 0.0, 0.3, 0.8]


def test_paths_are_independent_draws_of_the_model(pool: Pool) -> None:
    paths = sampling.Paths(pool, Countdown(), QUESTION, lambda number: np.random.default_rng([7, number]))
    sampling.sample([paths], lambda _, own: len(own.done) < 3000)
    ends = [path.place.answer for path in paths.done]
    assert ends.count("(3 * 2) * 1") / len(ends) == pytest.approx(0.09, abs=0.02)
    assert ends.count("(2 + 1) + 3") / len(ends) == pytest.approx(0.10, abs=0.02)
    assert ends.count(None) / len(ends) == pytest.approx(0.10, abs=0.02)
    right = np.array([path.place.right for path in paths.done])
    assert np.corrcoef(right[:-1], right[1:])[0, 1] == pytest.approx(0.0, abs=0.06)


def test_sampling_paths_without_replacement_by_hand(pool: Pool) -> None:
    walk = walk_of(pool)
    # A A1, A A2 (A is sampled to its end), C, B B1, B B2
    random = ListedRandom(0.0, 0.0, 0.1, 0.5, 0.1, 0.5, 0.0, 0.2, 0.5)
    drive(pool, [sampling.without_replacement(walk, random)])
    assert walk.solved_tokens == 18 + 18 + 10 + 18 + 18


def test_all_paths_without_replacement_are_sampled_once(pool: Pool) -> None:
    walk = walk_of(pool, stops=False)
    drive(pool, [sampling.without_replacement(walk, np.random.default_rng(0))])
    assert walk.tokens == 6 * 18 + 10


def test_the_critic_chooses_among_paths() -> None:
    ended = sampling.Ended(
        tokens=[18, 28, 46, 64, 82],
        values=[0.3, 0.0, 0.5, 0.4, 0.6],
        answers=[(7,), None, (7,), (6,), (6,)],
        right=[False, False, False, True, True],
    )
    budgets = (17, 18, 46, 64, 82)
    assert sampling.best_of(ended, budgets) == [False, False, False, False, True]
    assert sampling.majority(ended, budgets) == [False, False, False, False, True]  # 0.8 against 1.0
    ended.values[4] = 0.45
    assert sampling.best_of(ended, budgets)[-1] is False
    assert sampling.majority(ended, budgets)[-1] is True  # 0.8 against 0.85


@pytest.mark.parametrize(("judge", "tokens"), [("model", 62), ("solver", 46)])
def test_our_search_pays_what_it_pays_by_hand(pool: Pool, judge: ours.Judge, tokens: int) -> None:
    """By the critic A, A1, C, A2, B, B1, B2; by the solver A, C, B, B1, B2."""
    options = {"policy": "best_first", "decay": 0.5, "discount": 1.0}
    ((short, search),) = ours.search_all(pool, Countdown(), [QUESTION], (tokens - 1, 1000), options, judge)
    assert search.stop_reason == "solved"
    assert search.spent.tokens == tokens
    assert short.stop_reason != "solved"
    assert ours.solved([[short, search]]).tolist() == [[False, True]]


def test_where_the_tokens_of_a_search_went(pool: Pool) -> None:
    options = {"policy": "best_first", "decay": 0.5, "discount": 1.0}
    ((search,),) = ours.search_all(pool, Countdown(), [QUESTION], (1000,), options)
    visits = visits_of([search])
    assert dict(zip(KINDS, visits.tokens.tolist(), strict=True)) == {
        "kept the target within reach": 10 + 8,  # B, B2
        "put it out of reach": 10 + 8,  # A, B1
        "at a dead state": 16,  # A1, A2
        "duplicate": 0,
        "invalid": 10,
    }
    assert sorted(zip(visits.values.tolist(), visits.alive.tolist(), strict=True)) == [(0.6, True), (0.9, False)]
    figures = visits.figures()
    assert figures["rank_errors"] == 1.0
    assert figures["auc_2_left"] == 0.0
    assert figures["brier"] == pytest.approx((0.4**2 + 0.9**2) / 2)
    assert visits.reliability() == [(0.6, 1.0, 1), (0.9, 0.0, 1)]


@pytest.mark.parametrize("name", ["ab_mcts_a", "standard_mcts"])
def test_treequest_searches_within_the_budget_and_the_same_again(name: str, pool: Pool) -> None:
    pytest.importorskip("treequest")
    method = getattr(rivals, name)
    found = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002 (what it draws must not come from here)
        walks = [walk_of(pool, most) for most in (5, 30, 60, 1000)]
        drive(pool, [method(walk, np.random.default_rng(1)) for walk in walks])
        assert all(walk.tokens <= walk.most_tokens for walk in walks)
        found.append([(walk.tokens, walk.solved_tokens) for walk in walks])
    assert found[0] == found[1]
    assert found[0][-1][1] < math.inf


def test_methods_do_not_see_each_others_random_numbers() -> None:
    """Alone or beside others, and in whatever order: the same curve."""
    names = [method.name for method in methods.METHODS if not method.name.startswith("treequest")]
    budgets = (20, 40, 60, 80, 100)

    def curves(order: list[str]) -> dict[str, list[list[float]]]:
        ground = ground_of(Pool(SeededGenerator(), ListedCritic(), 0.7, seed=5), seed=9)
        by_name = {method.name: method for method in methods.METHODS}
        return {n: by_name[n].curve(ground, by_name[n].defaults, budgets).solved.tolist() for n in order}

    together, backwards = curves(names), curves(names[::-1])
    assert together == backwards
    for name in names:
        assert curves([name])[name] == together[name]


def test_questions_that_the_task_refuses_are_not_solved(pool: Pool) -> None:
    problems = Problems("by hand", [QUESTION], 3, Countdown())
    method = methods.Method("best-first", methods.searching(trees.best_first))
    curve = method.curve(methods.Ground(problems, pool, 0), {"width": 2}, (63, 64))
    assert curve.rates.tolist() == [0.0, 0.25]


def test_options_are_chosen_one_after_the_other(pool: Pool) -> None:
    method = methods.Method("best-first", methods.searching(trees.best_first), {"width": (1, 2)})
    choice = choose(method, ground_of(pool), 0.7, (60, 66, 80))
    assert (choice.options, choice.success) == ({"width": 2}, pytest.approx(2 / 3))
    method = methods.Method("best-first", methods.searching(trees.best_first), {"width": (1, 2)}, by_budget="width")
    assert choose(method, ground_of(pool), 0.7, (60, 66, 80)).by_budget == {60: 1, 66: 2, 80: 1}


# ---- the guarantee


def test_the_bound_holds_for_listed_steps(pool: Pool) -> None:
    ground = ground_of(pool)
    (trials,) = guarantee.simulate(ground, 300)
    assert trials.successes == 2
    assert trials.p_min == pytest.approx(0.3)  # at B
    # Half of the root's steps go on, three in five of them to B, where three in ten are right; half are at D.
    assert np.mean(trials.needed) == pytest.approx(2 + 0.6 / 0.3 + 0.4 / 0.5, rel=0.1)
    for failure in guarantee.FAILURES:
        assert np.mean(np.array(trials.needed) <= trials.bound(failure)) >= 1 - failure
    steps = guarantee.searched(ground, {"policy": "best_first", "decay": 0.5}, 1000)
    assert steps == [5]
    rows = guarantee.table_of([trials], steps)
    assert [row["searches_within"] for row in rows] == [1.0] * 3
