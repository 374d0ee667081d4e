"""A generator over a server: what it sends, how it reads answers, and what it makes of every fault."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, chat_completion, completion, in_turn, one_step, propose, thinks_and_answers

import bavt_fast as bavt
from bavt_fast.generators.openai_server import OpenAIGenerator, ServerStatistics
from bavt_fast.protocols import DeadlinePassed, Node, Sampling, Step, StepRequest
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested is what is sent again, not how long a client waits for that (tests/test_server_client.py)."""
    monkeypatch.setattr("bavt_fast.server_client._FIRST_WAIT_S", 0.02)


# --- what is sent


def test_a_completion_is_asked_for_as_the_request_says() -> None:
    step = Step("so\n", 2)
    node = Node(None, None, Node(None, "Q\n"), step)
    request = StepRequest(node, seed=2**62, sampling=Sampling(0.5, 0.9, 40, 0.1))
    with FakeServer(lambda body: completion(" then")) as server:
        generator = OpenAIGenerator("m", base_url=server.url, delimiter=("\n", "."), extra_body={"priority": 3})
        (answer,) = propose(generator, request, count=2, limit=17)
    first, second = sorted(server.requests, key=lambda body: body["seed"])
    seeds = {first.pop("seed"), second.pop("seed")}
    assert len(seeds) == 2
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert first == second == {
        "model": "m", "prompt": "Q\nso\n", "max_tokens": 17, "stop": ["\n", "."], "temperature": 0.5, "top_p": 0.9,
        "top_k": 40, "min_p": 0.1, "priority": 3,
    }  # fmt: skip
    assert server.paths == ["/v1/completions"] * 2
    assert [step.text for step in answer] == [" then\n"] * 2
    assert generator.server_statistics() == ServerStatistics(requests=2, generated_tokens=10, prompt_tokens=14)


@pytest.mark.parametrize(("option", "sent"), [(False, False), (True, True), ("always", False)])
def test_only_a_server_that_takes_it_is_asked_to_return_the_stop_string(option: Any, sent: bool) -> None:
    with FakeServer(lambda body: completion("a\n")) as server:
        propose(OpenAIGenerator("m", base_url=server.url, stop_is_returned=option), StepRequest("Q"))
    assert ("include_stop_str_in_output" in server.requests[0]) == sent


def test_a_seed_depends_on_the_request_and_the_candidate_alone() -> None:
    with FakeServer(lambda body: completion("a")) as server:
        generator = OpenAIGenerator("m", base_url=server.url)
        propose(generator, StepRequest("Q", seed=1), StepRequest("R", seed=1), count=2)
        propose(generator, StepRequest("R", seed=1))
    by_prompt: dict[str, set[int]] = {}
    for body in server.requests:
        by_prompt.setdefault(body["prompt"], set()).add(body["seed"])
    assert by_prompt["Q"] == by_prompt["R"]
    assert len(by_prompt["Q"]) == 2


def test_a_chat_goes_on_with_the_assistants_turn() -> None:
    with FakeServer(lambda body: chat_completion("next")) as server:
        generator = OpenAIGenerator("m", base_url=server.url, chat=True, system="Be brief.", logprobs=True)
        root = Node(None, "Q")
        propose(generator, StepRequest(root))
        propose(generator, StepRequest(Node(None, None, root, Step("one\n", 1))))
    first, second = server.requests
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
    assert first["messages"] == turns
    assert "continue_final_message" not in first
    assert second["messages"] == [*turns, {"role": "assistant", "content": "one\n"}]
    assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
    assert second["logprobs"] is True
    assert server.paths == ["/v1/chat/completions"] * 2


def test_contexts_go_on_from_the_models_own_tokens() -> None:
    replies = in_turn(
        completion("one", token_ids=[4, 5], prompt_token_ids=[1, 2, 3], stop_reason="\n"),
        completion("two", token_ids=[6], prompt_token_ids=[1, 2, 3, 4, 5], stop_reason="\n"),
    )
    with FakeServer(replies) as server:
        generator = OpenAIGenerator("m", base_url=server.url, token_ids=True)
        root = Node(None, "Q")
        ((first,),) = propose(generator, StepRequest(root))
        assert first.token_ids == (4, 5)
        child = Node(None, None, root, first)
        ((second,),) = propose(generator, StepRequest(child))
        propose(generator, StepRequest(Node(None, None, child, second)))
        propose(generator, StepRequest(Node(None, None, child, Step("by hand\n", 2))))
    prompts = [body["prompt"] for body in server.requests]
    assert prompts == ["Q", [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6], "Qone\nby hand\n"]


