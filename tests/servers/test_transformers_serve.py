"""``transformers serve`` as the second server with OpenAI's protocol: it returns stop strings, and names none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("torch")

import bavt_fast as bavt
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.protocols import Step, StepRequest

pytestmark = pytest.mark.slow

PROMPTS = ["abc", "hello", "k", "JIcON", "naive", "print", "Q\n"]
ENDS = ("A", "k")


@pytest.fixture(scope="module")
def here(transformers_serve: Any) -> TorchGenerator:
    """The same model in this process, greedy."""
    model = bavt.load(transformers_serve.folder, dtype="float32", threads=1)
    return model.generator(delimiter=ENDS, temperature=0.0, chat=False, without_replacement=False)


def make(server: Any, **options: Any) -> OpenAIGenerator:
    options = {"delimiter": ENDS, "temperature": 0.0, "stop_is_returned": "always", **options}
    return OpenAIGenerator(server.model, base_url=server.url, **options)


def columns(count: int, limit: int) -> tuple[list[int], list[int]]:
    return [1] * count, [limit] * count


@pytest.mark.parametrize("limit", [2, 12, 60])
def test_greedy_steps_are_those_of_this_process(transformers_serve: Any, here: TorchGenerator, limit: int) -> None:
    requests = [StepRequest(prompt) for prompt in PROMPTS]
    own = here.propose(requests, *columns(len(PROMPTS), limit))

    async def run() -> Any:
        generator = make(transformers_serve)
        answers = await generator.propose(requests, *columns(len(PROMPTS), limit))
        await generator.aclose()
        return answers, generator.server_statistics()

    answers, counted = asyncio.run(run())
    steps: list[Step] = [answer[0] for answer in answers]
    for step, (other,) in zip(steps, own, strict=True):
        reason = "limit" if other.tokens == limit and other.finish_reason == "end" else other.finish_reason
        assert (step.text, step.tokens, step.finish_reason) == (other.text, other.tokens, reason)  # it says no better
        assert step.prompt_tokens >= other.prompt_tokens  # a step that begins with delimiters takes several requests
    assert counted.generated_tokens == sum(step.tokens for step in steps)
    assert counted.unmetered == 0
    reasons = {step.finish_reason for step in steps}
    assert "limit" in reasons if limit == 2 else "delimiter" in reasons


def test_a_search_finds_what_it_finds_in_this_process(transformers_serve: Any, here: TorchGenerator) -> None:
    found = []
    for generator in (make(transformers_serve), here):
        searcher = bavt.Searcher(generator, wave=4, max_step_tokens=20)
        results = searcher.search_many(PROMPTS[:4], budget=bavt.Budget(tokens=60))
        found.append([(result.texts, result.spent.tokens, result.stop_reason) for result in results])
    assert found[0] == found[1]
    assert any(len(texts) > 2 for texts, _, _ in found[0])
