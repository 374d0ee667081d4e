"""A real vLLM with the embedded Countdown model: what comes over HTTP is what the same model says in this process."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("torch")

from fault_proxy import FaultProxy, closed, half, now_and_then, refused, reset, slow
from served import counter

import bavt_fast as bavt
from bavt_fast.critics.prompted import AsyncPromptedCritic
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.model_folder import ModelFolder, load_folder
from bavt_fast.protocols import Node, StepRequest
from bavt_fast.tasks.countdown import Countdown

pytestmark = pytest.mark.slow

PUZZLES = ["2 3 4", "1 2 3 4", "1 1 4 6", "4 5 6 10", "3 3 8 8", "2 5 7 9"]
STATE = "Target: 24 (left: 4 5 6 10)\n"


@pytest.fixture(scope="module")
def here() -> ModelFolder:
    """The same model in this process, greedy."""
    return load_folder(temperature=0.0, without_replacement=False, threads=1)


@pytest.fixture
def generator(vllm: Any) -> OpenAIGenerator:
    return make(vllm)


def make(server: Any, url: str | None = None, **options: Any) -> OpenAIGenerator:
    return OpenAIGenerator(
        server.model, base_url=url or server.url, **{"delimiter": ")", "temperature": 0.0, "logprobs": True, **options}
    )


def ask(
    generator: OpenAIGenerator, requests: Iterable[StepRequest | str], count: int = 1, limit: int = 24
) -> list[Any]:
    asked = [StepRequest(request) if isinstance(request, str) else request for request in requests]

    async def run() -> list[Any]:
        try:
            return await generator.propose(asked, [count] * len(asked), [limit] * len(asked))
        finally:
            await generator.aclose()

    return asyncio.run(run())


def search(generator: Any, here: ModelFolder, *, wave: int = 8, tokens: int = 250, **options: Any) -> list[Any]:
    options = {**here.settings.search, "max_step_tokens": 24, "wave": wave, **options}
    return bavt.Searcher(generator, None, here.task, **options).search_many(PUZZLES, budget=bavt.Budget(tokens=tokens))


def found(results: list[Any]) -> list[Any]:
    return [(result.answer, result.texts, result.spent.tokens, result.stop_reason) for result in results]


def metric(server: Any, name: str) -> float:
    return counter(server.url, name)


# --- whole searches


def test_puzzles_are_solved_as_in_process_and_the_counts_are_the_servers(
    vllm: Any, generator: OpenAIGenerator, here: ModelFolder
) -> None:
    names = ("generation_tokens_total", "prompt_tokens_total")
    before = [metric(vllm, name) for name in names]
    results = search(generator, here)
    after = [metric(vllm, name) for name in names]
    assert found(results) == found(search(here.generator, here))
    assert sum(result.solved for result in results) >= 3
    counted = generator.server_statistics()
    assert [new - old for new, old in zip(after, before, strict=True)] == [
        counted.generated_tokens,
        counted.prompt_tokens,
    ]
    assert counted.generated_tokens >= sum(result.spent.tokens for result in results)
    assert counted.retries == counted.failures == counted.unmetered == 0


def test_sampled_searches_solve_puzzles_within_their_budgets(vllm: Any, here: ModelFolder) -> None:
    generator = make(vllm, temperature=0.7)
    results = search(generator, here, wave=16)
    assert sum(result.solved for result in results) >= 3
    assert all(result.spent.tokens <= 250 and not result.overrun.tokens for result in results)
    for question, result in zip(PUZZLES, results, strict=True):
        assert result.answer is None or Countdown().check_answer(question, result.answer)


def test_a_storm_between_client_and_server_changes_nothing(vllm: Any, here: ModelFolder) -> None:
    faults = [slow(0.2), refused(429), refused(503), reset(0.0), reset(0.5), closed(0.5), half]

    with FaultProxy(vllm.url, now_and_then(faults)) as proxy:
        generator = make(vllm, proxy.url)
        results = search(generator, here)
    assert found(results) == found(search(here.generator, here))
    assert generator.server_statistics().retries > len(faults)


# --- steps


def states(here: ModelFolder) -> list[str]:
    task = here.task
    return [task.describe(task.initial_state(puzzle)).prompt for puzzle in PUZZLES]


def test_greedy_steps_are_those_of_this_process(generator: OpenAIGenerator, here: ModelFolder) -> None:
    prompts = states(here)
    steps = [answer[0] for answer in ask(generator, prompts)]
    own = [
        answer[0]
        for answer in here.generator.propose([StepRequest(p) for p in prompts], [1] * len(prompts), [24] * len(prompts))
    ]
    for step, other in zip(steps, own, strict=True):
        assert (step.text, step.tokens, step.finish_reason, step.prompt_tokens) == (
            other.text,
            other.tokens,
            other.finish_reason,
            other.prompt_tokens,
        )


def test_log_probabilities_are_those_of_this_process(vllm: Any, here: ModelFolder) -> None:
    ((step,),) = ask(make(vllm, logprobs=True), [STATE])
    ((other,),) = here.generator.propose([StepRequest(STATE)], [1], [24])
    exact = _log_probability(here, STATE, other.token_ids)
    assert step.text == other.text
    assert step.log_probability == pytest.approx(exact, abs=1e-3)


def _log_probability(here: ModelFolder, prompt: str, tokens: tuple[int, ...]) -> float:
    import torch

    ids = here.generator.tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        logits = here.generator.model(torch.tensor([ids + list(tokens)])).logits[0].float().log_softmax(-1)
    return float(sum(logits[len(ids) - 1 + i, token] for i, token in enumerate(tokens)))


def test_contexts_go_on_from_token_ids(vllm: Any, here: ModelFolder) -> None:
    """The second step is asked for with the ids of the prompt and of the first step, and is the one of this process."""
    sent: list[Any] = []

    def watch(number: int, body: dict[str, Any]) -> None:
        sent.append(body["prompt"])

    with FaultProxy(vllm.url, watch) as proxy:
        generator = make(vllm, proxy.url, token_ids=True)
        root = Node(None, STATE)
        ((first,),) = ask(generator, [StepRequest(root)])
        child = Node(None, None, root, first)
        ((second,),) = ask(generator, [StepRequest(child)])
    ((own,),) = here.generator.propose([StepRequest(root)], [1], [24])
    assert first.token_ids == own.token_ids
    assert sent == [STATE, here.generator.tokenizer(STATE)["input_ids"] + list(first.token_ids)]
    ((next_own,),) = here.generator.propose([StepRequest(Node(None, None, root, own))], [1], [24])
    assert (second.text, second.token_ids, second.prompt_tokens) == (
        next_own.text,
        next_own.token_ids,
        next_own.prompt_tokens,
    )


def test_several_candidates_are_several_requests(vllm: Any) -> None:
    generator = make(vllm, temperature=1.0)
    requests = [StepRequest(STATE, seed=seed) for seed in range(4)]
    answers = ask(generator, requests, count=3)
    assert [len(answer) for answer in answers] == [3] * 4
    steps = [step for answer in answers for step in answer]
    assert len({step.text for step in steps}) > 3
    counted = generator.server_statistics()
    assert (counted.requests, counted.generated_tokens) == (12, sum(step.tokens for step in steps))
    assert counted.prompt_tokens == sum(step.prompt_tokens for step in steps)


def test_a_seed_gives_the_same_step_again(vllm: Any) -> None:
    generator = make(vllm, temperature=1.0)
    texts = [[ask(generator, [StepRequest(STATE, seed=seed)])[0][0].text for seed in range(6)] for _ in range(2)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_the_first_of_several_stop_strings_ends_a_step(vllm: Any) -> None:
    ((step,),) = ask(make(vllm, delimiter=(")", "=")), [STATE])
    assert re.fullmatch(r" \d+ [-+*/] \d+ =", step.text)
    assert (step.finish_reason, step.tokens) == ("delimiter", 4)
    ((again,),) = ask(make(vllm, delimiter=(")", "="), stop_is_returned=True), [STATE])
    assert (again.text, again.finish_reason, again.tokens) == (step.text, "delimiter", 4)


def test_a_limit_cuts_a_step_short(vllm: Any) -> None:
    ((step,),) = ask(make(vllm), [STATE], limit=3)
    assert (step.finish_reason, step.tokens) == ("limit", 3)
    assert step.is_cut


def test_a_context_without_room_has_no_next_step(vllm: Any, here: ModelFolder) -> None:
    size = here.generator.model.config.max_position_embeddings
    above, full, almost = ask(make(vllm), ["1 " * count for count in (size + 3, size, size - 1)])
    assert above == full == []
    assert (almost[0].tokens, almost[0].finish_reason) == (1, "limit")


def test_what_the_server_has_of_a_prompt_costs_the_cached_price(vllm: Any) -> None:
    prompt = "1 2 3 4 5 6 7 8 9 " * 5
    ask(make(vllm), [prompt], limit=2)
    generator = make(vllm)
    ((step,),) = ask(generator, [prompt], limit=2)
    assert (step.prompt_tokens, step.cached_tokens) == (45, 32)
    assert generator.statistics().saved_prompt_tokens == 32


# --- deadlines and cancelling


def test_a_deadline_ends_a_request_and_charges_its_whole_limit(vllm: Any) -> None:
    ((step,),) = ask(make(vllm), [StepRequest(STATE, seconds_left=0.002)], limit=9)
    assert step.finish_reason == "deadline"
    assert step.tokens in (9, 1)  # 1 where the time was over before it was sent


def test_cancelling_frees_the_server(vllm: Any) -> None:
    generator = make(vllm, temperature=1.0, delimiter="never", max_in_flight=200)
    before = metric(vllm, "generation_tokens_total")

    async def run() -> None:
        requests = [StepRequest(STATE, seed=seed) for seed in range(200)]
        task = asyncio.ensure_future(generator.propose(requests, [1] * 200, [50] * 200))
        while metric(vllm, "generation_tokens_total") == before:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await generator.aclose()

    asyncio.run(run())
    deadline = time.monotonic() + 60
    while metric(vllm, "num_requests_running") + metric(vllm, "num_requests_waiting"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert metric(vllm, "generation_tokens_total") - before < 200 * 50


# --- chats and critics


def test_a_chat_goes_on_with_the_assistants_turn(vllm: Any, here: ModelFolder) -> None:
    """Under a template that writes the messages' texts and nothing else, a chat is the same as a completion."""
    chat, plain = make(vllm, chat=True, logprobs=True), make(vllm, logprobs=True)
    root = Node(None, STATE)
    ((first,),) = ask(chat, [StepRequest(root)])
    child = Node(None, None, root, first)
    ((second,),) = ask(chat, [StepRequest(child)])
    ((one,),), ((two,),) = ask(plain, [StepRequest(root)]), ask(plain, [StepRequest(child)])
    for step, other in ((first, one), (second, two)):
        assert (step.text, step.tokens, step.prompt_tokens) == (other.text, other.tokens, other.prompt_tokens)
        assert step.log_probability == pytest.approx(other.log_probability, abs=1e-4)


@pytest.mark.parametrize("chat", [False, True])
def test_the_model_is_asked_for_ratings_through_the_same_server(vllm: Any, here: ModelFolder, chat: bool) -> None:
    """This one has no words for it; what it says instead is charged to the questions."""
    steps, ratings = make(vllm, chat=chat), make(vllm, chat=chat, delimiter="\n")
    critic = AsyncPromptedCritic(ratings, template="{text}", opening="", max_tokens=5)
    with_critic = bavt.Searcher(steps, critic, here.task, wave=8, max_step_tokens=24, **here.settings.search)
    rated = with_critic.search_many(PUZZLES, budget=bavt.Budget(tokens=150))
    assert all(result.spent.tokens <= 150 and result.error is None for result in rated)
    assert critic.asked > 0
    assert critic.asked == ratings.server_statistics().requests
    assert ratings.server_statistics().generated_tokens >= critic.asked
    taken = steps.server_statistics().generated_tokens + ratings.server_statistics().generated_tokens
    assert taken >= sum(result.spent.tokens for result in rated) > steps.server_statistics().generated_tokens / 2
