"""The critic that asks a model: replies that fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from rating_models import Model, path
from scripted import ScriptedGenerator, WorldTask
from search_checks import BUDGET, ENDLESS, check_idle, run_all

import bavt_fast as bavt
from bavt_fast.critics.prompted import PromptedCritic
from bavt_fast.protocols import GenerationError, Step, StepRequest
from bavt_fast.searcher import Searcher


def test_a_reply_that_fails_is_an_exception_in_its_place() -> None:
    error = GenerationError("429", bavt.Spent(tokens=3))
    critic = PromptedCritic(Model(lambda prompt: error if "x" in prompt else "8"))
    scores = critic.score([path("a\n"), path("x\n"), path("b\n")])
    assert list(scores.values) == [0.8, error, 0.8]
    assert [spent.tokens for spent in scores.spent] == [1, 3, 1]
    assert critic.unread == 0


@pytest.mark.parametrize(("spent", "cost"), [(bavt.Spent(tokens=3, prompt_tokens=100), 0.4), (None, 0.0)])
def test_a_reply_that_fails_has_its_price(spent: Any, cost: float) -> None:
    model = Model(lambda prompt: GenerationError("gone", spent))
    [charged] = PromptedCritic(model, token_cost=0.1, prompt_token_cost=0.001).score([path("a\n")]).spent
    assert charged.cost == cost
    priced = Model(lambda prompt: GenerationError("gone", bavt.Spent(tokens=3, cost=0.07)))
    assert PromptedCritic(priced, token_cost=0.1).score([path("a\n")]).spent[0].cost == 0.07


@pytest.mark.parametrize("spent", [{"tokens": 3}, 3, "3"])
def test_a_reply_that_fails_and_does_not_say_what_it_took_fails_its_node_alone(spent: Any) -> None:
    error = GenerationError("429", spent)
    first, second = (
        PromptedCritic(Model(lambda prompt: error if "x" in prompt else "8")).score([path("x\n"), path("a\n")]).values
    )
    assert second == 0.8
    assert isinstance(first, TypeError)
    assert "GenerationError.spent: expected a Spent" in str(first)
    assert first.__cause__ is error


@pytest.mark.parametrize("reply", ["8", b"8", None, [b"8"], [None]])
def test_a_reply_that_is_none_fails_its_node_alone(reply: Any) -> None:
    class Odd(Model):
        def answer(self, prompt: str) -> Any:
            return reply if "x" in prompt else super().answer(prompt)

    first, second = PromptedCritic(Odd()).score([path("x\n"), path("a\n")]).values
    assert second == 0.8
    assert isinstance(first, TypeError)
    assert "generator: expected a list of Step for each state" in str(first)


@pytest.mark.parametrize(
    ("step", "name"),
    [(Step(None, 2), "Step.text"), (Step("8\n", "2"), "Step.tokens"), (Step("8\n", -2), "Step.tokens")],  # type: ignore[arg-type]
)
def test_a_reply_of_a_bad_step_fails_its_node_alone(step: Step, name: str) -> None:
    model = Model()
    model.answer = lambda prompt: [step if "x" in prompt else Step("8\n", 2)]  # type: ignore[method-assign]
    (first, second), spent = PromptedCritic(model).score([path("x\n"), path("a\n")])
    assert second == 0.8
    assert isinstance(first, (TypeError, ValueError))
    assert name in str(first)
    assert spent[1].tokens == 2


@pytest.mark.parametrize("answers", [[], [[]] * 3, None, "ab", {1: 2}])
def test_an_answer_of_another_size(answers: Any) -> None:
    class Odd(Model):
        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            return answers

    with pytest.raises(ValueError, match="generator: expected 2 lists of steps, one per state, got"):
        PromptedCritic(Odd()).score([path("a\n"), path("b\n")])


class FailsFor(Model):
    """Raises for a whole batch, or returns an error for each prompt, that asks about one of the questions."""

    def __init__(self, question: str, how: str) -> None:
        super().__init__("7\n")
        self.question, self.how = question, how

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[Any]:
        if self.how == "raises" and any(state.text.startswith(self.question) for state in states):
            raise OSError("gone")
        return super().propose(states, counts, limits)

    def answer(self, prompt: str) -> Any:
        if prompt.startswith(self.question):
            return GenerationError("gone", bavt.Spent(tokens=5, prompt_tokens=7))
        return super().answer(prompt)


@pytest.mark.parametrize("how", ["raises", "returns"])
@pytest.mark.parametrize("candidates", [1, 3])
def test_one_question_s_replies_fail_and_the_others_go_on(how: str, candidates: int) -> None:
    model = FailsFor("q2", how)
    critic = PromptedCritic(model, max_prompt_tokens=10**4)
    one = Searcher(ScriptedGenerator(ENDLESS), critic, WorldTask(ENDLESS), wave=5, candidates=candidates)
    searches = [one.start(f"q{i}", budget=BUDGET) for i in range(5)]
    results = run_all(one, searches)
    for i, (search, result) in enumerate(zip(searches, results, strict=True)):
        check_idle(search)
        assert result.stop_reason == ("error" if i == 2 else "budget")
        if i == 2:
            assert "gone" in str(result.error)
        else:
            charged = sum(step.tokens for step in result.steps if step) + 2 * (result.tree.num_nodes - 1)
            assert result.spent.tokens == charged
    charged = results[2].spent
    made = sum(refusal.step.tokens for refusal in results[2].refused)
    assert results[2].tree.num_nodes == 1
    if how == "returns":  # what the failed reply took is charged
        asked = (charged.prompt_tokens) // 7
        assert 1 <= asked <= candidates
        assert charged.prompt_tokens == 7 * asked
        assert charged.tokens > made + 5 * asked
    else:
        assert charged.prompt_tokens == 0
