"""The critic that asks a model: what it asks, what it makes of the replies, and what it charges."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rating_models import Model, path
from scripted import AsyncGenerator, ScriptedGenerator, World, WorldTask
from search_checks import BUDGET, ENDLESS, WORLDS, worlds

import bavt_fast as bavt
from bavt_fast.critics.functions import as_critic
from bavt_fast.critics.prompted import AsyncPromptedCritic, PromptedCritic
from bavt_fast.protocols import Node, Sampling, Step
from bavt_fast.searcher import Searcher


def replied(reply: Any, **options: Any) -> Any:
    """The only score of a critic whose model gives this reply."""
    return PromptedCritic(Model(reply), **options).score([path("a\n")]).values[0]


# --- what is asked


@pytest.mark.parametrize("predicts", ["value", "residual"])
def test_the_context_comes_first_and_the_question_about_it_last(predicts: Any) -> None:
    model = Model()
    critic = PromptedCritic(model, predicts=predicts)
    parent = path("step one\n", question="What is 3 + 4?\n")
    child = Node(None, None, parent, Step("step two\n", 2))
    critic.score([parent, child])
    [(states, counts, limits)] = model.calls
    assert (counts, limits) == ([1, 1], [critic.max_tokens] * 2)
    assert {state.sampling for state in states} == {Sampling(temperature=0.0)}
    for node, prompt in zip((parent, child), model.prompts, strict=True):
        assert prompt.startswith(node.text)
        assert all(f"\n{level} if it" in prompt for level in (0, 5, 10))
        assert ("The last step was: step" in prompt) == (predicts == "residual")
    assert [state.text for state in states] == [prompt + "Rating:" for prompt in model.prompts]
    assert model.prompts[1].startswith(parent.text)  # a store of prefixes has that already


def test_the_reply_begins_as_it_is_told() -> None:
    """The opening is a step behind the prompt: a chat model's own words, not the user's."""
    for opening in ("Rating:", "I say ", ""):
        model = Model()
        assert PromptedCritic(model, template="{text}", opening=opening).score([path("a\n")]).values == [0.8]
        [([request], _, _)] = model.calls
        assert (request.prompt, request.text) == ("q\na\n", "q\na\n" + opening)
        assert [step.text for step in request.node.context()[1]] == ([opening] if opening else [])


def test_every_field_of_a_template() -> None:
    model = Model()
    template = "<{question}|{steps}|{step}|{low}|{middle}|{high}> {{}} {text}"
    PromptedCritic(model, template=template, scale=(-1, 2)).score([path("a\n", " b \n"), path(" b ")])
    assert model.prompts[0] == "<q\n|a\n b \n|b|-1|0.5|2> {} q\na\n b \n"
    assert model.prompts[1] == "<q\n| b |b|-1|0.5|2> {} q\n b \n"  # a text that ended without a line break


def test_the_numbers_of_a_long_scale_are_whole() -> None:
    model = Model()
    PromptedCritic(model, template="{text}{middle}|{high}", scale=(0, 9_000_001)).score([path()])
    assert model.prompts == ["q\n4500000.5|9000001"]


def test_a_state_that_is_its_own_prompt() -> None:
    model = Model()
    node = Node(None, "another state\n", path(), Step("step\n", 1))
    PromptedCritic(model, template="{text}{step}|{steps}").score([node])
    assert model.prompts == ["another state\nstep|"]


@pytest.mark.parametrize("text", ["{step}", "{", "}}{{", "%s {0}", "\u202e {text!r}", "😀\x00\u0301", "", "x" * 10**6])
def test_texts_are_put_in_as_they_stand(text: str) -> None:
    model = Model()
    node = path(text + "\n", question=text + "?\n")
    assert PromptedCritic(model, template="{text}").score([node]).values == [0.8]
    assert model.prompts == [f"{text}?\n{text}\n"]


# --- what becomes of the replies


@pytest.mark.parametrize(
    ("reply", "options", "expected"),
    [
        ("8", {}, 0.8),
        ("Score: 8/10\n", {}, 0.8),
        ("0", {}, 0.0),
        ("10", {}, 1.0),
        ("0.8", {}, 0.08),
        ("0.8", {"scale": (0, 1)}, 0.8),
        ("3", {"scale": (1, 5)}, 0.5),
        ("70%", {"scale": (0, 100)}, 0.7),
        ("-1", {"scale": (-2, 2)}, 0.25),
        ("10", {"predicts": "residual"}, 0.25),
        ("5", {"predicts": "residual"}, 0.0),
        ("0", {"predicts": "residual"}, -0.25),
        ("7.5", {"predicts": "residual", "reach": 0.5}, 0.25),
        ("1", {"predicts": "residual", "scale": (-2, 2), "reach": 1.0}, 0.5),
    ],
)
def test_numbers_become_scores(reply: str, options: Any, expected: float) -> None:
    assert replied(reply, **options) == pytest.approx(expected)


@pytest.mark.parametrize("reply", ["NaN", "", "8 or 9", "11", "-1", "good", "8²"])
def test_no_number_becomes_the_default_and_is_counted(reply: str) -> None:
    for options, expected in (
        ({}, 0.5),
        ({"predicts": "residual"}, 0.0),
        ({"default": 0.1}, 0.1),
        ({"predicts": "residual", "default": -0.9}, -0.9),
    ):
        critic = PromptedCritic(Model(lambda prompt: "9" if "x" in prompt else reply), **options)  # type: ignore[arg-type]
        scores = critic.score([path("a\n"), path("x\n"), path("b\n")])
        assert [scores.values[0], scores.values[2]] == [expected] * 2
        assert (critic.asked, critic.unread) == (3, 2)
        assert scores.values[1] != expected


def test_a_reply_cut_short_in_its_number() -> None:
    assert replied([Step("1", 1, "limit")]) == 0.5
    assert replied([Step("1 ", 2, "limit")]) == 0.1
    assert replied([Step("1", 1, "end")]) == 0.1


def test_a_model_that_replies_nothing() -> None:
    critic = PromptedCritic(Model([]))
    assert critic.score([path("a\n")]) == ([0.5], [bavt.Spent()])
    assert critic.unread == 1


def test_of_several_replies_the_first_counts_and_all_are_charged() -> None:
    reply = [Step("2\n", 3, prompt_tokens=5), Step("8\n", 4, prompt_tokens=5)]
    scores = PromptedCritic(Model(reply)).score([path("a\n")])
    assert scores == ([0.2], [bavt.Spent(tokens=7, prompt_tokens=10)])


def test_nothing_is_asked_about_nothing() -> None:
    model = Model()
    assert PromptedCritic(model).score([]) == ([], [])
    assert model.calls == []


# --- what is charged


def test_what_a_reply_takes() -> None:
    step = Step("8\n", 3, prompt_tokens=100, tool_calls=2, seconds=0.5)
    [spent] = PromptedCritic(Model([step]), token_cost=0.1, prompt_token_cost=0.001).score([path("a\n")]).spent
    assert spent == bavt.Spent(tokens=3, tool_calls=2, seconds=0.5, cost=0.4, prompt_tokens=100)
    priced = Step("8\n", 3, prompt_tokens=100, cost=0.07)
    assert PromptedCritic(Model([priced]), token_cost=9.0).score([path("a\n")]).spent[0].cost == 0.07


def test_the_most_that_one_node_takes() -> None:
    assert PromptedCritic(Model(), max_tokens=5).max_score == bavt.Spent(tokens=5)
    critic = PromptedCritic(Model(), max_tokens=5, max_prompt_tokens=200, token_cost=0.1, prompt_token_cost=0.001)
    assert critic.max_score == bavt.Spent(tokens=5, cost=0.7, prompt_tokens=200)


def rating(prompt: str) -> str:
    """A reply of one to eight letters, most of them a number."""
    return random.Random(prompt).choice(["7\n", "10", "Score: 3\n", "0.5", "what\n", "12\n"])


@settings(max_examples=WORLDS, deadline=None)
@given(
    world=worlds,
    wave=st.integers(1, 4),
    candidates=st.integers(1, 3),
    tokens=st.integers(1, 200),
    predicts=st.sampled_from(["value", "residual"]),
    questions=st.integers(1, 4),
)
def test_a_search_is_charged_what_an_independent_count_says(
    world: World, wave: int, candidates: int, tokens: int, predicts: Any, questions: int
) -> None:
    model = Model(lambda prompt: rating(prompt)[:8])
    critic = PromptedCritic(model, predicts=predicts, max_tokens=9, max_prompt_tokens=10**4)
    one = Searcher(ScriptedGenerator(world), critic, WorldTask(world), wave=wave, candidates=candidates)
    results = one.search_many([f"q{i}" for i in range(questions)], budget=bavt.Budget(tokens=tokens))
    steps = 0
    for result in results:
        assert result.spent.tokens <= tokens
        assert result.overrun == bavt.Spent()
        made = [step for step in result.steps if step is not None] + [refusal.step for refusal in result.refused]
        steps += sum(step.tokens for step in made)
        assert result.stop_reason != "error"
    assert sum(result.spent.tokens for result in results) == steps + model.tokens
    assert sum(result.spent.prompt_tokens for result in results) == model.prompt_tokens
    assert critic.asked == len(model.prompts) == sum(result.tree.num_nodes - 1 for result in results)


def test_prompt_tokens_and_money_are_limited() -> None:
    model = Model(lambda prompt: [Step("7\n", 2, prompt_tokens=len(prompt))])
    critic = PromptedCritic(model, max_prompt_tokens=400, token_cost=1e-4, prompt_token_cost=1e-6)
    one = Searcher(ScriptedGenerator(ENDLESS), critic, WorldTask(ENDLESS), token_cost=1e-4, max_prompt_tokens=1)
    result = one.search("q", budget=bavt.Budget(prompt_tokens=3000))
    assert result.stop_reason == "budget"
    assert 2000 < result.spent.prompt_tokens == model.prompt_tokens <= 3000
    model.prompt_tokens = 0
    paid = one.search("q", budget=bavt.Budget(cost=0.02))
    assert 0.018 < paid.spent.cost <= 0.02
    assert paid.spent.cost == pytest.approx(paid.spent.tokens * 1e-4 + model.prompt_tokens * 1e-6)


def test_ratings_steer_the_search() -> None:
    """Best first goes where the model says 10."""
    for predicts in ("value", "residual"):
        model = Model(lambda prompt: "10" if "a\n" in prompt and "b\n" not in prompt else "0")
        critic = PromptedCritic(model, template="{text}", predicts=predicts)  # type: ignore[arg-type]
        world = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, branching=2, min_tokens=0)
        one = Searcher(ScriptedGenerator(world), critic, WorldTask(world), policy="best_first", decay=1.0)
        result = one.search("q", budget=bavt.Budget(tokens=400))
        assert set(result.path) == {"a"}
        assert result.value == 1.0


# --- coroutines


class AsyncModel(Model):
    def __init__(self, reply: Any = "8\n") -> None:
        super().__init__(reply)
        self.out = self.most = 0

    async def propose(self, states: Any, counts: Any, limits: Any) -> Any:  # type: ignore[override]
        self.out += 1
        self.most = max(self.most, self.out)
        await asyncio.sleep(0)
        self.out -= 1
        if "boom" in states[0].text:
            raise OSError("gone")
        return super().propose(states, counts, limits)


def test_coroutines_are_asked_all_at_once_and_fail_alone() -> None:
    model = AsyncModel(lambda prompt: rating(prompt))
    critic = AsyncPromptedCritic(model)
    nodes = [path("a\n"), path("boom\n"), path("b\n")]
    scores = asyncio.run(critic.score(nodes))
    plain = PromptedCritic(Model(lambda prompt: rating(prompt))).score([nodes[0], nodes[2]])
    assert [scores.values[0], scores.values[2]] == list(plain.values)
    assert [scores.spent[0], scores.spent[2]] == list(plain.spent)
    assert isinstance(scores.values[1], OSError)
    assert (model.most, critic.asked) == (3, 3)
    assert all(len(states) == 1 for states, _, _ in model.calls)


def test_a_search_with_coroutines() -> None:
    model = AsyncModel("7\n")
    one = Searcher(AsyncGenerator(ENDLESS), AsyncPromptedCritic(model, max_tokens=2), WorldTask(ENDLESS), wave=4)
    results = asyncio.run(one.asearch_many(["q0", "q1", "q2"], budget=BUDGET))
    for result in results:
        assert result.stop_reason == "budget"
        assert set(result.tree.values[1:].tolist()) == {0.7}
        assert result.spent.tokens == sum(s.tokens for s in result.steps if s) + 2 * (result.tree.num_nodes - 1)
    assert sum(result.tree.num_nodes - 1 for result in results) == len(model.prompts)


def test_the_kind_of_generator_must_fit() -> None:
    with pytest.raises(TypeError, match="generator: expected a plain propose, got a coroutine; use AsyncPrompted"):
        PromptedCritic(AsyncModel())
    with pytest.raises(TypeError, match="generator: expected a propose that is a coroutine, got Model; use PromptedC"):
        AsyncPromptedCritic(Model())


# --- arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"predicts": "logit"}, ValueError, "predicts: expected 'value' or 'residual', got 'logit'"),
        ({"scale": (10, 0)}, ValueError, r"scale: expected the lower number first, got \(10, 0\)"),
        ({"scale": (1, 1)}, ValueError, "scale: expected the lower number first"),
        ({"scale": (0, float("inf"))}, ValueError, "scale: expected a finite number"),
        ({"scale": (-1e308, 1e308)}, ValueError, "scale: expected a finite number"),
        ({"scale": (1e307, 2e307)}, ValueError, "scale: expected numbers that can be read in a reply, of at most 9"),
        ({"scale": (0, 2_000_000_000)}, ValueError, r"got \(0, 2000000000\), with 1000000000"),
        ({"scale": (0, 1e-4)}, ValueError, r"got \(0, 0.0001\), with 5e-05"),
        ({"scale": "09"}, TypeError, "scale: expected a pair of numbers"),
        ({"scale": (0, 5, 10)}, TypeError, "scale: expected a pair of numbers"),
        ({"scale": ("0", 10)}, TypeError, "scale: expected a finite number"),
        ({"reach": 0.0}, ValueError, "reach: expected a number above 0"),
        ({"reach": 2.0}, ValueError, "reach: expected a number above 0"),
        ({"default": 1.5}, ValueError, "default: expected a value from 0 to 1, got 1.5"),
        ({"default": -0.5}, ValueError, "default: expected a value from 0 to 1, got -0.5"),
        ({"default": -1.5, "predicts": "residual"}, ValueError, "default: expected a residual from -1 to 1"),
        ({"default": float("nan")}, ValueError, "default: expected a finite number"),
        ({"max_tokens": 0}, ValueError, "max_tokens: expected an integer of at least 1"),
        ({"max_prompt_tokens": -1}, ValueError, "max_prompt_tokens: expected an integer of at least 0"),
        ({"token_cost": -1.0}, ValueError, "token_cost: expected a finite number of zero or above"),
        ({"opening": None}, TypeError, "opening: expected a str, got None"),
        ({"template": 5}, TypeError, "template: expected a str, got 5"),
        ({"template": "{text} {other}"}, ValueError, r"template: expected fields among .*, got \['other'\]"),
        ({"template": "{text} {}"}, ValueError, r"template: expected fields among .*, got \[''\]"),
        ({"template": "{text.upper}"}, ValueError, r"template: expected fields among .*, got \['text.upper'\]"),
        ({"template": "{text:{step}}"}, ValueError, r"template: expected fields among .*, got \['text:{step}'\]"),
        ({"template": "{text!q}"}, ValueError, r"template: expected fields among .*, got \['text!q'\]"),
        ({"template": "{text} {"}, ValueError, "template: .*; write {{ and }} for braces"),
        ({"template": "{question} rate it"}, ValueError, "template: expected one with {text}"),
    ],
)
def test_bad_arguments(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PromptedCritic(Model(), **options)


@pytest.mark.parametrize("generator", [None, 5, "model", lambda text, count: ["8"], object()])
def test_a_generator_that_cannot_be_asked(generator: Any) -> None:
    with pytest.raises(TypeError, match=r"generator: expected an object with propose\(states, counts, limits\), got"):
        PromptedCritic(generator)


@pytest.mark.parametrize("make", [PromptedCritic, AsyncPromptedCritic])
def test_a_generator_that_was_not_made(make: Any) -> None:
    with pytest.raises(TypeError, match=r"generator: expected an object, got the class Model; make one: Model\("):
        make(Model)


def test_it_is_a_critic() -> None:
    critic = PromptedCritic(Model(), predicts="residual")
    assert as_critic(critic) is critic
    assert Searcher(Model(), critic).settings.root_value == 0.5
    assert Searcher(Model(), critic).settings.max_score == critic.max_score


# --- on a real model


def test_the_model_that_writes_the_steps_rates_them_too() -> None:
    """A tiny random model in both roles, charged for both."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from tiny_models import tiny_model

    from bavt_fast.generators.torch_model import TorchGenerator
    from bavt_fast.tasks.countdown.training.model import build_tokenizer

    torch.set_num_threads(1)
    generator = TorchGenerator(tiny_model(), build_tokenizer(), delimiter="7")
    rated: list[int] = []

    class Rater:
        def propose(self, *columns: Any) -> Any:
            answers = generator.propose(*columns)
            rated.extend(len(step.token_ids) for row in answers for step in row)
            return answers

    critic = PromptedCritic(Rater(), template="{text} 5", max_tokens=4, scale=(0, 999))
    searcher = bavt.Searcher(generator, critic, max_step_tokens=8)
    first = searcher.search("Target: 5", budget=bavt.Budget(tokens=150), seed=4)
    steps = [step for step in first.steps if step is not None] + [refusal.step for refusal in first.refused]
    assert first.spent.tokens == sum(len(step.token_ids) for step in steps) + sum(rated) <= 150
    assert first.spent.tokens == generator.statistics().generated_tokens
    assert len(rated) == critic.asked
    assert critic.asked == first.tree.num_nodes - 1 > 3
    assert first.overrun == bavt.Spent()
    second = searcher.search("Target: 5", budget=bavt.Budget(tokens=150), seed=4)
    assert first.tree.values.tobytes() == second.tree.values.tobytes()
    assert first.path == second.path


