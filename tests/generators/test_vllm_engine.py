"""`VLLMGenerator` over a stand-in for vLLM's engine. The real one: tests/servers/test_vllm_engine.py."""

from __future__ import annotations

import pytest
from fake_vllm import Said, fake_vllm

from bavt_fast.protocols import Sampling, StepRequest


@pytest.mark.parametrize(
    ("most_read", "requests"), [(None, 6), (1000, 6), (2 + 3, 2), (2 + 3 - 1, 1), (2 + 3 + 4, 3), (2, 1)]
)
def test_a_blank_step_goes_on_while_another_request_fits(
    monkeypatch: pytest.MonkeyPatch, most_read: int | None, requests: int
) -> None:
    made, engine = fake_vllm(monkeypatch, lambda ids: Said("\n", [10]))
    with made as generator:
        asked = StepRequest("Q\n", sampling=Sampling(max_prompt_tokens=most_read))
        ((step,),) = generator.propose([asked], [1], [6])
    assert engine.asked == [[ord("Q"), *[10] * (1 + i)] for i in range(requests)]
    assert (step.text, step.tokens, step.finish_reason) == ("\n" * requests, requests, "delimiter")
    assert step.prompt_tokens == sum(range(2, 2 + requests))
