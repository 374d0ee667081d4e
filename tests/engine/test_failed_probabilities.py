"""What steps say of their probabilities, in a search that reads them: an answer that cannot be used fails alone."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scripted import StreamingGenerator
from search_checks import ENDLESS, check_idle

import bavt_fast as bavt
from bavt_fast.protocols import StepRequest
from bavt_fast.result import SearchError

BUDGET = bavt.Budget(tokens=60)
BAD: list[dict[str, Any]] = [
    {"log_probability": math.nan},
    {"log_probability": 0.5},
    {"log_probability": "likely"},
    {"token_probabilities": (2.0,)},
    {"token_probabilities": (math.nan,)},
    {"token_probabilities": ("half",)},
    {"token_probabilities": np.array([0.5, 0.5])},
]


class Saying:
    """Steps of three tokens that say this of themselves, for the question "bad"; for others that they are likely."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said, self.made = said, 0

    def steps(self, request: StepRequest) -> list[bavt.Step]:
        self.made += 1
        said = self.said if request.text.startswith("bad") else {"log_probability": -0.5}
        return [bavt.Step(f"step {self.made}\n", 3, **said)]

    def propose(self, states: Sequence[StepRequest], *_: Any) -> list[list[bavt.Step]]:
        return [self.steps(state) for state in states]


class SayingAsync(Saying):
    async def propose(self, states: Sequence[StepRequest], *_: Any) -> list[list[bavt.Step]]:  # type: ignore[override]
        await asyncio.sleep(0)
        return [self.steps(state) for state in states]


class SayingStreams(StreamingGenerator):
    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(ENDLESS)
        self.saying = Saying(said)

    def collect(self) -> list[tuple[int, list[bavt.Step]]]:
        ticket = min(self.out)
        request, _, _ = self.out.pop(ticket)
        return [(ticket, self.saying.steps(request))]


@pytest.mark.parametrize("said", BAD)
@pytest.mark.parametrize("kind", [Saying, SayingAsync, SayingStreams])
@pytest.mark.parametrize("wave", [1, 4])
def test_it_fails_its_question_alone(kind: Any, said: dict[str, Any], wave: int) -> None:
    many = bavt.Searcher(kind(said), wave=wave, tried_exponent=0.7)
    results = many.search_many(["a", "bad", "c"], budget=BUDGET)
    assert [result.stop_reason for result in results] == ["budget", "error", "budget"]
    assert str(results[1].error).startswith(("Step.log_probability: expected", "Step.token_probabilities: expected"))
    assert [result.spent.tokens for result in results] == [60, 3, 60]  # what it took is charged
    with pytest.raises(SearchError, match="Step"):
        bavt.Searcher(kind(said), tried_exponent=0.7).search("bad", budget=BUDGET)
    assert bavt.Searcher(kind(said)).search("bad", budget=BUDGET).stop_reason == "budget"  # nobody reads it


@pytest.mark.parametrize("said", BAD)
def test_by_hand_it_changes_nothing(said: dict[str, Any]) -> None:
    search = bavt.Searcher(Saying(said), tried_exponent=0.7).start("q", budget=BUDGET)
    ask = search.ask()[0]
    with pytest.raises((TypeError, ValueError), match=r"^Step\."):
        search.tell(ask, [bavt.Step("step\n", 3, **said)])
    assert search.open_asks() == [ask]
    assert search.tell(ask, [bavt.Step("step\n", 3, log_probability=-1.0)]) == [1]
    check_idle(search)


def test_rounding_is_no_fault() -> None:
    """A long step of certain tokens, each rounded up."""
    said = {"token_probabilities": (1.0 + 2.0**-23,) * 40}
    search = bavt.Searcher(Saying(said), tried_exponent=0.7).start("q", budget=bavt.Budget(tokens=100))
    assert search.tell(search.ask()[0], [bavt.Step("step\n", 40, **said)]) == [1]


@pytest.mark.parametrize("said", [*BAD, {"log_probability": np.float32(-0.5)}, {"token_ids": np.arange(3)}], ids=str)
def test_where_nobody_reads_it_the_result_can_be_shown(said: dict[str, Any]) -> None:
    result = bavt.Searcher(Saying(said), record=True).search("bad", budget=BUDGET)
    shown = [result.log_probabilities[1:], bavt.view.picture(result).nodes.log_probabilities[1:]]
    assert all(one is None or type(one) is float for column in shown for one in column)
    assert all(view() for view in (result.__str__, result.to_json, result._repr_html_))
    for same in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert same == result
    assert dataclasses.replace(result, steps=result.steps[:-1]) != result
