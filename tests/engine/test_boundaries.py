"""What a user meets who holds it wrong: each is said at the boundary, and nothing is lost."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bavt_fast as bavt
from bavt_fast.protocols import Description, Step, StepRequest
from bavt_fast.tasks.text import TextTask


class Listed:
    """Proposes prepared steps, one an ask, and keeps the requests."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.requests: list[StepRequest] = []

    def propose(self, states: Any, counts: Any, limits: Any) -> list[list[Step]]:
        self.requests += states
        return [[self.steps[(len(self.requests) - len(states) + i) % len(self.steps)]] for i in range(len(states))]


def searched(seed: int = 0, fails: bool = False) -> bavt.SearchResult:
    def propose(text: str, count: int) -> list[str]:
        if fails and text.count("\n") > 2:
            raise ValueError("no more")
        return [f"{len(text)}"] * count

    try:
        return bavt.search("q", generator=propose, budget=bavt.Budget(tokens=9), seed=seed, clock=lambda: 0.0)
    except bavt.SearchError as error:
        return error.result


@pytest.mark.parametrize("fails", [False, True])
def test_a_result_is_equal_to_a_copy_of_it(fails: bool) -> None:
    result = searched(fails=fails)
    assert (result.error is not None) is fails
    for copied in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), searched(fails=fails)):
        assert copied == result
    assert result not in (searched(seed=1, fails=fails), dataclasses.replace(result, value=0.5), "q", None)
    assert result != dataclasses.replace(result, tree=searched(seed=1).tree)
    assert result != dataclasses.replace(result, error=TypeError("no more"))


class StatusError(Exception):
    """As of many a client: it takes more than the message that it keeps."""

    def __init__(self, message: str, *, response: Any) -> None:
        super().__init__(message)
        self.response = response


@pytest.mark.parametrize("response", [429, lambda: 429])
def test_an_error_that_pickle_cannot_carry_loses_no_result(response: Any) -> None:
    """`Pool.map` would wait for ever."""

    def propose(text: str, count: int) -> list[str]:
        raise StatusError("too many requests", response=response)

    searcher = bavt.Searcher(propose)
    with pytest.raises(bavt.SearchError) as raised:
        searcher.search("q", budget=bavt.Budget(tokens=9))
    results = searcher.search_many(["q"], budget=bavt.Budget(tokens=9))
    assert isinstance(results[0].error, StatusError)
    failure, there = pickle.loads(pickle.dumps([raised.value, results[0]]))
    assert str(failure) == str(raised.value)
    for found in (failure.result, there, copy.deepcopy(results[0])):
        assert repr(found) == repr(results[0])
        assert repr(found.error) == "RuntimeError('StatusError: too many requests')"
    assert there == copy.copy(results[0]) == results[0] != failure.result  # of another time
    assert there != dataclasses.replace(results[0], error=StatusError("gone", response=response))


class OtherTask(TextTask):
    """A text task of another name."""


