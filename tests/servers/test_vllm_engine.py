"""vLLM's engine inside of this program, over the streaming form of the contract."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.critic_file import CriticManifest, load_critic, save_critic  # noqa: E402
from bavt_fast.model_folder import ModelFolder, load_folder  # noqa: E402
from bavt_fast.protocols import Node, Sampling, Step, StepRequest  # noqa: E402

pytestmark = pytest.mark.slow

PUZZLES = ["2 3 4", "1 2 3 4", "1 1 4 6", "4 5 6 10", "3 3 8 8", "2 5 7 9"]
STATE = "Target: 24 (left: 4 5 6 10)\n"
WARM = Sampling(temperature=1.0)


@pytest.fixture(scope="module")
def here() -> ModelFolder:
    return load_folder(temperature=0.0, without_replacement=False, threads=1)


def search(generator: Any, here: ModelFolder) -> list[Any]:
    searcher = bavt.Searcher(generator, here.critic, here.task, wave=6, max_step_tokens=24, **here.settings.search)
    return searcher.search_many(PUZZLES, budget=bavt.Budget(tokens=150))


def test_puzzles_are_solved_as_by_transformers(vllm_engine: Any, here: ModelFolder) -> None:
    before = vllm_engine.statistics().generated_tokens
    results, own = search(vllm_engine, here), search(here.generator, here)
    for result, other in zip(results, own, strict=True):
        assert result.texts == other.texts
        assert (result.spent.tokens, result.stop_reason) == (other.spent.tokens, other.stop_reason)
        assert result.tree.values.tolist() == pytest.approx(other.tree.values.tolist(), abs=1e-4)
    assert sum(result.solved for result in results) >= 3
    taken = vllm_engine.statistics().generated_tokens - before
    assert taken >= sum(result.spent.tokens for result in results)


def test_steps_and_their_states_are_those_of_transformers(vllm_engine: Any, here: ModelFolder) -> None:
    requests = [StepRequest(STATE, seed=seed, sampling=WARM) for seed in range(8)] + [StepRequest(STATE)]
    answers = vllm_engine.propose(requests, [2] * 9, [24] * 9)
    assert [len(answer) for answer in answers] == [2] * 9
    prompt = here.generator.tokenizer(STATE)["input_ids"]
    for step in [step for answer in answers for step in answer]:
        with torch.no_grad():
            found = here.generator.model(torch.tensor([prompt + list(step.token_ids)]), output_hidden_states=True)
        rows = found.logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
        exact = float(rows.gather(1, torch.tensor(step.token_ids)[:, None]).sum())
        assert step.log_probability == pytest.approx(exact, abs=1e-3)
        torch.testing.assert_close(torch.tensor(step.hidden), found.hidden_states[-1][0, -2], atol=1e-4, rtol=0.0)
    ((own,),) = here.generator.propose([StepRequest(STATE)], [1], [24])
    greedy = answers[-1][0]
    assert (greedy.text, greedy.token_ids, greedy.finish_reason) == (own.text, own.token_ids, own.finish_reason)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_at_the_temperature_that_is_asked_for(
    vllm_engine: Any, here: ModelFolder, temperature: float
) -> None:
    """vLLM for the CPU draws at a random one where states are kept; the connector mends that."""
    count = 200
    asked = [StepRequest(STATE, seed=seed, sampling=Sampling(temperature)) for seed in range(count)]
    *answers, greedy = vllm_engine.propose([*asked, StepRequest(STATE)], [1] * (count + 1), [4] * (count + 1))
    drawn = torch.tensor([step.token_ids for (step,) in answers])
    encode = here.generator.tokenizer
    with torch.no_grad():
        logits = here.generator.model(torch.tensor([encode(STATE)["input_ids"]])).logits[0, -1]
    exact = (logits / temperature).softmax(-1)
    often = torch.bincount(drawn[:, 0], minlength=len(exact)) / count
    assert float((often - exact).abs().sum()) / 2 < 0.12
    # The engine draws those behind the first in another way. Of a step the fourth is "=".
    assert float((drawn[:, 3] == encode("=")["input_ids"][-1]).float().mean()) > 0.95
    ((own,),) = here.generator.propose([StepRequest(STATE)], [1], [4])
    assert greedy[0].token_ids == own.token_ids


def test_contexts_go_on_from_the_steps_tokens(vllm_engine: Any, here: ModelFolder) -> None:
    paths = []
    for generator in (vllm_engine, here.generator):
        node, steps = Node(None, STATE), []
        for _ in range(3):
            ((step,),) = generator.propose([StepRequest(node)], [1], [12])
            node = Node(None, None, node, step)
            steps.append((step.text, step.token_ids, step.prompt_tokens))
        paths.append(steps)
    assert paths[0] == paths[1]


def test_limits_room_and_deadlines(vllm_engine: Any, here: ModelFolder) -> None:
    size = here.generator.model.config.max_position_embeddings
    requests = [StepRequest(STATE), StepRequest("1 " * size), StepRequest("1 " * (size - 1))]
    (cut,), full, (almost,) = vllm_engine.propose(requests, [1] * 3, [3, 9, 9])
    assert (cut.tokens, cut.finish_reason) == (3, "limit")
    assert full == []
    assert (almost.tokens, almost.finish_reason) == (1, "limit")
    ((late,),) = vllm_engine.propose([StepRequest(STATE, seconds_left=0.0)], [1], [24])
    assert late.finish_reason == "deadline"
    assert late.tokens < 24


def test_answers_stream_and_what_is_given_up_is_charged(vllm_engine: Any) -> None:
    requests = [StepRequest(STATE, seed=seed, sampling=WARM) for seed in range(6)]
    vllm_engine.submit(range(6), requests, [1] * 6, [24] * 6)
    took = vllm_engine.discard([1, 4, 99])
    came: dict[int, Any] = {}
    while len(came) < 4:
        for ticket, answer in vllm_engine.collect():
            assert ticket not in came
            came[ticket] = answer
    assert sorted(came) == [0, 2, 3, 5]
    assert set(took) == {1, 4}
    assert all(0 <= spent.tokens <= 24 for spent in took.values())
    assert vllm_engine.collect() == []
    again = vllm_engine.propose(requests, [1] * 6, [24] * 6)
    for ticket, (step,) in came.items():
        assert step.text == again[ticket][0].text  # of its seed alone


def test_an_error_is_its_own_asks(vllm_engine: Any) -> None:
    bad = StepRequest(STATE, sampling=Sampling(top_p=7.0))
    good, error = vllm_engine.propose([StepRequest(STATE), bad], [1, 1], [24, 24])
    assert isinstance(good[0], Step)
    assert isinstance(error, bavt.GenerationError)
    assert "top_p" in str(error)


def test_a_critics_file_is_taken_for_its_model(vllm_engine: Any, here: ModelFolder, tmp_path: Path) -> None:
    model = bavt.TorchModel(here.generator.model, here.generator.tokenizer, threads=1)
    path = tmp_path / "critic"
    save_critic(path, here.critic.head, CriticManifest("countdown", 256, "Countdown", "logit"), model)
    critic = load_critic(path, vllm_engine, task="Countdown")
    ((step,),) = vllm_engine.propose([StepRequest(STATE)], [1], [24])
    (score,) = critic.score([Node(None, "", None, step)])
    ((own,),) = here.generator.propose([StepRequest(STATE)], [1], [24])
    assert score == pytest.approx(here.critic.score([Node(None, "", None, own)])[0], abs=1e-4)


def test_the_model_is_asked_for_ratings_through_the_same_engine(vllm_engine: Any, here: ModelFolder) -> None:
    """This one has no words for it; what it says instead is charged to the questions."""
    critic = bavt.PromptedCritic(vllm_engine, template="{text}", opening="", max_tokens=5)
    searcher = bavt.Searcher(vllm_engine, critic, here.task, wave=6, max_step_tokens=24, **here.settings.search)
    before = vllm_engine.statistics().generated_tokens
    results = searcher.search_many(PUZZLES, budget=bavt.Budget(tokens=100))
    assert critic.asked > 0
    assert all(result.error is None and result.spent.tokens <= 100 for result in results)
    assert vllm_engine.statistics().generated_tokens - before >= sum(result.spent.tokens for result in results)


def test_nothing_is_left_behind(vllm_engine: Any) -> None:
    assert list(vllm_engine._states.directory.iterdir()) == []
    assert [thread.name for thread in threading.enumerate()].count("bavt_fast-vllm") == 1
