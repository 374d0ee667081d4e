"""A stand-in for the package vLLM, whose engine says what a test wants."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import pytest

from bavt_fast.generators.vllm_engine import VLLMGenerator


class Said(NamedTuple):
    """One answer: its text, its tokens, and the stop string that ended it.

    Attributes:
        error: raised behind it. delay_s: time before it.
    """

    text: str
    token_ids: Sequence[int]
    stop_reason: str | None = "\n"
    error: Exception | None = None
    delay_s: float = 0.0


class Engine:
    """vLLM's ``AsyncLLM``, as far as our generator uses it. `asked` are the prompts' token ids."""

    def __init__(self, answer: Callable[[list[int]], Said]) -> None:
        self.answer = answer
        self.asked: list[list[int]] = []
        self.model_config = types.SimpleNamespace(max_model_len=1000)

    def get_tokenizer(self) -> Any:
        return lambda text, **_: {"input_ids": [ord(letter) for letter in text]}

    async def generate(self, prompt: dict[str, list[int]], parameters: Any, name: str) -> AsyncIterator[Any]:
        self.asked.append(prompt["prompt_token_ids"])
        said = self.answer(prompt["prompt_token_ids"])
        await asyncio.sleep(said.delay_s)
        part = types.SimpleNamespace(
            text=said.text,
            token_ids=list(said.token_ids),
            finish_reason="stop",
            stop_reason=said.stop_reason,
            logprobs=None,
        )
        yield types.SimpleNamespace(outputs=[part], num_cached_tokens=0)
        if said.error is not None:
            raise said.error

    def shutdown(self) -> None:
        pass


def fake_vllm(monkeypatch: pytest.MonkeyPatch, answer: Callable[[list[int]], Said]) -> tuple[VLLMGenerator, Engine]:
    """A generator whose engine answers so: (the prompt's token ids) -> what is said."""
    engine = Engine(answer)
    package: Any = types.ModuleType("vllm")
    package.AsyncEngineArgs = lambda **arguments: arguments
    package.AsyncLLMEngine = types.SimpleNamespace(from_engine_args=lambda arguments: engine)
    package.SamplingParams = lambda **fields: fields
    package.sampling_params = types.SimpleNamespace(RequestOutputKind=types.SimpleNamespace(DELTA=0))
    monkeypatch.setitem(sys.modules, "vllm", package)
    return VLLMGenerator("model", prompts=lambda text: [ord(letter) for letter in text]), engine
