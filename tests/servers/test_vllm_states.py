"""Hidden states out of a real vLLM: they are those of transformers, and the embedded critic works on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("aiohttp")

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.critic_file import CriticManifest, load_critic, save_critic  # noqa: E402
from bavt_fast.generators.openai_server import OpenAIGenerator  # noqa: E402
from bavt_fast.model_folder import ModelFolder, load_folder  # noqa: E402
from bavt_fast.protocols import GenerationError, Step, StepRequest  # noqa: E402

pytestmark = pytest.mark.slow

PUZZLES = ["2 3 4", "1 2 3 4", "1 1 4 6", "4 5 6 10", "3 3 8 8", "2 5 7 9"]


@pytest.fixture(scope="module")
def here() -> ModelFolder:
    return load_folder(temperature=0.0, without_replacement=False, threads=1)


def make(server: Any, states: Path, **options: Any) -> OpenAIGenerator:
    options = {"delimiter": ")", "temperature": 0.0, "hidden_directory": states, **options}
    return OpenAIGenerator(server.model, base_url=server.url, **options)


def ask(generator: OpenAIGenerator, requests: Sequence[StepRequest], limit: int = 24) -> list[Any]:
    async def run() -> list[Any]:
        try:
            return await generator.propose(requests, [1] * len(requests), [limit] * len(requests))
        finally:
            await generator.aclose()

    return asyncio.run(run())


def prompts(here: ModelFolder) -> list[str]:
    return [here.task.describe(here.task.initial_state(puzzle)).prompt or "" for puzzle in PUZZLES]


@torch.no_grad()
def state_before_the_last(here: ModelFolder, prompt: str, step: Step) -> Any:
    """(H,): transformers' state that predicts the step's last token, from one pass over the whole text."""
    ids = here.generator.tokenizer(prompt)["input_ids"] + list(step.token_ids)
    return here.generator.model.model(torch.tensor([ids])).last_hidden_state[0, -2]


@pytest.mark.parametrize(("limit", "temperature"), [(24, 0.0), (24, 1.0), (4, 1.0), (1, 0.0)])
def test_a_steps_state_is_the_one_of_transformers(
    vllm_states: Any, states: Path, here: ModelFolder, limit: int, temperature: float
) -> None:
    """At every limit, with many requests in flight, and after stop strings that the engine hears of late."""
    asked = [StepRequest(prompt, seed=seed) for prompt in prompts(here) for seed in range(4)]
    answers = ask(make(vllm_states, states, temperature=temperature, token_ids=True), asked, limit)
    for request, (step,) in zip(asked, answers, strict=True):
        exact = state_before_the_last(here, request.text, step)
        assert exact.abs().max() > 1.0
        torch.testing.assert_close(torch.tensor(step.hidden), exact, atol=1e-4, rtol=0.0)
    assert list(states.iterdir()) == []


def test_the_embedded_critic_searches_over_the_server_as_in_process(
    vllm_states: Any, states: Path, here: ModelFolder
) -> None:
    found, seen = [], set()
    for generator in (make(vllm_states, states, logprobs=True), here.generator):
        searcher = bavt.Searcher(generator, here.critic, here.task, wave=6, max_step_tokens=24, **here.settings.search)
        results = searcher.search_many(PUZZLES, budget=bavt.Budget(tokens=150))
        found.append(results)
    for result, own in zip(*found, strict=True):
        assert (result.texts, result.spent.tokens, result.stop_reason) == (own.texts, own.spent.tokens, own.stop_reason)
        values = result.tree.values
        assert values.tolist() == pytest.approx(own.tree.values.tolist(), abs=1e-4)
        seen |= set(values.tolist())
    assert len(seen) > 4


def test_a_critics_file_is_taken_for_the_model_and_layer_it_was_trained_on(
    vllm_states: Any, states: Path, here: ModelFolder, tmp_path: Path
) -> None:
    model = bavt.TorchModel(here.generator.model, here.generator.tokenizer, threads=1)
    manifest = CriticManifest("countdown", model.hidden_size, "Countdown", "logit")
    save_critic(tmp_path / "critic", here.critic.head, manifest, model)
    critic = load_critic(tmp_path / "critic", make(vllm_states, states), task="Countdown")
    request = StepRequest(prompts(here)[0])
    ((step,),) = ask(make(vllm_states, states), [request])
    ((own,),) = here.generator.propose([request], [1], [24])
    scores = [critic.score([bavt.Node(None, "", None, made)])[0] for made in (step, own)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)

    with pytest.raises(ValueError, match=r"of layer '3' \(OpenAIGenerator.*got one for layer 'last' of 'countdown'"):
        load_critic(tmp_path / "critic", make(vllm_states, states, hidden_layer="3"))
    with torch.no_grad():
        scale = here.generator.model.model.norm.weight
        before = scale.clone()
        scale.copy_(torch.rand_like(scale) * 3 - 1)
        try:
            save_critic(tmp_path / "other", here.critic.head, manifest, bavt.TorchModel(model.model, model.tokenizer))
        finally:
            scale.copy_(before)
    with pytest.raises(ValueError, match=r"trained on the states of OpenAIGenerator.*got one for 'countdown'"):
        load_critic(tmp_path / "other", make(vllm_states, states))


def test_a_layer_that_the_server_does_not_hand_over_is_refused(
    vllm_states: Any, states: Path, here: ModelFolder
) -> None:
    (error,) = ask(make(vllm_states, states, hidden_layer="3"), [StepRequest(prompts(here)[0])])
    assert isinstance(error, GenerationError)
    assert "expected states of layer '3', got those of 'last' from the server" in str(error)


def test_requests_that_do_not_ask_or_ask_badly_leave_nothing_and_are_answered(
    vllm_states: Any, states: Path, here: ModelFolder
) -> None:
    plain = OpenAIGenerator(vllm_states.model, base_url=vllm_states.url, delimiter=")", temperature=0.0)
    request = StepRequest(prompts(here)[0])
    ((step,),) = ask(plain, [request])
    for bad in ("../../escape", "", 7, None, {"a": 1}):
        fields = {"kv_transfer_params": {"bavt_fast_state": bad}}
        odd = OpenAIGenerator(
            vllm_states.model, base_url=vllm_states.url, delimiter=")", temperature=0.0, extra_body=fields
        )
        ((other,),) = ask(odd, [request])
        assert other.text == step.text
    time.sleep(0.5)
    assert list(states.iterdir()) == []
