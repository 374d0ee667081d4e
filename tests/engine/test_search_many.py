"""Many questions side by side: the same results as one by one, whatever becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedGenerator, StreamingGenerator, TableCritic, World, WorldTask
from search_checks import WORLDS, check_consistent, fingerprint, worlds

import bavt_fast as bavt
from bavt_fast.drive import Drive
from bavt_fast.protocols import GenerationStatistics, Node, Step, StepRequest
from bavt_fast.searcher import Searcher

BUDGET = bavt.Budget(tokens=80)


def searcher(world: World, wave: int, **options: Any) -> Searcher:
    return Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), wave=wave, **options)


@settings(max_examples=WORLDS // 2, deadline=None)
@given(
    world=worlds,
    questions=st.lists(st.sampled_from("abcdefgh"), max_size=6),
    wave=st.integers(1, 8),
    candidates=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_each_question_gives_what_it_gives_alone(
    world: World, questions: list[str], wave: int, candidates: int, seed: int
) -> None:
    many = searcher(world, wave, candidates=candidates).search_many(questions, budget=BUDGET, seed=seed)
    alone = searcher(world, 1, candidates=candidates)
    assert len(many) == len(questions)
    for question, result in zip(questions, many, strict=True):
        assert fingerprint(result) == fingerprint(alone.search(question, budget=BUDGET, seed=seed))
        check_consistent(result, WorldTask(world), question)
        assert result.spent.tokens <= 80


def test_no_questions() -> None:
    assert searcher(World(), 4).search_many([], budget=BUDGET) == []


def test_a_question_that_finishes_frees_its_place_to_the_next() -> None:
    """Every batch but the last ones is full, and each question starts as soon as another one ends."""
    lengths = {"a": 1, "b": 5, "c": 2, "d": 1, "e": 3}
    batches: list[list[str]] = []

    class Generator:
        def propose(
            self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
        ) -> list[list[Step]]:
            batches.append([state.text[0] for state in states])
            done = {state.text[0]: sum(batch.count(state.text[0]) for batch in batches) for state in states}
            return [[Step(f"s{done[s.text[0]]}", 1)] if done[s.text[0]] <= lengths[s.text[0]] else [] for s in states]

    many = Searcher(Generator(), policy="best_first", wave=2, decay=0.5)
    results = many.search_many(list(lengths), budget=bavt.Budget(tokens=50))
    assert [result.spent.tokens for result in results] == list(lengths.values())
    assert {result.stop_reason for result in results} == {"exhausted"}
    assert all(len(batch) <= 2 and len(set(batch)) == len(batch) for batch in batches)
    order = [question for batch in batches for question in batch]
    assert sorted(lengths, key=order.index) == list(lengths)
    for i, batch in enumerate(batches):
        waiting = set(lengths) - set(order[: sum(map(len, batches[: i + 1]))])
        assert len(batch) == 2 or not waiting


def test_one_batch_for_all_questions_and_one_call_of_the_critic() -> None:
    world = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, depth=8, min_tokens=0)
    generator, critic = ScriptedGenerator(world), TableCritic(world)
    Searcher(generator, critic, WorldTask(world), wave=16).search_many([f"q{i}" for i in range(16)], budget=BUDGET)
    assert len(generator.batches[0]) == len(generator.batches[1]) == 16
    assert critic.sizes[0] == 16
    assert len(critic.sizes) <= len(generator.batches)


class FailsOn:
    """Fails when it meets a question for the n-th time."""

    predicts = "value"

    def __init__(self, world: World, stage: str, question: str, at: int, error: type[BaseException]) -> None:
        self._generator, self._critic = ScriptedGenerator(world), TableCritic(world)
        self._stage, self._question, self._left, self._error = stage, question, at, error

    def _meet(self, stage: str, texts: list[str]) -> None:
        if stage == self._stage and any(text.startswith(self._question) for text in texts):
            self._left -= 1
            if self._left <= 0:
                raise self._error("lost connection")

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        self._meet("generator", [state.text for state in states])
        return self._generator.propose(states, counts, limits)

    def score(self, candidates: Sequence[Node]) -> list[float]:
        self._meet("critic", [node.text for node in candidates])
        return self._critic.score(candidates)


@pytest.mark.parametrize("stage", ["generator", "critic"])
@pytest.mark.parametrize("wave", [1, 2, 64])
def test_a_failing_question_does_not_lose_the_others(stage: str, wave: int) -> None:
    world = World(dead_share=0.0, invalid_share=0.0, goal_share=1.0, depth=3)
    part: Any = FailsOn(world, stage, "d", 3, OSError)
    questions = ["a", "b", "c", "d", "e", "f"]
    results = Searcher(part, part, WorldTask(world), wave=wave).search_many(questions, budget=BUDGET)
    alone = searcher(world, 1)
    for question, result in zip(questions, results, strict=True):
        check_consistent(result, WorldTask(world), question)
        if question != "d":
            assert fingerprint(result) == fingerprint(alone.search(question, budget=BUDGET))
            assert (result.stop_reason, result.error) == ("solved", None)
    failed = results[3]
    assert failed.stop_reason == "error"
    assert isinstance(failed.error, OSError)
    assert str(failed.error) == "lost connection"
    assert failed.tree.num_nodes > 1


def test_an_interrupt_returns_all_results() -> None:
    world = World(dead_share=0.0, invalid_share=0.0, goal_share=1.0, depth=3)
    part: Any = FailsOn(world, "generator", "c", 2, KeyboardInterrupt)
    results = Searcher(part, part, WorldTask(world), wave=1).search_many(["a", "b", "c", "d"], budget=BUDGET)
    assert [result.stop_reason for result in results[:3]] == ["solved", "solved", "interrupted"]
    assert results[3].stop_reason == "interrupted"
    assert all(not (result.tree.flags & bavt.Tree.IN_FLIGHT).any() for result in results)


class Counting(StreamingGenerator):
    """Tells what it was asked and what it answered, and may be interrupted."""

    submitted = answered = 0

    def __init__(self, world: World, interrupt_at: int | None) -> None:
        super().__init__(world)
        self.interrupt_at = interrupt_at

    def submit(self, tickets: Sequence[int], *asked: Any) -> None:
        super().submit(tickets, *asked)
        self.submitted += len(tickets)

    def collect(self) -> list[tuple[int, list[Step]]]:
        done = super().collect()
        self.answered += len(done)
        if self.interrupt_at is not None and self.answered >= self.interrupt_at:
            raise KeyboardInterrupt
        return done

    def statistics(self) -> GenerationStatistics:
        return GenerationStatistics(generated_tokens=self.answered, prompt_tokens=self.submitted)


@pytest.mark.parametrize("interrupt_at", [None, 30])
@pytest.mark.parametrize("wave", [2, 4, 8])
def test_a_list_gives_what_questions_give_as_they_stop(wave: int, interrupt_at: int | None) -> None:
    """A list's are handed over together where they can wait; each tells the generator's work until it stopped."""
    world = World(goal_share=0.2)
    budgets = [bavt.Budget(tokens=tokens) for tokens in (20, 80, 10, 50, 120, 30)]
    questions = list("abcdef")

    def searcher_of() -> Searcher:
        return Searcher(Counting(world, interrupt_at), TableCritic(world), WorldTask(world), wave=wave)

    many = searcher_of().search_many(questions, budget=budgets)
    one_by_one = searcher_of()
    searches = [one_by_one.start(q, budget=budget) for q, budget in zip(questions, budgets, strict=True)]
    for _ in one_by_one.run(searches):
        pass
    expected = [search.result() for search in searches]
    assert [fingerprint(result) for result in many] == [fingerprint(result) for result in expected]
    assert [result.generation for result in many] == [result.generation for result in expected]
    assert len({result.generation for result in many}) > 2


@pytest.mark.parametrize("at", range(2, 6))
def test_an_interrupt_as_a_question_ends_loses_none(at: int) -> None:
    """Between the engine and the caller a question asks the generator what it has done."""
    world = World(goal_share=0.2)
    calls = [0]

    class Interrupted(Counting):
        def statistics(self) -> GenerationStatistics:
            calls[0] += 1
            if calls[0] == at:
                raise KeyboardInterrupt
            return super().statistics()

    searcher = Searcher(Interrupted(world, None), TableCritic(world), WorldTask(world), wave=4)
    found = [search.result() for search in searcher.run([searcher.start(q, budget=BUDGET) for q in "abcd"])]
    assert sorted(result.question for result in found) == list("abcd")
    assert all(result.generation is not None for result in found)


def test_the_last_questions_of_a_list_are_handed_over_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last of them, where nobody sees each as it stops."""
    world = World(goal_share=0.2)
    generator = Counting(world, None)
    answered: list[int] = []
    finish = Drive.finish

    def noted(drive: Drive, slot: int) -> Any:
        answered.append(generator.answered)
        return finish(drive, slot)

    monkeypatch.setattr(Drive, "finish", noted)
    searcher = Searcher(generator, TableCritic(world), WorldTask(world), wave=4)
    searcher.search_many(list("abcdef"), budget=BUDGET)
    assert len(answered) == 6
    assert len(set(answered[2:])) == 1, "two gave their places to others; four were the last"
    answered.clear()
    for _ in searcher.run([searcher.start(question, budget=BUDGET) for question in "abcdef"]):
        pass
    assert len(set(answered[2:])) > 1


