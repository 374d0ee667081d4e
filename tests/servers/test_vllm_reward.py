"""Process reward models in a real vLLM: the scores are those of the same model in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("torch")

from fault_proxy import FaultProxy, half, refused, reset
from reward_models import path
from served import counter

import bavt_fast as bavt

pytestmark = pytest.mark.slow


PATHS = [
    path("2 + 3 = 5\n"),
    path("We add.\n", "2 + 3 = 6\n", "Answer: 6\n"),
    path("\n\nWe add.\n", "   indented\n", "no line break"),
    path("x" * 90 + "\n", question="Why?\nTwo lines."),
    path(*[f"step {i}\n" for i in range(9)]),
]


def make(reward: Any, kind: Any = bavt.ServedRewardCritic, url: str | None = None, **options: Any) -> Any:
    tagged = reward.here.layout.step_tag == "<extra_0>"
    return (kind.qwen if tagged else kind)("prm", reward.tokenizer, base_url=url or reward.server.url, **options)


def test_scores_are_those_of_this_process_and_counts_are_the_servers(vllm_reward: Any) -> None:
    before = counter(vllm_reward.server.url, "prompt_tokens_total")
    critic = make(vllm_reward)
    steps = critic.step_scores(PATHS)
    read = counter(vllm_reward.server.url, "prompt_tokens_total") - before
    for found, own in zip(steps, vllm_reward.here.step_scores(PATHS), strict=True):
        assert found == pytest.approx(own, abs=1e-3)
    flat = [score for scores in steps for score in scores]
    assert max(flat) - min(flat) > 0.1
    assert critic.prompt_tokens == read > 0


@pytest.mark.parametrize("aggregate", ["last", "min", "product"])
def test_values_with_and_without_asyncio(vllm_reward: Any, aggregate: Any) -> None:
    vllm_reward.here.aggregate = aggregate
    own = vllm_reward.here.score(PATHS)
    critic = make(vllm_reward, bavt.AsyncServedRewardCritic, aggregate=aggregate)

    async def scored() -> Any:
        try:
            return await critic.score(PATHS)
        finally:
            await critic.aclose()

    assert make(vllm_reward, aggregate=aggregate).score(PATHS).values == pytest.approx(own, abs=1e-3)
    assert asyncio.run(scored()).values == pytest.approx(own, abs=1e-3)


def test_many_at_once_and_a_storm_in_between(vllm_reward: Any) -> None:
    faults = [refused(429), reset(0.5), half]

    met: set[tuple[int, ...]] = set()

    def fault(number: int, body: dict[str, Any]) -> Any:
        """Every path meets one; sent again, it gets through."""
        ids = tuple(body["input"])
        first = ids not in met
        met.add(ids)
        return faults[number % len(faults)] if first else None

    nodes = [path(*[f"step {i}\n" for i in range(first, first + 3)]) for first in range(24)]
    vllm_reward.here.aggregate = "last"
    with FaultProxy(vllm_reward.server.url, fault) as proxy:
        values, spent = make(vllm_reward, url=proxy.url).score(nodes)
    assert len(proxy.requests) == 2 * len(nodes)
    assert values == pytest.approx(vllm_reward.here.score(nodes), abs=1e-3)
    assert all(row.prompt_tokens > 0 for row in spent)


def test_a_path_beyond_the_servers_context_fails_alone(vllm_reward: Any) -> None:
    (error, value), spent = make(vllm_reward).score([path("long " * 200 + "\n"), PATHS[0]])
    assert isinstance(error, bavt.GenerationError)
    assert "maximum context length" in str(error)
    assert 0.0 <= value <= 1.0
    assert spent[0] == bavt.Spent()
