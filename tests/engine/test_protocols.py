"""What generators, critics and tasks are taken for, and the wrappers of plain functions."""

from __future__ import annotations

import asyncio
import functools
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bavt_fast.critics.functions import AsyncFunctionCritic, FunctionCritic, as_critic
from bavt_fast.generators.functions import AsyncFunctionGenerator, FunctionGenerator, as_generator
from bavt_fast.protocols import (
    Critic,
    Description,
    GenerationError,
    Node,
    Sampling,
    Step,
    StepGenerator,
    StepRequest,
    as_step,
    without_hidden,
)
from bavt_fast.step_checks import checked_description


class Generator:
    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        return [[] for _ in states]


class ResidualCritic:
    predicts = "residual"

    def score(self, candidates: Sequence[Node]) -> list[float]:
        return [0.0 for _ in candidates]


def node(text: str) -> Node:
    return Node(None, text)


def test_objects_are_taken_as_they_are() -> None:
    generator: StepGenerator = Generator()
    critic: Critic = ResidualCritic()  # type: ignore[assignment]
    assert as_generator(generator) is generator
    assert as_critic(critic) is critic


def test_functions_are_wrapped() -> None:
    generator = as_generator(lambda text, count: [text + "!"] * count)
    steps = generator.propose([StepRequest("a b"), StepRequest("c")], [2, 1], [10, 10])
    assert [[step.text for step in row] for row in steps] == [["a b!\n", "a b!\n"], ["c!\n"]]
    critic = as_critic(len)
    assert critic.predicts == "value"
    assert critic.score([node("four"), node("")]) == [4, 0]


def test_no_critic_gives_every_state_one() -> None:
    assert as_critic(None).score([node("a"), node("b")]) == [1.0, 1.0]


@pytest.mark.parametrize("generator", [None, 5, "text", [], object()])
def test_what_is_no_generator(generator: Any) -> None:
    with pytest.raises(TypeError, match=r"generator: expected an object with propose.*got " + type(generator).__name__):
        as_generator(generator)


@pytest.mark.parametrize("critic", [5, "text", [], object()])
def test_what_is_no_critic(critic: Any) -> None:
    with pytest.raises(TypeError, match=r"critic: expected an object with score.*got " + type(critic).__name__):
        as_critic(critic)


def test_a_critic_must_say_what_it_predicts() -> None:
    critic = ResidualCritic()
    critic.predicts = "logits"
    with pytest.raises(ValueError, match="predicts to be 'value' or 'residual', got 'logits'"):
        as_critic(critic)


@pytest.mark.parametrize("make", [FunctionGenerator, FunctionCritic])
def test_what_is_no_function(make: Any) -> None:
    with pytest.raises(TypeError, match="function: expected a function, got 5 of type int"):
        make(5)


