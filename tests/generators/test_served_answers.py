"""What a generator over a server reads in an answer: how a step ends, its tokens, its probabilities."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, chat_completion, completion, one_step, propose, thinks_and_answers

import bavt_fast as bavt
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.protocols import StepRequest
from bavt_fast.tasks.text import TextTask

pytestmark = pytest.mark.usefixtures("no_key_or_proxy")


@pytest.mark.parametrize(
    ("reply", "options", "text", "reason"),
    [
        (completion("a"), {}, "a\n", "delimiter"),  # nobody says: the delimiter
        (completion(""), {}, "", "end"),
        (completion("a", stop_reason="\n"), {}, "a\n", "delimiter"),
        (completion("a", stop_reason=None), {}, "a", "end"),
        (completion("a", stop_reason=128009), {}, "a", "end"),  # a token that ends the text
        (completion("a", matched_stop="."), {"delimiter": ("\n", ".")}, "a.", "delimiter"),
        (completion("a.", stop_reason="."), {"delimiter": ("\n", "."), "stop_is_returned": True}, "a.", "delimiter"),
        (completion("a", stop_reason=None), {"stop_is_returned": True}, "a", "end"),
        (completion("a"), {"stop_is_returned": True}, "a", "end"),
        (completion("a"), {"stop_is_returned": "always"}, "a", "end"),
        (completion("a\n"), {"stop_is_returned": "always"}, "a\n", "delimiter"),
        (completion("a\n", finish_reason="length"), {"stop_is_returned": "always"}, "a\n", "delimiter"),
        (completion("a\n"), {}, "a\n", "delimiter"),  # it was returned unasked
        (completion("a", finish_reason="length"), {}, "a", "limit"),
        (completion("a", finish_reason="max_tokens"), {}, "a", "limit"),
        (completion("a", finish_reason="content_filter"), {}, "a", "limit"),
        (completion("a", finish_reason="tool_calls"), {}, "a", "limit"),
        (completion("a\n", finish_reason="content_filter"), {}, "a\n", "limit"),
        (completion("a\n", finish_reason="tool_calls"), {"stop_is_returned": "always"}, "a\n", "limit"),
        (completion("a", finish_reason="eos_token"), {}, "a", "end"),
        (completion("a\n", finish_reason="stop_sequence"), {}, "a\n", "delimiter"),
        (completion("a", finish_reason="stop_sequence"), {}, "a\n", "delimiter"),
        (completion("a", finish_reason="stop_sequence"), {"stop_is_returned": True}, "a\n", "delimiter"),
        (completion("a", finish_reason=None), {}, "a\n", "delimiter"),  # nobody says
        (completion("", finish_reason=None), {}, "", "end"),
        (completion("a", finish_reason=None, stop_reason=None), {}, "a", "end"),
        (completion("a", finish_reason=None, stop_reason="\n"), {}, "a\n", "delimiter"),
        (completion("a", finish_reason="end_turn"), {}, "a\n", "delimiter"),
        (completion("a", finish_reason="end_turn"), {"stop_is_returned": True}, "a", "end"),
        (chat_completion(None, finish_reason=None), {"chat": True}, "", "limit"),
        (chat_completion(None, finish_reason="end_turn"), {"chat": True}, "", "limit"),
        (chat_completion("ä"), {"chat": True}, "ä\n", "delimiter"),
        (chat_completion(None), {"chat": True}, "", "end"),
    ],
)
def test_how_a_step_ends(reply: Reply, options: dict[str, Any], text: str, reason: str) -> None:
    step = one_step(reply, **options)
    assert (step.text, step.finish_reason, step.tokens, step.prompt_tokens) == (text, reason, 5, 7)


@pytest.mark.parametrize("reason", [None, "end_turn", 3])
@pytest.mark.parametrize(("tokens", "ends"), [(4, "delimiter"), (5, "limit"), (6, "limit")])
def test_a_text_of_unknown_end_is_cut_where_it_is_as_long_as_it_may_be(reason: Any, tokens: int, ends: str) -> None:
    assert one_step(completion("a", tokens, reason), limit=5).finish_reason == ends


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("content_filter", "such a step is charged and dropped"),
        ("end_turn", "it is taken for 'stop', or for 'length' where the text is as long as it may be"),
        ("eos_token", None),
        ("length", None),
        ("stop", None),
        (None, None),
    ],
)
def test_an_end_that_is_not_known_or_drops_steps_is_told_once(
    reason: str | None, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeServer(lambda body: completion("a", finish_reason=reason)) as server:
        propose(OpenAIGenerator("m", base_url=server.url), StepRequest("Q"), count=3)
    told = f"server {server.url}: finish_reason {reason!r}: {words}; this is said once"
    assert [record.message for record in caplog.records] == ([] if words is None else [told])


@pytest.mark.parametrize("reason", [None, "eos_token", "end_turn"])
def test_a_search_over_a_server_with_ends_of_its_own(reason: str | None) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        reply = thinks_and_answers(body)
        reply.body["choices"][0]["finish_reason"] = reason if "Answer" in reply.body["choices"][0]["text"] else "stop"
        return reply

    with FakeServer(answer) as server:
        searcher = bavt.Searcher(OpenAIGenerator("m", base_url=server.url), task=TextTask(answers="1"))
        assert searcher.search("Question", budget=bavt.Budget(tokens=100)).solved


PROBABILITIES = {"token_logprobs": [-0.5, -0.25, None], "tokens": ["a", "b", "c"], "top_logprobs": None}


@pytest.mark.parametrize(
    ("tokens", "choice", "charged"),
    [
        (5, {}, 5),
        (0, {}, 20),  # it made something: who says 0 does not count
        (0, {"finish_reason": "length"}, 20),
        (0, {"text": "", "finish_reason": "length"}, 20),
        (0, {"text": ""}, 1),
        (0, {"text": "", "finish_reason": "content_filter"}, 1),
        (0, {"token_ids": [5, 6, 7]}, 3),
        (2, {"logprobs": {**PROBABILITIES, "token_logprobs": [-1.0] * 4}}, 4),  # too few
        (2, {"token_ids": [5, 6, 7]}, 3),
        (None, {"token_ids": [5, 6, 7]}, 3),
        (-1, {"token_ids": [5, 6, 7]}, 3),
        (None, {"logprobs": PROBABILITIES}, 2),
        (None, {}, 20),  # nobody counts: the whole limit
        (-3, {}, 20),
        (1000, {}, 1000),  # too many is charged, and ends the search
    ],
)
def test_what_is_charged(tokens: int | None, choice: dict[str, Any], charged: int) -> None:
    assert one_step(completion(**{"text": "a", "tokens": tokens, **choice})).tokens == charged


@pytest.mark.parametrize(
    ("total", "thought", "charged"),
    [
        (7 + 5 + 90, 90, 95),  # beside the answer, as xAI counts
        (7 + 5, 4, 5),  # a part of it, as OpenAI does
        (7 + 5, 90, 5),
        (None, 90, 5),  # who does not say
        (7 + 5 + 90, None, 5),
    ],
)
def test_thoughts_that_are_counted_beside_the_answer_are_charged(
    total: int | None, thought: int | None, charged: int
) -> None:
    reply = completion("a", 5)
    reply.body["usage"] |= {"total_tokens": total, "completion_tokens_details": {"reasoning_tokens": thought}}
    assert one_step(reply, limit=200).tokens == charged


def test_probabilities_and_cached_tokens_are_read() -> None:
    reply = completion("a", logprobs=PROBABILITIES)
    reply.body["usage"]["prompt_tokens_details"] = {"cached_tokens": 4}
    step = one_step(reply, logprobs=True)
    assert step.log_probability == -0.75
    assert (step.prompt_tokens, step.cached_tokens) == (7, 4)
    reply.body["usage"]["prompt_tokens_details"] = {"cached_tokens": 400}
    assert one_step(reply).cached_tokens == 7