@pytest.mark.parametrize("listed", [[4, None], ["4"], [4.0], [-1], [2**31], [True], [[4]], "45", 3])
@pytest.mark.parametrize("name", ["token_ids", "prompt_token_ids"])
def test_ids_that_cannot_be_ids_are_no_context(name: str, listed: Any) -> None:
    """They could be neither sent nor saved. As many tokens are charged as were listed."""
    ids = {"token_ids": [4, 5], "prompt_token_ids": [1], name: listed}
    with FakeServer(lambda body: completion("one", 1, **ids)) as server:
        generator = OpenAIGenerator("m", base_url=server.url, token_ids=True)
        root = Node(None, "Q")
        ((step,),) = propose(generator, StepRequest(root))
        propose(generator, StepRequest(Node(None, None, root, step)))
    assert step.token_ids == (() if name == "token_ids" else (4, 5))
    assert step.tokens == (len(ids["token_ids"]) if isinstance(ids["token_ids"], list) else 1)
    assert [body["prompt"] for body in server.requests] == ["Q", "Qone\n"]


# --- what comes back


def test_a_step_has_to_say_something() -> None:
    """Delimiters with nothing before them are part of the step that follows, within one limit."""
    replies = in_turn(
        completion("", 1, stop_reason="\n", token_ids=[9], prompt_token_ids=[1, 2]),
        completion(" ", 2, stop_reason="\n", token_ids=[8, 9]),
        completion("one", 3, stop_reason="\n", token_ids=[4, 5, 9]),
    )
    with FakeServer(replies) as server:
        generator = OpenAIGenerator("m", base_url=server.url, token_ids=True)
        ((step,),) = propose(generator, StepRequest("Q"), limit=10)
    assert (step.text, step.tokens, step.finish_reason) == ("\n \none\n", 6, "delimiter")
    assert (step.prompt_tokens, step.token_ids) == (21, (9, 8, 9, 4, 5, 9))
    assert [body["max_tokens"] for body in server.requests] == [10, 9, 7]
    assert [body["prompt"] for body in server.requests] == ["Q", [1, 2, 9], [1, 2, 9, 8, 9]]


def test_a_step_of_delimiters_alone_ends_at_the_limit() -> None:
    with FakeServer(lambda body: completion("", 1, stop_reason="\n")) as server:
        ((step,),) = propose(OpenAIGenerator("m", base_url=server.url), StepRequest("Q"), limit=4)
    assert (step.text, step.tokens) == ("\n" * 4, 4)
    assert len(server.requests) == 4


def test_what_came_before_a_fault_is_charged() -> None:
    replies = in_turn(completion("", 1, stop_reason="\n"), Reply({"error": {"message": "no"}}, 403))
    with FakeServer(replies) as server:
        ((step,),) = propose(OpenAIGenerator("m", base_url=server.url), StepRequest("Q"), limit=4)
    assert (step.text, step.tokens, step.finish_reason) == ("\n", 1, "delimiter")


# --- faults

STORM = Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "0"})
DOWN = Reply(b"<html>bad gateway</html>", 502, {"Retry-After": "0", "Content-Type": "text/html"})


@pytest.mark.parametrize(
    "fault",
    [
        STORM,
        DOWN,
        Reply(completion("a").body, sent_share=0.5),
        Reply(completion("a").body, sent_share=0.0),
        Reply(b'{"choices": [{"te', headers={"Retry-After": "0"}),
        Reply({"choices": []}),
        Reply({"choices": None}),
        Reply([]),
        Reply({"choices": [{"finish_reason": "length"}]}),
    ],
)
def test_a_fault_is_tried_again_and_charged_once(fault: Reply) -> None:
    with FakeServer(in_turn(fault, fault, completion("a"))) as server:
        generator = OpenAIGenerator("m", base_url=server.url)
        ((step,),) = propose(generator, StepRequest("Q", seed=5))
    assert (step.text, step.tokens) == ("a\n", 5)
    assert generator.server_statistics() == ServerStatistics(requests=1, retries=2, generated_tokens=5, prompt_tokens=7)
    assert server.requests[0] == server.requests[1] == server.requests[2]


def test_a_fault_that_stays_ends_its_own_ask_alone() -> None:
    with FakeServer(lambda body: DOWN if "bad" in body["prompt"] else completion("a")) as server:
        generator = OpenAIGenerator("m", base_url=server.url, retries=2)
        good, bad, good_too = propose(generator, StepRequest("Q"), StepRequest("bad"), StepRequest("R"))
    assert [step.text for step in good + good_too] == ["a\n", "a\n"]
    assert isinstance(bad, bavt.GenerationError)
    assert server.url in str(bad)
    assert generator.server_statistics().failures == 1
    assert len([body for body in server.requests if "bad" in body["prompt"]]) == 3