def test_what_counts_tokens_is_a_function() -> None:
    with pytest.raises(TypeError, match="count_tokens: expected a function or None, got 4 of type int"):
        FunctionGenerator(lambda text, count: ["a"], count_tokens=4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((["text"], [1], [9]), "states: expected StepRequest objects, got 'text'; make one: StepRequest(text)"),
        (([None], [1], [9]), "states: expected StepRequest objects, got None; make one: StepRequest(text)"),
        ((None, [1], [9]), "states: expected a list, got None"),
        (([StepRequest("a")], 1, [9]), "counts: expected a list, got 1"),
        (([StepRequest("a")], [1, 2], [9]), "states, counts, limits: expected as many of each, got 1, 2, 1"),
    ],
)
def test_what_is_no_request(columns: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        FunctionGenerator(lambda text, count: ["a"]).propose(*columns)
    assert str(caught.value) == message


@pytest.mark.parametrize(("nodes", "got"), [(["text"], "'text'"), ([StepRequest("a")], "StepRequest"), ("ab", "'a'")])
def test_what_is_no_node(nodes: Any, got: str) -> None:
    with pytest.raises(TypeError, match=f"candidates: expected Node objects, got {got}"):
        FunctionCritic(len).score(nodes)


class TestFunctionGenerator:
    @pytest.mark.parametrize("count", [None, "7", -1, 2.5])
    def test_a_count_of_tokens_is_a_number(self, count: Any) -> None:
        generator = FunctionGenerator(lambda text, count: ["a"], count_tokens=lambda text: count)
        error = generator.propose([StepRequest("")], [1], [9])[0]
        assert str(error).startswith("count_tokens: expected an integer of at least 0"), error

    def test_tokens_are_words_by_default(self) -> None:
        generator = FunctionGenerator(lambda text, count: ["one two three", "", "x"])
        assert [s.tokens for s in generator.propose([StepRequest("")], [3], [9])[0]] == [3, 1, 1]

    def test_tokens_by_the_caller_s_count(self) -> None:
        generator = FunctionGenerator(lambda text, count: ["abcde"], count_tokens=len)
        assert generator.propose([StepRequest("")], [1], [9])[0] == [Step("abcde\n", 5)]

    def test_what_is_longer_than_its_limit_is_what_the_function_says(self) -> None:
        generator = FunctionGenerator(lambda text, count: ["a b c d", "a b"])
        assert generator.propose([StepRequest("")], [2], [2])[0] == [Step("a b c d\n", 4), Step("a b\n", 2)]

    def test_steps_are_taken_as_they_are(self) -> None:
        step = Step("as written", 7, "limit", prompt_tokens=9)
        assert FunctionGenerator(lambda text, count: (step,)).propose([StepRequest("")], [1], [9])[0][0] is step

    @pytest.mark.parametrize(
        "function",
        [
            lambda text, count, limit: [str(limit)],
            lambda text, count, most: [str(most)],
            lambda text, count, limit=5: [str(limit)],
            functools.partial(lambda before, text, count, limit: [str(limit)], "bound"),
        ],
    )
    def test_a_third_parameter_is_the_limit(self, function: Any) -> None:
        assert FunctionGenerator(function).propose([StepRequest("")], [1], [9])[0][0].text == "9\n"

    @pytest.mark.parametrize(
        "function",
        [
            lambda text, count, replies="kept": [replies],
            lambda *args: ["kept"] if len(args) == 2 else ["given the limit"],
            lambda text, count, *, limit="kept": [limit],
        ],
    )
    def test_a_third_parameter_of_its_own_is_left_alone(self, function: Any) -> None:
        """A default binds what a loop changes; a wrapper passes on whatever comes."""
        assert FunctionGenerator(function).propose([StepRequest("")], [1], [9])[0][0].text == "kept\n"

    @pytest.mark.parametrize("reply", [None, "text", 7, [7], ["a", None], iter(["a"])])
    def test_wrong_replies(self, reply: Any) -> None:
        answer = FunctionGenerator(lambda text, count: reply).propose([StepRequest("")], [1], [9])[0]
        assert isinstance(answer, TypeError)
        assert re.match(r"generator: expected (a list of str|steps as str or Step)", str(answer))

    def test_a_call_that_fails_is_an_answer_of_its_own(self) -> None:
        def function(text: str, count: int) -> list[str]:
            if text == "b":
                raise OSError("429")
            return [text]

        first, second, third = FunctionGenerator(function).propose([*map(StepRequest, "abc")], [1] * 3, [9] * 3)
        assert (first, third) == ([Step("a\n", 1)], [Step("c\n", 1)])
        assert isinstance(second, OSError)

    def test_lists_of_different_lengths(self) -> None:
        with pytest.raises(ValueError, match="states, counts, limits: expected as many of each, got"):
            FunctionGenerator(lambda text, count: []).propose([StepRequest("")], [1, 1], [9])


def test_a_function_critic_sees_the_whole_context() -> None:
    seen: list[str] = []

    def value(text: str) -> float:
        seen.append(text)
        return 0.25

    assert FunctionCritic(value).score([node("question\nstep one\nstep two")]) == [0.25]
    assert seen == ["question\nstep one\nstep two"]


def test_coroutine_functions_are_wrapped() -> None:
    async def generate(text: str, count: int, limit: int) -> list[str]:
        return [f"{text} {limit}"] * count

    async def value(text: str) -> float:
        return float(len(text))

    class Callable:
        async def __call__(self, text: str, count: int) -> list[str]:
            return ["called"]

    generator, critic = as_generator(generate), as_critic(value)
    assert isinstance(generator, AsyncFunctionGenerator)
    assert isinstance(critic, AsyncFunctionCritic)
    assert asyncio.run(generator.propose([StepRequest("q")], [2], [7])) == [[Step("q 7\n", 2)] * 2]
    assert asyncio.run(critic.score([node("four")])) == [4.0]
    called = as_generator(Callable())
    assert asyncio.run(called.propose([StepRequest("q")], [1], [7])) == [[Step("called\n", 1)]]


@pytest.mark.parametrize("value", [Step("a", 1), StepRequest("a"), node("a")])
def test_values_are_small(value: Any) -> None:
    assert not hasattr(value, "__dict__")


def test_texts_become_steps() -> None:
    assert as_step("two words") == Step("two words\n", 2)
    assert as_step("two words\n") == Step("two words\n", 2)
    assert as_step("") == Step("\n", 1)
    assert as_step("ab", len) == Step("ab\n", 2)
    step = Step("x", 1)
    assert as_step(step) is step
    with pytest.raises(TypeError, match="generator: expected steps as str or Step, got 5"):
        as_step(5)


def test_a_description_takes_numpys_bools_and_integers() -> None:
    about = Description(np.bool_(True), np.bool_(False), "7", min_tokens=np.int64(3))  # type: ignore[arg-type]
    assert about == (True, False, "7", None, 3)
    assert [type(field) for field in about] == [bool, bool, str, type(None), int]
    assert type(Description(terminal=np.bool_(True)).terminal) is bool  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(about)) == about == Description(*about)
    assert type(Description()._replace(terminal=np.bool_(True)).terminal) is bool
    assert repr(Description()) == "Description(terminal=False, verdict=None, answer=None, prompt=None, min_tokens=0)"


