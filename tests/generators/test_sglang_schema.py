"""What SGLang answers by its documented schema. No SGLang was run: it needs a GPU. See ``sglang_schema.json``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply

from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.protocols import GenerationError, Node, Step, StepRequest

SCHEMA = json.loads(Path(__file__).with_name("sglang_schema.json").read_text())


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def ask(answer: Reply, request: StepRequest, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The step, or the error, and the body that was sent."""
    with FakeServer(lambda body: answer) as server:
        generator = OpenAIGenerator(
            "m", base_url=server.url, delimiter=(")", "\n"), hidden_layer="last", retries=0, **options
        )

        async def run() -> Any:
            (found,) = await generator.propose([request], [1], [24])
            await generator.aclose()
            return found

        found = asyncio.run(run())
    return found[0] if isinstance(found, list) else found, server.requests[0]


@pytest.mark.parametrize("stop_is_returned", [False, True])
def test_the_vector_of_a_completion(stop_is_returned: bool) -> None:
    step, sent = ask(Reply(SCHEMA["completion"]), StepRequest("Q\n"), stop_is_returned=stop_is_returned)
    assert step.hidden.tolist() == [0.5, -1.25, 2.0, 0.0]
    assert (step.text, step.finish_reason) == (" 4 * 2 = 8 (left: 3 8)", "delimiter")
    assert (step.tokens, step.prompt_tokens, step.cached_tokens) == (9, 7, 4)
    assert sent["return_hidden_states"] == "last"
    assert set(sent) - {"include_stop_str_in_output"} <= set(SCHEMA["completion_fields"])


def test_the_vector_at_the_end_of_a_text() -> None:
    step, _ = ask(Reply(SCHEMA["completion_at_its_end"]), StepRequest("Q\n"))
    assert (step.text, step.finish_reason, step.hidden.tolist()) == (" done", "end", [1.0] * 4)


def test_the_vector_of_a_chat() -> None:
    node = Node(None, None, Node(None, "Q\n"), Step(" 4 * 2 = 8 (left: 3 8)", 9))
    step, sent = ask(Reply(SCHEMA["chat"]), StepRequest(node), chat=True)
    assert step.hidden.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert step.text == " 3 * 8 = 24 (left: 24)"
    assert (sent["return_hidden_states"], sent["continue_final_message"]) == ("last", True)


def test_a_server_that_hands_over_none() -> None:
    error, _ = ask(Reply(SCHEMA["states_are_off"], 400), StepRequest("Q\n"))
    assert isinstance(error, GenerationError)
    assert "--return-hidden-states-mode" in str(error)
    for sent in (None, [], [[1.0, 2.0]], "vector", [1.0, None], [float("inf")], [10**400]):
        answer = json.loads(json.dumps(SCHEMA["completion"]))
        answer["choices"][0]["hidden_states"] = sent
        error, _ = ask(Reply(answer), StepRequest("Q\n"))
        assert isinstance(error, GenerationError)
        assert "expected one vector with the answer" in str(error)
        assert "--return-hidden-states-mode last" in str(error)
        assert error.spent.tokens == 9