@pytest.mark.parametrize("choices", [{"a": 1}, [None], ["text"], "text", 5])
@pytest.mark.parametrize("chat", [False, True])
def test_choices_of_another_form_are_shown(choices: Any, chat: bool) -> None:
    with FakeServer(lambda body: Reply({"choices": choices})) as server:
        (answer,) = propose(OpenAIGenerator("m", base_url=server.url, retries=0, chat=chat), StepRequest("Q"))
    assert "ValueError: expected an answer with a text, got {'choices': " in str(answer)


def test_what_is_of_no_use_to_repeat_is_not_repeated() -> None:
    for status in (400, 401, 403, 404, 422):
        with FakeServer(lambda body, status=status: Reply({"error": {"message": "no"}}, status)) as server:
            (answer,) = propose(OpenAIGenerator("m", base_url=server.url), StepRequest("Q"))
        assert isinstance(answer, bavt.GenerationError)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8 tokens.",
        "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
        "request (9 tokens) exceeds the available context size (8 tokens), try increasing it",
        "Your input exceeds the context window of this model.",
        "Please reduce the length of the messages. (context_length_exceeded)",
    ],
)
def test_a_context_without_room_has_no_next_step(message: str) -> None:
    """Nor has a state whose own prompt has grown so long. But a question that never fitted is an error."""
    reply = Reply({"error": {"message": message}}, 400)
    error = one_step(reply)
    assert isinstance(error, bavt.GenerationError)
    assert message in str(error)
    with FakeServer(lambda body: reply) as server:
        for prompt in (None, "Q and a"):
            behind = StepRequest(Node(None, prompt, Node(None, "Q"), bavt.Step("a", 1)))
            assert propose(OpenAIGenerator("m", base_url=server.url), behind) == [[]]


def test_a_model_that_takes_max_completion_tokens_alone() -> None:
    """As those of OpenAI that reason. What was refused is asked again in its words, and what follows too."""
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    refused = Reply({"error": {"message": words, "param": "max_tokens", "code": "unsupported_parameter"}}, 400)

    def answer(body: dict[str, Any]) -> Reply:
        return refused if "max_tokens" in body else chat_completion("so")

    with FakeServer(answer) as server:
        generator = OpenAIGenerator("m", base_url=server.url, chat=True)
        for count in (3, 2):
            (steps,) = propose(generator, StepRequest("Q"), count=count, limit=9)
            assert [step.text for step in steps] == ["so\n"] * count
    asked = [body for body in server.requests if "max_tokens" not in body]
    assert [body["max_completion_tokens"] for body in asked] == [9] * 5
    assert len(server.requests) <= 3 + 5
    assert generator.server_statistics() == ServerStatistics(requests=5, generated_tokens=25, prompt_tokens=35)


@pytest.mark.parametrize("chat", [False, True])
def test_a_limit_that_is_refused_is_not_asked_for_in_other_words_for_ever(chat: bool) -> None:
    """Completions have no such field; and a server that refuses both of them is an error."""
    refused = Reply({"error": {"message": "Use 'max_completion_tokens' instead."}}, 400)
    with FakeServer(lambda body: refused) as server:
        (error,) = propose(OpenAIGenerator("m", base_url=server.url, chat=chat), StepRequest("Q"))
    assert "Use 'max_completion_tokens' instead." in str(error)
    assert len(server.requests) == (2 if chat else 1)


def test_nobody_there() -> None:
    with FakeServer(lambda body: completion("a")) as server:
        url = server.url
    (answer,) = propose(OpenAIGenerator("m", base_url=url, retries=1), StepRequest("Q"))
    assert isinstance(answer, bavt.GenerationError)
    assert "Cannot connect to host" in str(answer)


def test_the_key_is_sent_and_never_said() -> None:
    key = "sk-very-secret-1234567890"
    reply = Reply({"error": {"message": f"Incorrect API key provided: {key}"}}, 401)
    with FakeServer(lambda body: reply) as server:
        generator = OpenAIGenerator("m", base_url=server.url, api_key=key)
        (answer,) = propose(generator, StepRequest("Q"))
    assert server.keys == [key]
    assert key not in str(answer) + repr(answer) + repr(generator)
    assert "[key]" in str(answer)
    assert answer.__cause__ is None


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    with FakeServer(lambda body: completion("a")) as server:
        propose(OpenAIGenerator("m", base_url=server.url), StepRequest("Q"))
    assert server.keys == ["from-the-environment"]