@pytest.mark.parametrize("fields", [{"terminal": 1}, {"terminal": True, "verdict": np.int64(1)}, {"min_tokens": 2.0}])
def test_what_is_neither_a_bool_nor_an_integer_is_refused_of_a_description(fields: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match="describe: expected"):
        checked_description(Description(**fields))


def test_the_log_probability_of_a_step() -> None:
    assert Step("a", 1).total_log_probability() is None
    assert Step("a", 2, token_probabilities=(0.5, 0.25)).total_log_probability() == pytest.approx(math.log(0.125))
    assert Step("a", 2, token_probabilities=(0.5, 0.25), log_probability=-9.0).total_log_probability() == -9.0
    assert Step("a", 2, token_probabilities=(0.5, 0.0)).total_log_probability() == -math.inf


def test_a_step_without_its_hidden_state_is_the_same_step() -> None:
    full = Step("a", 1, "end", 2, 3, 0.5, 0.25, [1.0], (4,), (0.5,), -1.0)
    slim = without_hidden(full)
    assert slim.hidden is None
    assert slim == full  # hidden is not compared
    assert all(getattr(slim, name) == getattr(full, name) for name in Step.__slots__ if name != "hidden")
    assert without_hidden(slim) is slim


# --- nodes and requests


def chain() -> Node:
    """A prompt, two steps, a new prompt in the middle, one step more."""
    root = Node("s0", "Question?\n", value=0.5)
    first = Node("s1", None, root, Step("one.\n", 2, token_ids=(1, 2)), value=0.25)
    second = Node("s2", None, first, Step("  two", 1, token_ids=(3,)))
    third = Node("s3", "New context:\n", second, Step("dropped", 1, token_ids=(9,)))
    return Node("s4", None, third, Step(" three", 1, hidden=[1.0], token_ids=(4, 5)))


def test_a_context_is_its_prompt_and_the_steps_since() -> None:
    last = chain()
    second = last.parent.parent  # type: ignore[union-attr]
    assert second is not None
    assert second.text == "Question?\none.\n  two"
    assert last.text == "New context:\n three"
    request, early = StepRequest(last, 7), StepRequest(second)
    assert (request.text, request.prompt, request.token_ids) == (last.text, "New context:\n", (4, 5))
    assert (early.prompt, early.token_ids) == ("Question?\n", (1, 2, 3))
    assert (second.parent_value, last.parent_value) == (0.25, 1.0)
    assert Node(None, "q").parent_value == 1.0


def test_a_request_travels_with_its_context_and_nothing_of_the_tree() -> None:
    tried = (Step("tried", 1, token_ids=(8,)),)
    request = StepRequest(chain(), 2**63 - 1, tried, Sampling(0.5, 0.9, 40), 1.5)
    there = pickle.loads(pickle.dumps(request))
    for name in ("text", "prompt", "token_ids", "seed", "tried", "sampling", "seconds_left"):
        assert getattr(there, name) == getattr(request, name)
    assert there.node.step.hidden is None
    assert b"s4" not in pickle.dumps(request)  # no states
    assert b"dropped" not in pickle.dumps(request)  # nor what lies before the prompt


def test_a_request_that_travels_is_of_a_question_or_of_a_state_as_before() -> None:
    """A context that is too long is an error of a question; a state is closed, also one with a prompt of its own."""
    last = chain()
    for node in (Node(None, "q"), last, last.parent):
        assert node is not None
        there = pickle.loads(pickle.dumps(StepRequest(node))).node
        assert (there.parent is None, there.prompt) == (node.parent is None, node.prompt)
        assert there.text == node.text
    far = pickle.loads(pickle.dumps(StepRequest(Node(None, None, Node(None, "q"), Step("s", 1))))).node
    assert far.parent is not None
    assert far.parent.parent is None


def test_the_steps_that_a_request_knows_travel_without_their_hidden_states() -> None:
    request = StepRequest("q", tried=(Step("tried", 1, hidden=[1.0]),))
    assert pickle.loads(pickle.dumps(request)).tried[0].hidden is None


def test_a_request_far_down_a_path_travels() -> None:
    node = Node(None, "q\n")
    for i in range(5000):
        node = Node(None, None, node, Step(f"{i}\n", 1))
    assert pickle.loads(pickle.dumps(StepRequest(node))).text == node.text


def test_a_generation_error_travels() -> None:
    error = pickle.loads(pickle.dumps(GenerationError("429", {"tokens": 5})))
    assert (str(error), error.spent) == ("429", {"tokens": 5})


def test_the_package_and_a_search_load_no_torch() -> None:
    """A search with a function for a generator runs on numpy alone."""
    script = (
        "import sys, bavt_fast as bavt\n"
        "from bavt_fast.tasks.countdown import Countdown, CountdownOracle\n"
        "generator = lambda text, count: ['3 * 2 = 6 (left: 6)']\n"
        "searcher = bavt.Searcher(generator, CountdownOracle(), Countdown())\n"
        "result = searcher.search('2 3 -> 6', budget=bavt.Budget(tokens=50))\n"
        "assert result.solved, result\n"
        "loaded = {'torch', 'transformers', 'triton'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