def test_a_chat_model_reads_the_prompt_as_a_user_s_turn_and_the_opening_as_its_own() -> None:
    """And the state of a parent's prompt is in the store when its child's is asked about."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from reward_models import byte_level, causal

    from bavt_fast.generators.torch_model import TorchGenerator

    torch.set_num_threads(1)
    tokenizer = byte_level()

    def chat(text: str) -> list[int]:
        turn = [{"role": "user", "content": text}]
        ids: list[int] = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        return ids

    generator = TorchGenerator(causal(tokenizer), tokenizer, prompts=chat)
    critic = PromptedCritic(generator, opening="Rating:")
    parent = path("a step of some length\n", question="A question?\n")
    child = Node(None, None, parent, Step("b\n", 1))
    read = [len(chat(critic.prompt(node))) + len("Rating:") for node in (parent, child)]
    assert critic.score([parent]).spent[0].prompt_tokens == read[0]
    before = generator.statistics()
    [spent] = critic.score([child]).spent
    after = generator.statistics()
    assert spent.prompt_tokens == read[1]
    saved = after.saved_prompt_tokens - before.saved_prompt_tokens
    assert saved >= len(tokenizer("<|im_start|>user\n" + parent.text)["input_ids"])
    assert saved + after.computed_prompt_tokens - before.computed_prompt_tokens == read[1]