def test_an_overrun_ends_the_search_and_says_which_limit_was_broken() -> None:
    words = " ".join(["word"] * 71)
    with pytest.warns(UserWarning, match=r"above what was reserved.*raise max_step_tokens \(64\)"):
        result = bavt.search("q", generator=lambda text, count: [words], budget=bavt.Budget(tokens=10_000))
    assert (result.stop_reason, result.spent.tokens, result.overrun.tokens) == ("budget", 71, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # where warnings are errors the result is there all the same
        again = bavt.search("q", generator=lambda text, count: [words], budget=bavt.Budget(tokens=10_000))
    assert again.overrun == result.overrun


def test_a_search_is_driven_once_at_a_time() -> None:
    searcher = bavt.Searcher(lambda text, count: ["a"])
    search = searcher.start("q", budget=bavt.Budget(tokens=5))
    with pytest.raises(ValueError, match="searches: expected each search in one run and once"):
        list(searcher.run([search, search]))
    search.extend(bavt.Budget(tokens=1))
    assert [found.stop_reason for found in searcher.run([search])] == ["budget"]


def test_a_checkpoint_knows_the_name_of_its_task(tmp_path: Path) -> None:
    search = bavt.Search("q", task=OtherTask(), budget=bavt.Budget(tokens=5))
    search.save(tmp_path / "search")
    with pytest.raises(bavt.SnapshotError, match="expected the task it was saved with, 'OtherTask', got 'TextTask'"):
        bavt.Search.load(tmp_path / "search", TextTask())
    assert bavt.Search.load(tmp_path / "search", OtherTask()).id == search.id


def test_pickling_a_search_points_to_save() -> None:
    search = bavt.Search("q", task=TextTask(), budget=bavt.Budget(tokens=5))
    with pytest.raises(TypeError, match=r"save\(path\) it, and Search.load"):
        pickle.dumps(search)


def test_told_values_outside_of_0_to_1_are_clipped_with_a_word() -> None:
    search = bavt.Search("q", task=TextTask(), budget=bavt.Budget(tokens=500), candidates=3)
    with pytest.warns(UserWarning, match="values: expected numbers from 0 to 1"):
        search.tell(search.ask()[0], ["a", "b", "c"], [7.0, -1.0, 0.5])
    assert search.tree.values.tolist() == [1.0, 1.0, 1e-6, 0.5]


class Rating:
    predicts = "value"

    def score(self, nodes: list[bavt.Node]) -> list[float]:
        return [0.5] * len(nodes)


def test_classes_in_the_place_of_objects_are_named() -> None:
    with pytest.raises(TypeError, match=r"generator: expected an object, got the class Listed; make one: Listed\("):
        bavt.Searcher(Listed)
    with pytest.raises(TypeError, match=r"critic: expected an object, got the class Rating; make one: Rating\("):
        bavt.Searcher(Listed(), Rating)
    with pytest.raises(TypeError, match=r"task: expected an object with the methods of bavt_fast.Task.*not called"):
        bavt.Searcher(Listed(), task=TextTask)
    with pytest.raises(TypeError, match=r"task: .*without initial_state and apply and key and describe"):
        bavt.Searcher(Listed(), task=object())


@pytest.mark.parametrize("name", ["initial_state", "apply", "key", "describe", "describe_many"])
def test_a_task_that_would_have_to_be_awaited_is_refused(name: str) -> None:
    """Its coroutines were states, no two of them equal, and a budget was spent on them."""

    async def method(*given: Any) -> None: ...

    task = TextTask()
    setattr(task, name, method)
    with pytest.raises(TypeError, match=f"task: expected a plain {name}, got a coroutine; only adescribe may be one"):
        bavt.Searcher(lambda text, count: ["a"], task=task)
    with pytest.raises(TypeError, match=f"task: expected a plain {name}"):
        bavt.Search("q", task=task, budget=bavt.Budget(tokens=5))


def test_a_key_that_cannot_be_hashed_is_the_keys_fault() -> None:
    class ListKey(TextTask):
        def key(self, state: Any) -> Any:
            return [state.text] if state.depth else state.text

    with pytest.raises(bavt.SearchError, match="key: expected something that can be hashed") as caught:
        bavt.search("q", generator=Listed(Step("a\n", 1)), task=ListKey(), budget=bavt.Budget(tokens=9))
    assert caught.value.result.spent.tokens == 1


def test_cached_tokens_have_a_price_of_their_own() -> None:
    step = Step("a\n", 2, prompt_tokens=10, cached_tokens=7)
    prices = {"token_cost": 0.5, "prompt_token_cost": 0.1, "cached_token_cost": 0.01, "max_prompt_tokens": 10}
    search = bavt.Search("q", task=TextTask(), budget=bavt.Budget(cost=100.0), **prices)
    search.tell(search.ask()[0], [step])
    assert search.spent.cost == pytest.approx(2 * 0.5 + 3 * 0.1 + 7 * 0.01, abs=1e-12)
    assert search.spent.prompt_tokens == 10
    with pytest.raises(ValueError, match=r"cached_token_cost: expected at most 0.1, got 0.2"):
        bavt.Search("q", task=TextTask(), budget=bavt.Budget(tokens=1), **(prices | {"cached_token_cost": 0.2}))
    with pytest.raises(ValueError, match=r"Step.cached_tokens: expected an integer from 0 to 3, got 4"):
        search.tell(search.ask()[0], [Step("b\n", 1, prompt_tokens=3, cached_tokens=4)])


def test_an_open_ask_is_handed_out_again_as_it_was() -> None:
    """Also the steps tried before: those of the moment when it was handed out, whatever came back since."""
    search = bavt.Search("q", task=TextTask(), budget=bavt.Budget(tokens=500), policy="best_first", decay=1.0)
    first, second = search.ask(2)
    assert first.node == second.node == 0
    search.tell(first, ["a"], [0.5])
    third = next(ask for ask in search.ask(8) if ask.node == 0)
    assert [step.text for step in third.request.tried] == ["a\n"]
    search.tell(third, ["b"], [0.5])
    again = {ask.ticket: ask for ask in search.open_asks()}
    assert again[second.ticket] == second
    assert again[second.ticket].request.tried == ()


def test_a_description_is_asked_of_plain_answers_as_of_all() -> None:
    """One question at a time takes a shorter way through the loop: what is odd there fails as it does elsewhere."""

    class Odd(TextTask):
        def describe(self, state: Any) -> Any:
            return super().describe(state) if state.depth < 2 else Description(verdict=True)

    texts = [Step(f"{i}\n", 1) for i in range(9)]
    for wave in (1, 4):
        with pytest.raises(bavt.SearchError, match="describe: expected a verdict of None") as caught:
            bavt.search("q", generator=Listed(*texts), task=Odd(), budget=bavt.Budget(tokens=9), wave=wave)
        assert caught.value.result.tree.num_nodes >= 2


@pytest.mark.parametrize("wave", [1, 4])
def test_a_verifier_may_say_what_numpy_says(wave: int) -> None:
    class Verified(TextTask):
        def describe(self, state: Any) -> Description:
            about = super().describe(state)
            is_right = np.bool_(about.answer == "7") if about.terminal else None
            return Description(np.bool_(about.terminal), is_right, about.answer, about.prompt, np.int64(0))  # type: ignore[arg-type]

    steps = [Step(text, 1) for text in ("so\n", "Answer: 6\n", "Answer: 7\n")]
    result = bavt.search("q", generator=Listed(*steps), task=Verified(), budget=bavt.Budget(tokens=9), wave=wave)
    assert (result.solved, result.answer, result.refuted_steps) == (True, "7", 1)


class Model:
    """Makes what a search takes, and is not it."""

    def generator(self, *, chat: bool = False) -> object:
        raise NotImplementedError

    def critic(self, scale: int = 1) -> object:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"generator": Model().generator},
            r"^generator: expected a function of \(text, count\), got Model\.generator\(.*; "
            r"call it: Model\.generator\(\)$",
        ),
        (
            {"generator": lambda text: ["a"]},
            r"^generator: expected a function of \(text, count\), got .*\(text\)$",
        ),
        (
            {"generator": lambda text, n: ["a"], "critic": lambda: 0.5},
            r"^critic: expected a function of \(text\), got ",
        ),
        ({"generator": lambda text, n: ["a"], "critic": lambda text, more: 0.5}, r"^critic: expected a function of "),
    ],
)
def test_a_function_that_takes_something_else_is_refused_before_anything_is_spent(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        bavt.Searcher(**{"critic": None, "task": None, **given})


@pytest.mark.parametrize(
    "function",
    [
        lambda text, count, limit: ["a"],
        lambda text, count, more=1: ["a"],
        lambda *arguments: ["a"],
        functools.partial(lambda word, text, count: [word], "a"),
    ],
)
def test_functions_that_take_more_or_hide_it_pass(function: Any) -> None:
    result = bavt.search("q", generator=function, budget=bavt.Budget(tokens=3))
    assert result.spent.tokens > 0
