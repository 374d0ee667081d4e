"""What a question is charged for what a server did, and that no limit is passed by it."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, chat_completion, completion, in_turn, propose

import bavt_fast as bavt
from bavt_fast.generators.openai_server import OpenAIGenerator, ServerStatistics
from bavt_fast.protocols import DeadlinePassed, Sampling, StepRequest

pytestmark = pytest.mark.usefixtures("no_key_or_proxy")


def blank(body: dict[str, Any]) -> Reply:
    """A line break and nothing before it. Every letter that is read is a token."""
    return completion("", 1, stop_reason="\n", read=len(body["prompt"]))


def blank_at_first(body: dict[str, Any]) -> Reply:
    """An empty line behind the prompt, then lines with something in them."""
    if not body["prompt"].endswith("\n\n"):
        return blank(body)
    said = f"line {body['seed'] % 7}"
    return completion(said, min(5, body["max_tokens"]), stop_reason="\n", read=len(body["prompt"]))


# --- a step that has said nothing


@pytest.mark.parametrize(
    ("most_read", "requests"),
    [(None, 6), (1000, 6), (2 + 3, 2), (2 + 3 - 1, 1), (2 + 3 + 4, 3), (2, 1)],
)
def test_a_blank_step_goes_on_while_another_request_fits(most_read: int | None, requests: int) -> None:
    with FakeServer(blank) as server:
        asked = StepRequest("Q\n", sampling=Sampling(max_prompt_tokens=most_read))
        ((step,),) = propose(OpenAIGenerator("m", base_url=server.url), asked, limit=6)
    assert len(server.requests) == requests
    assert (step.text, step.tokens, step.finish_reason) == ("\n" * requests, requests, "delimiter")
    assert step.prompt_tokens == sum(range(2, 2 + requests))


def test_a_blank_step_ends_where_nobody_says_what_was_read() -> None:
    with FakeServer(lambda body: completion("", 1, stop_reason="\n", read=0)) as server:
        asked = StepRequest("Q\n", sampling=Sampling(max_prompt_tokens=1000))
        ((step,),) = propose(OpenAIGenerator("m", base_url=server.url), asked)
    assert (step.text, len(server.requests)) == ("\n", 1)


@pytest.mark.parametrize("read", [None, 0])
def test_where_nobody_says_what_was_read_all_that_was_reserved_is_charged(read: Any) -> None:
    """Else a budget of prompt tokens, or of money for them, would never end."""

    def answer(body: dict[str, Any]) -> Reply:
        return completion(f"step {body['seed']}", None if read is None else 5, read=read)

    with FakeServer(answer) as server:
        searcher = bavt.Searcher(
            OpenAIGenerator("m", base_url=server.url), max_step_tokens=8, max_prompt_tokens=100, prompt_token_cost=0.01
        )
        by_tokens = searcher.search("Q", budget=bavt.Budget(tokens=500, prompt_tokens=300))
        by_cost = searcher.search("Q", budget=bavt.Budget(tokens=500, cost=2.0))
    assert (by_tokens.spent.prompt_tokens, by_cost.spent.prompt_tokens, by_cost.spent.cost) == (300, 200, 2.0)
    assert by_tokens.overrun == by_cost.overrun == bavt.Spent()
    assert len(server.requests) == 5


def test_prompt_tokens_that_are_listed_alone_are_charged() -> None:
    reply = completion("a", None, token_ids=[1, 2], prompt_token_ids=[3, 4, 5])
    with FakeServer(lambda body: reply) as server:
        asked = StepRequest("Q", sampling=Sampling(max_prompt_tokens=100))
        ((step,),) = propose(OpenAIGenerator("m", base_url=server.url, token_ids=True), asked)
    assert (step.tokens, step.prompt_tokens) == (2, 3)


def test_behind_a_blank_line_what_is_left_of_the_reservation_is_charged() -> None:
    replies = in_turn(completion("", 1, stop_reason="\n", read=7), completion("a", 2, read=0))
    with FakeServer(replies) as server:
        asked = StepRequest("Q", sampling=Sampling(max_prompt_tokens=100))
        ((step,),) = propose(OpenAIGenerator("m", base_url=server.url), asked)
    assert (step.text, step.tokens, step.prompt_tokens) == ("\na\n", 3, 100)


@pytest.mark.parametrize("answer", [blank, blank_at_first])
@pytest.mark.parametrize("max_prompt_tokens", [50, 70, 200])
@pytest.mark.parametrize("budget", [bavt.Budget(prompt_tokens=260), bavt.Budget(cost=0.3), bavt.Budget(tokens=64)])
def test_blank_lines_break_no_limit(answer: Any, max_prompt_tokens: int, budget: bavt.Budget) -> None:
    with FakeServer(answer) as server:
        searcher = bavt.Searcher(
            OpenAIGenerator("m", base_url=server.url),
            max_step_tokens=32,
            token_cost=1e-3,
            prompt_token_cost=1e-3,
            max_prompt_tokens=max_prompt_tokens,
        )
        result = searcher.search("Why is the sky blue, and why is it red?\n", budget=budget)
    read = sum(len(body["prompt"]) for body in server.requests)
    assert result.spent.prompt_tokens == read > 0
    assert result.spent.cost == pytest.approx((result.spent.tokens + read) * 1e-3)
    assert result.overrun == bavt.Spent()
    assert read <= (budget.prompt_tokens or read)
    assert result.spent.cost <= (budget.cost or result.spent.cost)


def test_a_critics_reply_reads_no_more_than_is_reserved() -> None:
    replies = in_turn(*[completion("", 1, stop_reason="\n", read=90)] * 2, completion("7", 1, read=90))
    with FakeServer(replies) as server:
        generator = OpenAIGenerator("m", base_url=server.url)
        critic = bavt.AsyncPromptedCritic(generator, max_prompt_tokens=100)
        searcher = bavt.Searcher(one_thought, critic, max_prompt_tokens=1, prompt_token_cost=1e-3)
        result = searcher.search("Q", budget=bavt.Budget(prompt_tokens=110))
    assert (len(server.requests), result.spent.prompt_tokens) == (1, 90)
    assert result.overrun == bavt.Spent()


async def one_thought(text: str, count: int) -> list[str]:
    return [f"thought {len(text)}"]


# --- answers without a step


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "function_call", "length"])
def test_what_was_billed_without_a_text_is_charged(reason: str) -> None:
    with FakeServer(lambda body: chat_completion(None, 50, reason)) as server:
        generator = OpenAIGenerator("m", base_url=server.url, chat=True)
        ((step,),) = propose(generator, StepRequest("Q"))
    assert (step.text, step.tokens, step.prompt_tokens, step.finish_reason) == ("", 50, 7, "limit")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        chat_completion([{"type": "text", "text": "a"}]),  # type: ignore[arg-type]
        completion("a"),  # of another endpoint
        Reply({"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 7}}),
        Reply({"choices": [None], "usage": {"completion_tokens": 5, "prompt_tokens": 7}}),
        chat_completion("a", logprobs=[]),
        chat_completion("a", logprobs={"content": [{"token": "x"}]}),
        chat_completion("a", logprobs={"token_logprobs": 3}),
    ],
)
def test_an_answer_that_was_billed_is_charged_and_not_asked_for_again(reply: Reply) -> None:
    with FakeServer(lambda body: reply) as server:
        generator = OpenAIGenerator("m", base_url=server.url, chat=True, logprobs=True)
        (error,) = propose(generator, StepRequest("Q"))
        assert isinstance(error, bavt.GenerationError)
        assert server.url in str(error)
        assert error.spent == bavt.Spent(tokens=5, prompt_tokens=7)
        assert generator.server_statistics() == ServerStatistics(failures=1, generated_tokens=5, prompt_tokens=7)
        assert len(server.requests) == 1
        searcher = bavt.Searcher(generator, retries=2, max_step_tokens=8)
        [result] = searcher.search_many(["Q"], budget=bavt.Budget(tokens=100))
    assert result.stop_reason == "error"
    assert (result.spent.tokens, result.spent.prompt_tokens) == (15, 21)
    assert len(server.requests) == 4


def test_an_answer_that_cannot_be_read_is_charged_what_may_have_been_read_for_it() -> None:
    with FakeServer(lambda body: Reply({"choices": [], "usage": {"completion_tokens": 5}})) as server:
        asked = StepRequest("Q", sampling=Sampling(max_prompt_tokens=100))
        (error,) = propose(OpenAIGenerator("m", base_url=server.url), asked)
    assert error.spent == bavt.Spent(tokens=5, prompt_tokens=100)


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls"])
def test_an_answer_without_a_text_and_without_a_bill_is_asked_for_again(reason: str) -> None:
    nothing = Reply({"choices": [{"message": {"content": None}, "finish_reason": reason}]})
    with FakeServer(in_turn(nothing, chat_completion("a"))) as server:
        generator = OpenAIGenerator("m", base_url=server.url, chat=True)
        ((step,),) = propose(generator, StepRequest("Q"))
    assert (step.text, step.tokens, len(server.requests)) == ("a\n", 5, 2)


@pytest.mark.parametrize(
    "sent",
    [
        [],
        "x",
        {"content": [{"token": "x"}]},
        {"token_logprobs": 3},
        {"token_logprobs": [float("nan")]},
        {"token_logprobs": [10**400]},
        {"content": 3},
    ],
)
def test_probabilities_that_nobody_asked_for_may_have_any_form(sent: Any) -> None:
    with FakeServer(lambda body: completion("a", logprobs=sent)) as server:
        ((step,),) = propose(OpenAIGenerator("m", base_url=server.url), StepRequest("Q"))
    assert (step.text, step.tokens, step.log_probability) == ("a\n", 5, None)


# --- errors beside steps


def test_what_a_failed_candidate_took_is_charged_beside_the_good_ones() -> None:
    """Only some answers have a hidden state. The others were made and read all the same."""

    def answer(body: dict[str, Any]) -> Reply:
        state = {"hidden_states": [0.5, 0.25]} if body["seed"] % 2 else {}
        return completion("a", 3, **state)

    with FakeServer(answer) as server:
        generator = OpenAIGenerator("m", base_url=server.url, hidden_layer="last")
        (answers,) = propose(generator, StepRequest("Q", seed=1), count=8)
    good = [step for step in answers if step.text]
    assert 0 < len(good) < 8
    assert sum(step.tokens for step in answers) == 8 * 3
    assert sum(step.prompt_tokens for step in answers) == 8 * 7
    assert [step.finish_reason for step in answers if not step.text] == ["limit"]


def test_all_candidates_that_failed_are_charged() -> None:
    with FakeServer(lambda body: completion("a", 3)) as server:
        generator = OpenAIGenerator("m", base_url=server.url, hidden_layer="last")
        (error,) = propose(generator, StepRequest("Q"), count=4)
        assert error.spent == bavt.Spent(tokens=12, prompt_tokens=28)
        searcher = bavt.Searcher(generator, candidates=4, retries=0, max_step_tokens=8, max_prompt_tokens=10)
        [result] = searcher.search_many(["Q"], budget=bavt.Budget(prompt_tokens=500))
    assert (result.stop_reason, result.spent.tokens, result.spent.prompt_tokens) == ("error", 12, 28)


def test_what_failed_without_an_answer_costs_nothing() -> None:
    replies = in_turn(Reply({"error": "no"}, 403), completion("a", 3))
    with FakeServer(replies) as server:
        (answers,) = propose(OpenAIGenerator("m", base_url=server.url), StepRequest("Q"), count=4)
    assert [(step.text, step.tokens) for step in answers] == [("a\n", 3)] * 3


def test_what_fails_behind_a_blank_line_is_charged() -> None:
    """The second answer was billed, and has no step in it."""
    replies = in_turn(completion("", 1, stop_reason="\n"), completion("a", 3, logprobs=[]))
    with FakeServer(replies) as server:
        generator = OpenAIGenerator("m", base_url=server.url, logprobs=True)
        ((step,),) = propose(generator, StepRequest("Q"))
    assert (step.text, step.tokens, step.prompt_tokens, step.finish_reason) == ("\n", 4, 14, "delimiter")


# --- deadlines


def test_a_rest_beyond_the_deadline_ends_questions_without_an_error() -> None:
    """And without asking for the others: the server has said when it may be asked again."""
    with FakeServer(lambda body: Reply({"error": "slow down"}, 429, {"Retry-After": "60"})) as server:
        searcher = bavt.Searcher(OpenAIGenerator("m", base_url=server.url), wave=4, retries=2, max_step_tokens=8)
        results = searcher.search_many([f"Q{i}" for i in range(8)], budget=bavt.Budget(tokens=100, seconds=0.4))
    assert [(result.stop_reason, result.error) for result in results] == [("deadline", None)] * 8
    assert len(server.requests) <= 4
    assert max(result.spent.tokens for result in results) < 8  # no step was made, so none is charged in full


def test_what_was_not_sent_by_the_deadline_takes_nothing() -> None:
    with FakeServer(lambda body: Reply(completion("a").body, delay_s=5.0)) as server:
        generator = OpenAIGenerator("m", base_url=server.url, max_in_flight=1)
        answers = propose(generator, StepRequest("Q", seconds_left=1.0), StepRequest("R", seconds_left=0.5), limit=9)
    sent, waited = answers
    assert isinstance(sent, DeadlinePassed)
    assert isinstance(waited, DeadlinePassed)
    assert (sent.is_known, waited.is_known, waited.spent) == (False, True, None)


def test_candidates_that_came_by_the_deadline_are_used() -> None:
    """Of the others the most that they may have made is charged, or nothing where they were not sent."""
    replies = itertools.chain([0.0], itertools.repeat(5.0))
    with FakeServer(lambda body: Reply(completion("a").body, delay_s=next(replies))) as server:
        generator = OpenAIGenerator("m", base_url=server.url, max_in_flight=2)
        [steps] = asyncio.run(generator.propose([StepRequest("Q", seconds_left=1.0)], [4], [9]))
    assert isinstance(steps, list)
    assert sorted((step.tokens, step.finish_reason) for step in steps[1:]) == [(9, "deadline")] * 2
    assert steps[0].text.startswith("a")


def late_after(replies: int) -> Any:
    """Blank lines that come at once, and then nothing in time."""
    delays = itertools.chain([0.0] * replies, itertools.repeat(5.0))
    return lambda body: Reply(completion("", 1, stop_reason="\n", read=10).body, delay_s=next(delays))


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_dropped_at_the_deadline_is_charged_all_that_it_may_have_read(count: int) -> None:
    """Behind a blank line, and beside another candidate."""
    with FakeServer(late_after(1)) as server:
        asked = StepRequest("Q", seconds_left=0.5, sampling=Sampling(max_prompt_tokens=100))
        (steps,) = propose(OpenAIGenerator("m", base_url=server.url), asked, count=count, limit=9)
    assert [(step.tokens, step.prompt_tokens, step.finish_reason) for step in steps] == [(9, 100, "deadline")] * count


def test_nothing_is_read_behind_a_deadline_where_nothing_was_reserved() -> None:
    with FakeServer(late_after(1)) as server:
        (steps,) = propose(OpenAIGenerator("m", base_url=server.url), StepRequest("Q", seconds_left=0.5), limit=9)
    assert [(step.tokens, step.prompt_tokens, step.finish_reason) for step in steps] == [(9, 10, "deadline")]