def test_a_deadline_ends_a_request_and_charges_no_less_than_it_took() -> None:
    with FakeServer(lambda body: Reply(completion("a").body, delay_s=5.0)) as server:
        generator = OpenAIGenerator("m", base_url=server.url)
        start_s = time.monotonic()
        [late] = propose(generator, StepRequest("Q", seconds_left=1.0), limit=9)
        assert time.monotonic() - start_s < 4.0
        result = Searcher(generator, max_step_tokens=9, max_prompt_tokens=20, prompt_token_cost=0.01).search(
            "Q", budget=bavt.Budget(tokens=100, seconds=1.0, cost=1.0)
        )
    assert isinstance(late, DeadlinePassed)
    assert not late.is_known
    assert (result.stop_reason, result.spent.tokens, result.spent.prompt_tokens, result.spent.cost) == (
        "deadline",
        9,
        20,
        0.2,
    )


def test_no_more_are_in_flight_than_are_allowed() -> None:
    with FakeServer(lambda body: Reply(completion("a").body, delay_s=0.02)) as server:
        generator = OpenAIGenerator("m", base_url=server.url, max_in_flight=3)
        answers = propose(generator, *(StepRequest(f"Q{i}") for i in range(12)))
    assert all(len(answer) == 1 for answer in answers)
    assert 1 < server.most_at_once <= 3


