"""`VLLMGenerator` over a stand-in for vLLM's engine. The real one: tests/servers/test_vllm_engine.py."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from fake_vllm import Said, fake_vllm

import bavt_fast as bavt
from bavt_fast.budget import Spent
from bavt_fast.protocols import GenerationError, Node, Sampling, Step, StepRequest


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


def test_half_a_character_of_a_step_is_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    made, engine = fake_vllm(monkeypatch, lambda ids: Said("a\n", [5, 10]))
    with made as generator:
        generator.propose([StepRequest(Node(None, None, Node(None, "Q"), Step("\ud800", 1)))], [1], [6])
    assert engine.asked == [[ord("Q"), ord("?")]]


def test_what_a_failed_candidate_took_is_charged_beside_the_good_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Said("a\n", [5, 10]), Said("b", [6, 7], error=RuntimeError("gone")), Said("c\n", [8, 10])])
    made, _ = fake_vllm(monkeypatch, lambda ids: next(answers))
    with made as generator:
        (steps,) = generator.propose([StepRequest("Q\n")], [3], [6])
    assert [(step.text, step.tokens, step.prompt_tokens, step.finish_reason) for step in steps] == [
        ("a\n", 2, 2, "delimiter"),
        ("c\n", 2, 2, "delimiter"),
        ("", 2, 2, "limit"),
    ]


def test_all_candidates_that_failed_are_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = fake_vllm(monkeypatch, lambda ids: Said("b", [6, 7], error=RuntimeError("gone")))
    with made as generator:
        (error,) = generator.propose([StepRequest("Q\n")], [3], [6])
    assert isinstance(error, GenerationError)
    assert str(error) == "vllm: RuntimeError: gone"
    assert error.spent == Spent(tokens=6, prompt_tokens=6)


def test_a_deadline_before_the_first_token_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = fake_vllm(monkeypatch, lambda ids: Said("late", [5], delay_s=5.0))
    with made as generator:
        result = bavt.Searcher(generator).search("Q", budget=bavt.Budget(tokens=100, seconds=0.1))
    assert (result.stop_reason, result.spent.tokens) == ("deadline", 1)


def test_a_step_of_no_tokens_beside_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Said("b", [6, 7], error=RuntimeError("gone")), Said("late", [5], delay_s=5.0)])
    made, _ = fake_vllm(monkeypatch, lambda ids: next(answers))
    with made as generator:
        (steps,) = generator.propose([StepRequest("Q\n", seconds_left=0.2)], [2], [6])
    assert [(step.text, step.tokens, step.prompt_tokens, step.finish_reason) for step in steps] == [
        ("", 1, 2, "deadline"),
        ("", 2, 2, "limit"),
    ]


def test_a_state_whose_own_prompt_has_grown_too_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """But a question that never fitted is an error."""
    made, engine = fake_vllm(monkeypatch, lambda ids: Said("a\n", [5, 10]))
    with made as generator:
        grown = StepRequest(Node(None, "Q" * 1000, Node(None, "Q"), Step("a", 1)))
        closed, error = generator.propose([grown, StepRequest("Q" * 1000)], [1, 1], [6, 6])
    assert closed == []
    assert isinstance(error, GenerationError)
    assert "prompt: expected fewer than 1,000 tokens" in str(error)
    assert engine.asked == []


def test_a_generator_that_was_closed_is_asked_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, _ = fake_vllm(monkeypatch, lambda ids: Said("a\n", [5, 10]))
    generator.close()
    generator.close()
    one = [StepRequest("Q")], [1], [6]
    for ask in (lambda: generator.propose(*one), lambda: generator.submit([1], *one)):
        with pytest.raises(GenerationError, match="expected a generator that is open, got one that was closed"):
            ask()
    assert generator.collect() == []


def test_who_waits_for_answers_goes_on_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, _ = fake_vllm(monkeypatch, lambda ids: Said("a\n", [5, 10], delay_s=60.0))
    generator.submit([1], [StepRequest("Q")], [1], [6])
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(generator.collect()), daemon=True)
    thread.start()
    time.sleep(0.1)
    generator.close()
    thread.join(20)
    assert found == [[]]
