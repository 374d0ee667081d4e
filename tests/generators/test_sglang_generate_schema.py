"""What SGLang's own ``/generate`` answers by its documented schema. No SGLang was run: it needs a GPU.

See ``sglang_generate_schema.json``. What goes wrong on the way is in ``test_server_faults.py``.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply

from bavt_fast.budget import Spent
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.protocols import GenerationError, Node, Sampling, Step, StepRequest

SCHEMA = json.loads(Path(__file__).with_name("sglang_generate_schema.json").read_text())


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class Asked:
    """What a generator made of the server's answers, and what it sent.

    Attributes:
        found: the step, None for no room, or the error. bodies, paths: of the requests.
    """

    def __init__(self, *replies: Any, request: StepRequest | None = None, count: int = 1, **options: Any) -> None:
        left = [reply if isinstance(reply, Reply) else Reply(reply) for reply in replies]
        options = {"retries": 0, **options}
        with FakeServer(lambda body: left.pop(0) if len(left) > 1 else left[0]) as server:
            self.generator = OpenAIGenerator(
                "m", base_url=server.url, delimiter=(")", "\n"), generate_endpoint=True, **options
            )
            (steps,) = asyncio.run(self._ask(request or StepRequest("Q\n"), count))
        self.steps = steps
        self.found = steps if isinstance(steps, Exception) else steps[0] if steps else None
        self.bodies, self.paths = server.requests, server.paths

    async def _ask(self, request: StepRequest, count: int) -> Any:
        try:
            return await self.generator.propose([request], [count], [24])
        finally:
            await self.generator.aclose()


def test_a_step_and_its_vector() -> None:
    asked = Asked(SCHEMA["step"], hidden_layer="last")
    step = asked.found
    assert (step.text, step.finish_reason) == (" 4 * 2 = 8 (left: 3 8)", "delimiter")
    assert step.hidden.tolist() == [0.5, -1.25, 2.0, 0.0]
    assert (step.tokens, step.prompt_tokens, step.cached_tokens) == (9, 7, 4)
    assert (step.token_ids, step.log_probability) == ((), None)
    assert asked.paths == ["/generate"]
    assert asked.bodies[0]["return_hidden_states"] == "last"


def test_what_is_sent_is_in_the_schema() -> None:
    """Unknown sampling parameters are refused by the server; other unknown fields are passed over, unseen."""
    request = StepRequest("Q\n", seed=7, sampling=Sampling(0.25, top_k=5, min_p=0.1))
    extra = {"priority": 3, "sampling_params": {"repetition_penalty": 1.1}}
    options = {"token_ids": True, "logprobs": True, "stop_is_returned": True, "top_p": 0.9, "extra_body": extra}
    (sent,) = Asked(SCHEMA["untrimmed"], request=request, **options).bodies
    assert set(sent) <= set(SCHEMA["fields"])
    assert set(sent["sampling_params"]) <= set(SCHEMA["sampling_fields"])
    seed = sent["sampling_params"].pop("sampling_seed")
    assert 0 <= seed < 2**31
    assert sent == {
        "text": "Q\n",
        "return_logprob": True,
        "return_prompt_token_ids": True,
        "priority": 3,
        "sampling_params": {
            "max_new_tokens": 24,
            "stop": [")", "\n"],
            "temperature": 0.25,
            "top_p": 0.9,
            "top_k": 5,
            "min_p": 0.1,
            "no_stop_trim": True,
            "repetition_penalty": 1.1,
        },
    }


def test_a_stop_string_that_is_not_trimmed() -> None:
    asked = Asked(SCHEMA["untrimmed"], stop_is_returned=True)
    assert (asked.found.text, asked.found.finish_reason) == (" 4 * 2 = 8 (left: 3 8)", "delimiter")


def test_every_candidate_has_a_seed_of_its_own() -> None:
    asked = Asked(SCHEMA["step"], count=3)
    assert len(asked.steps) == 3
    seeds = {body["sampling_params"]["sampling_seed"] for body in asked.bodies}
    assert len(seeds) == 3
    assert all("n" not in body["sampling_params"] for body in asked.bodies)


def test_contexts_go_on_from_the_ids_that_the_model_made() -> None:
    with FakeServer(lambda body: Reply(SCHEMA["with_ids_and_probabilities"])) as server:
        generator = OpenAIGenerator(
            "m", base_url=server.url, delimiter=")", generate_endpoint=True, token_ids=True, logprobs=True
        )

        async def run() -> Step:
            first = StepRequest("Q\n")
            ((step,),) = await generator.propose([first], [1], [24])
            await generator.propose([first._replace(node=Node(None, None, first.node, step))], [1], [24])
            await generator.aclose()
            return step

        step = asyncio.run(run())
    assert (step.text, step.token_ids, step.log_probability) == (" two)", (21, 22, 19), -0.75)
    assert [body.get("text", body.get("input_ids")) for body in server.requests] == ["Q\n", [1, 5, 6, 7, 21, 22, 19]]


def test_the_end_of_a_text_and_of_its_limit() -> None:
    end = Asked(SCHEMA["at_its_end"], hidden_layer="last").found
    assert (end.text, end.finish_reason, end.hidden.tolist()) == (" done", "end", [1.0] * 4)
    limit = Asked(SCHEMA["at_its_limit"]).found
    assert (limit.text, limit.finish_reason, limit.tokens) == (" 4 * 2", "limit", 3)


def test_a_context_that_leaves_no_room_is_no_step() -> None:
    """Where it is a prompt, that is an error."""
    error = Asked(Reply(SCHEMA["too_long"], 400)).steps
    assert isinstance(error, GenerationError)
    assert "longer than the model's context length" in str(error)


def test_a_request_that_the_server_gives_up_is_sent_again() -> None:
    asked = Asked(Reply(SCHEMA["overloaded"], 503, {"Retry-After": "0"}), SCHEMA["aborted"], SCHEMA["step"], retries=2)
    assert asked.found.tokens == 9
    assert asked.bodies[0] == asked.bodies[1] == asked.bodies[2]
    statistics = asked.generator.server_statistics()
    assert (statistics.requests, statistics.retries, statistics.generated_tokens) == (1, 2, 9)
    error = Asked(Reply(SCHEMA["overloaded"], 503)).found
    assert "The request queue is full." in str(error)
    error = Asked(SCHEMA["aborted"]).found
    assert isinstance(error, GenerationError)
    assert "expected a finished answer, got 'abort' ('Aborted by AbortReq.')" in str(error)
    assert error.spent is None


@pytest.mark.parametrize("count", [9, None])
def test_a_request_that_is_given_up_behind_its_first_token_is_charged_and_dropped(count: int | None) -> None:
    answer = json.loads(json.dumps(SCHEMA["step"]))
    end = SCHEMA["aborted"]["meta_info"]["finish_reason"]
    answer["meta_info"] |= {"finish_reason": end, "completion_tokens": count}
    asked = Asked(answer, retries=2)
    assert (asked.found.tokens, asked.found.finish_reason) == (9, "limit")
    assert len(asked.bodies) == 1


@pytest.mark.parametrize("broken", [{"text": None}, {"finish_reason": None}])
def test_an_answer_of_another_form_that_was_billed_is_charged_and_not_asked_for_again(broken: Any) -> None:
    answer = json.loads(json.dumps(SCHEMA["step"]))
    told = answer["meta_info"]
    if "text" in broken:
        del answer["text"]
    else:
        told |= broken
    asked = Asked(answer, retries=2)
    assert isinstance(asked.found, GenerationError)
    assert "expected one answer with a text and its meta_info" in str(asked.found)
    assert asked.found.spent == Spent(told["completion_tokens"], prompt_tokens=told["prompt_tokens"])
    assert len(asked.bodies) == 1


@pytest.mark.parametrize("told", [None, -3, 0, 2, "9", True])
def test_a_count_that_is_too_low_is_that_of_the_ids(told: Any) -> None:
    answer = json.loads(json.dumps(SCHEMA["step"]))
    answer["meta_info"]["completion_tokens"] = told
    assert Asked(answer).found.tokens == 9
    del answer["output_ids"]
    asked = Asked(answer)
    assert asked.found.tokens == (2 if told == 2 else 24)
    assert asked.generator.server_statistics().unmetered == (0 if told == 2 else 1)


@pytest.mark.parametrize("listed", [3, [3], [[]], "x", [None], [["a", 1, None]]])
def test_probabilities_that_nobody_asked_for_may_have_any_form(listed: Any) -> None:
    answer = json.loads(json.dumps(SCHEMA["step"]))
    answer["meta_info"]["output_token_logprobs"] = listed
    assert Asked(answer).found.tokens == 9


def test_a_count_above_the_limit_is_charged() -> None:
    answer = json.loads(json.dumps(SCHEMA["step"]))
    answer["meta_info"]["completion_tokens"] = 40
    assert Asked(answer).found.tokens == 40


def test_a_server_that_hands_over_no_states() -> None:
    error = Asked(Reply(SCHEMA["states_are_off"], 400), hidden_layer="last").found
    assert "--return-hidden-states-mode last" in str(error)
    error = Asked(Reply(SCHEMA["last_is_not_taken"], 400), hidden_layer="last").found
    assert "its OpenAI endpoints do (generate_endpoint=False)" in str(error)
    for sent in (None, [], [[1.0, 2.0]], [1.0, None], [float("inf")]):
        answer = json.loads(json.dumps(SCHEMA["step"]))
        answer["meta_info"]["hidden_states"] = sent
        error = Asked(answer, hidden_layer="last").found
        assert isinstance(error, GenerationError)
        assert "expected one vector with the answer" in str(error)
        assert error.spent.tokens == 9


@pytest.mark.parametrize(
    "answer",
    [
        [SCHEMA["step"]],
        {},
        {"text": "a"},
        {"meta_info": SCHEMA["step"]["meta_info"]},
        {"text": "a", "meta_info": []},
        3,
    ],
)
def test_an_answer_of_another_form_is_one_clear_error(answer: Any) -> None:
    error = Asked(answer).found
    assert isinstance(error, GenerationError)
    assert "expected one answer with a text and its meta_info" in str(error)


def test_what_does_not_go_together_is_refused() -> None:
    for options, match in (
        ({"chat": True}, "knows no chat template"),
        ({"hidden_directory": "/tmp"}, "SGLang sends states"),
        ({"base_url": None}, "expected the server's address"),
        ({"extra_body": {"sampling_params": {"n": 2}}}, r"expected no sampling_params\.n"),
        ({"extra_body": {"stream": True}}, "expected no stream"),
        ({"extra_body": {"text": "Q"}}, "expected no text"),
        ({"extra_body": {"input_ids": [1]}}, "expected no input_ids"),
        ({"extra_body": {"sampling_params": {"max_new_tokens": 999}}}, r"expected no sampling_params\.max_new_tokens"),
        ({"extra_body": {"sampling_params": {"stop": ["x"]}}}, r"expected no sampling_params\.stop"),
        ({"extra_body": {"sampling_params": [1]}}, "expected a dictionary as its sampling_params, got"),
    ):
        with pytest.raises((ValueError, TypeError), match=match):
            OpenAIGenerator("m", **{"base_url": "http://127.0.0.1:1", "generate_endpoint": True, **options})
    with pytest.raises(TypeError, match="generate_endpoint: expected True or False"):
        OpenAIGenerator("m", generate_endpoint="yes")


@pytest.mark.parametrize("base_url", ["http://a:30000", "http://a:30000/", "http://a:30000/v1", "http://a:30000/v1/"])
def test_the_endpoint_is_beside_those_of_openai(base_url: str) -> None:
    from bavt_fast.generators.sglang_generate import address_of

    assert address_of(base_url) == "http://a:30000/generate"


def test_a_states_vector_of_a_text_for_a_critics_file() -> None:
    with FakeServer(lambda body: Reply(SCHEMA["step"])) as server:
        generator = OpenAIGenerator("m", base_url=server.url, generate_endpoint=True, hidden_layer="last")
        assert generator.encode("Q\n").tolist() == [[0.5, -1.25, 2.0, 0.0]]
    assert (server.paths, server.requests[0]["sampling_params"]["max_new_tokens"]) == (["/generate"], 1)