def test_cancelling_gives_up_what_is_in_flight() -> None:
    with FakeServer(lambda body: Reply(completion("a").body, delay_s=5.0)) as server:
        generator = OpenAIGenerator("m", base_url=server.url)

        async def run() -> float:
            task = asyncio.ensure_future(generator.propose([StepRequest("Q")], [1], [5]))
            await asyncio.sleep(0.2)
            start_s = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return time.monotonic() - start_s

        assert asyncio.run(run()) < 2.0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": ""}, "model"),
        ({"delimiter": ""}, "delimiter"),
        ({"delimiter": list("abcde")}, "delimiter"),
        ({"token_ids": True, "chat": True}, "token_ids"),
        ({"system": "x"}, "system"),
        ({"stop_is_returned": "never"}, "stop_is_returned"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"retries": -1}, "retries"),
        ({"temperature": -1.0}, "temperature"),
        ({"delimiter": 3}, "delimiter"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -3}, "top_k"),
        ({"min_p": float("nan")}, "min_p"),
        ({"min_p": False}, "min_p"),
        ({"min_p": ""}, "min_p"),
        ({"base_url": ""}, "base_url"),
        ({"base_url": "localhost:8000/v1"}, "base_url"),
        ({"chat": "no"}, "chat"),
        ({"token_ids": "no"}, "token_ids"),
        ({"extra_body": 3}, "extra_body"),
        *[({"extra_body": {name: 3}}, "extra_body") for name in ("n", "best_of", "stream", "echo")],
        *[
            ({fields: {name: 9}}, fields)
            for fields in ("extra_body", "continue_body")
            for name in ("prompt", "messages", "max_tokens", "max_completion_tokens", "stop")
        ],
        ({"continue_body": {"n": 2}}, "continue_body"),
        ({"api_key": 5}, "api_key"),
        ({"system": 5, "chat": True}, "system"),
        ({"continue_body": "no"}, "continue_body"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{match}: expected"):
        OpenAIGenerator(**{"model": "m", **options})


# --- a whole search


@pytest.mark.parametrize("wave", [1, 8])
def test_a_search_over_a_server_keeps_its_budget(wave: int) -> None:
    questions = [f"Question {i}" for i in range(6)]
    task = TextTask(answers="1")
    with FakeServer(thinks_and_answers) as server:
        searcher = bavt.Searcher(OpenAIGenerator("m", base_url=server.url), task=task, wave=wave, max_step_tokens=8)
        results = searcher.search_many(questions, budget=bavt.Budget(tokens=60))
        again = searcher.search_many(questions, budget=bavt.Budget(tokens=60))
    assert sum(result.solved for result in results) >= 4
    for result, other in zip(results, again, strict=True):
        assert result.spent.tokens <= 60
        assert result.error is None
        assert (result.answer, result.texts) == (other.answer, other.texts)


def test_a_server_that_counts_too_many_is_asked_for_nothing_more() -> None:
    with FakeServer(lambda body: completion("thought", 500)) as server:
        searcher = bavt.Searcher(OpenAIGenerator("m", base_url=server.url), max_step_tokens=8)
        with pytest.warns(UserWarning, match="above"):
            result = searcher.search("Q", budget=bavt.Budget(tokens=100))
    assert len(server.requests) == 1
    assert result.spent.tokens == 500
    assert result.overrun.tokens > 0


def test_a_storm_in_the_middle_of_a_search_loses_nothing() -> None:
    """Every third request fails in some way, and the result is that of a calm day."""
    faults = [STORM, DOWN, Reply(completion("a").body, sent_share=0.3), Reply({"choices": []})]
    seen: dict[str, int] = {}
    lock = threading.Lock()

    def stormy(body: dict[str, Any]) -> Reply:
        with lock:
            number = len(seen)
            name = f"{body['prompt']}/{body['seed']}"
            seen[name] = seen.get(name, 0) + 1
            first = seen[name] == 1
        return faults[number % 4] if first and number % 3 == 0 else thinks_and_answers(body)

    questions = [f"Question {i}" for i in range(4)]
    found = []
    for answer in (thinks_and_answers, stormy):
        with FakeServer(answer) as server:
            generator = OpenAIGenerator("m", base_url=server.url)
            searcher = bavt.Searcher(generator, task=TextTask(answers="1"), wave=4, max_step_tokens=8)
            found.append(searcher.search_many(questions, budget=bavt.Budget(tokens=60)))
    assert generator.server_statistics().retries > 0
    for calm, storm in zip(*found, strict=True):
        assert (calm.answer, calm.texts, calm.spent.tokens) == (storm.answer, storm.texts, storm.spent.tokens)


def test_the_embedded_model_solves_a_puzzle_through_a_server() -> None:
    """A real model behind the wire: its text cut at the stop string, its tokens counted."""
    pytest.importorskip("torch")
    from bavt_fast.model_folder import load_folder

    folder = load_folder(threads=1, without_replacement=False)
    lock = threading.Lock()

    def serve(body: dict[str, Any]) -> Reply:
        sampling = Sampling(body["temperature"], body["top_p"])
        with lock:
            request = StepRequest(body["prompt"], body["seed"], sampling=sampling)
            ((step,),) = folder.generator.propose([request], [1], [body["max_tokens"]])
        reason = "stop" if step.finish_reason == "delimiter" else "length"
        return completion(step.text.removesuffix(body["stop"][0]), step.tokens, reason, stop_reason=body["stop"][0])

    with FakeServer(serve) as server:
        generator = OpenAIGenerator("m", base_url=server.url, delimiter=")", temperature=0.7)
        options = {**folder.settings.search, "max_step_tokens": 24}
        searcher = bavt.Searcher(generator, None, folder.task, wave=4, **options)
        results = searcher.search_many(["2 3 4", "1 2 3 4", "1 1 4 6"], budget=bavt.Budget(tokens=250))
    assert sum(result.solved for result in results) >= 2
    assert all(result.spent.tokens <= 250 for result in results)
    assert generator.server_statistics().generated_tokens >= sum(result.spent.tokens for result in results)
    assert results[-1].generation.generated_tokens > 0


def test_an_answer_of_the_other_endpoint_is_shown() -> None:
    """Such as of a server that completes texts where it is asked to chat."""
    with FakeServer(lambda _: completion("a")) as server:
        (error,) = propose(OpenAIGenerator("m", base_url=server.url, chat=True, retries=0), StepRequest("Q"))
    assert "expected an answer to a chat, got {" in str(error)


def test_a_model_that_has_only_thought_is_charged_for_it() -> None:
    body = {
        "choices": [{"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}],
        "usage": {"completion_tokens": 3, "prompt_tokens": 2},
    }
    with FakeServer(lambda _: Reply(body)) as server:
        ((step,),) = propose(OpenAIGenerator("m", base_url=server.url, chat=True), StepRequest("Q"))
    assert (step.text, step.tokens, step.prompt_tokens, step.finish_reason) == ("", 3, 2, "limit")
    assert len(server.requests) == 1


def test_a_dead_server_is_an_error_however_little_time_there_is() -> None:
    with FakeServer(lambda body: completion("a")) as server:
        url = server.url
    searcher = bavt.Searcher(OpenAIGenerator("m", base_url=url))
    [result] = searcher.search_many(["Q"], budget=bavt.Budget(tokens=500, seconds=1.0))
    assert (result.stop_reason, result.spent.tokens) == ("error", 0)
    assert "Cannot connect to host" in str(result.error)