def test_bad_questions_are_refused_before_anything_is_spent() -> None:
    world = World()
    generator = ScriptedGenerator(world)
    many = Searcher(generator, TableCritic(world), WorldTask(world))
    with pytest.raises(TypeError, match=r"questions: expected a list of str, got a str; use search\(\)"):
        many.search_many("abc", budget=BUDGET)
    for none in (None, 5):
        with pytest.raises(TypeError, match=f"questions: expected a list of str, got {none}"):
            many.search_many(none, budget=BUDGET)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=f"questions: expected a list of str, got {none}"):
            next(many.search_iter(none, budget=BUDGET))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^questions\[1\]: question: expected a name"):
        many.search_many(["a", ""], budget=BUDGET)
    with pytest.raises(ValueError, match=r"^questions\[0\]: question: expected a name"):
        next(many.search_iter(["", "a"], budget=BUDGET))
    with pytest.raises(TypeError, match="budget: expected one for all questions or a list of 1, got 80"):
        many.search_many(["a"], budget=80)  # type: ignore[arg-type]
    assert generator.requests == []


def test_seconds_count_from_the_start_of_each_question() -> None:
    """Four questions of 50 ms one after the other: none is charged for the time it waited."""

    def generator(text: str, count: int) -> list[str]:
        time.sleep(0.01)
        return [f"step {time.monotonic_ns()}"]

    many = Searcher(generator, wave=1)
    results = many.search_many(["a", "b", "c", "d"], budget=bavt.Budget(seconds=0.05))
    assert [result.stop_reason for result in results] == ["deadline"] * 4
    assert all(result.tree.num_nodes > 1 for result in results)
