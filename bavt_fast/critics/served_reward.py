"""Process reward models behind a server as critics: vLLM's ``/pooling`` with the task ``token_classify``.

    critic = ServedRewardCritic("prm", tokenizer, base_url="http://127.0.0.1:8001/v1")

A path is encoded here, as `ProcessRewardCritic` does it, and sent as token ids: so it is known, and not guessed, at
which token a step is judged. vLLM answers with the probabilities of each token's labels (models for token
classification), or of those of the step tags alone (pooling type STEP, as for Qwen2.5-Math-PRM). How they become one
value: `bavt_fast.critics.step_layout`.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from decimal import Decimal
from typing import Any, Literal, TypeVar

from bavt_fast._checks import as_amount, as_count
from bavt_fast.budget import Spent, priced
from bavt_fast.critics.step_layout import (
    AGGREGATES,
    QWEN_SYSTEM,
    Aggregate,
    Laid,
    StepLayout,
    checked_aggregate,
    max_length_of,
    qwen_layout,
)
from bavt_fast.protocols import GenerationError, Node, Scores
from bavt_fast.server_client import ServerClient, told_count

__all__ = ["AsyncServedRewardCritic", "ServedRewardCritic"]

_ROUNDED = 1e-3
"""How far a probability may be outside of [0, 1]: servers compute in bfloat16."""
_CHANGING = threading.Lock()
"""Held where a critic's event loop begins or is taken away. No process is forked meanwhile, whose copy stayed held."""
os.register_at_fork(before=_CHANGING.acquire, after_in_parent=_CHANGING.release, after_in_child=_CHANGING.release)
Served = TypeVar("Served", bound="ServedRewardCritic")
Found = TypeVar("Found")


class ServedRewardCritic:
    """Scores states with a process reward model that vLLM serves: a request for each state, all of a wave at once.

    The tokens that the model reads are charged to the question's budget as prompt tokens.

    Args:
        model: its name on the server.
        tokenizer: the model's, a fast one of transformers.
        base_url: such as "http://127.0.0.1:8001/v1"; the endpoint ``/pooling`` is beside ``/v1``.
        api_key: None for OPENAI_API_KEY; a server that wants none is given "none".
        step_tag, between, prompt, add_special_tokens: how a path is written, as for `ProcessRewardCritic`.
        good_label: the number of the label that means a good step; None for the second of two, or the only one.
        aggregate: "last", "min" or "product" of the steps' scores.
        max_prompt_tokens: the most tokens of a path; one that is longer is not sent and gets an error. As much is
            reserved with every step where a budget limits or prices prompt tokens. None for what the tokenizer says
            (``model_max_length``); where it says nothing, nothing is reserved.
        prompt_token_cost: a price, for a budget's ``cost``.
        max_in_flight, timeout_s, retries: as for `OpenAIGenerator`.

    Attributes:
        max_score: the most that one node takes, reserved with its step.
        asked: paths so far, with those that failed.
        prompt_tokens: that were read for them.

    Raises:
        ModuleNotFoundError: the package aiohttp is not installed.
        TypeError, ValueError: an argument is not what it should be.
    """

    predicts: Literal["value", "residual"] = "value"

    def __init__(
        self,
        model: str,
        tokenizer: Any,
        *,
        base_url: str,
        api_key: str | None = None,
        step_tag: str = "\n",
        between: str = "",
        prompt: Callable[[str], str] | None = None,
        add_special_tokens: bool = True,
        good_label: int | None = None,
        aggregate: Aggregate = "last",
        max_prompt_tokens: int | None = None,
        prompt_token_cost: float = 0.0,
        max_in_flight: int = 64,
        timeout_s: float = 120.0,
        retries: int = 5,
    ) -> None:
        if not isinstance(model, str) or not model:
            raise ValueError(f"model: expected the model's name on the server, got {model!r:.80}")
        if not isinstance(base_url, str) or not base_url:
            raise ValueError(f"base_url: expected the server's address, got {base_url!r:.80}")
        self.layout = StepLayout(
            tokenizer, step_tag=step_tag, between=between, prompt=prompt, add_special_tokens=add_special_tokens
        )
        self.model = model
        self.good_label = None if good_label is None else as_count("good_label", good_label)
        self.aggregate = checked_aggregate(aggregate)
        self.max_prompt_tokens = (
            max_length_of(None, tokenizer)
            if max_prompt_tokens is None
            else as_count("max_prompt_tokens", max_prompt_tokens, minimum=1)
        )
        self._price = Decimal(repr(as_amount("prompt_token_cost", prompt_token_cost, allow_zero=True)))
        self.max_score = self._spent(self.max_prompt_tokens or 0)
        self._server = ServerClient(
            base_url, api_key=api_key, max_in_flight=max_in_flight, timeout_s=timeout_s, retries=retries, user="critic"
        )
        self._endpoint = base_url.rstrip("/").removesuffix("/v1") + "/pooling"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_of = 0  # the process that runs it
        self.asked = self.prompt_tokens = 0

    @classmethod
    def qwen(
        cls: type[Served], model: str, tokenizer: Any, *, system: str | None = QWEN_SYSTEM, **options: Any
    ) -> Served:
        """For models of the kind of Qwen2.5-Math-PRM: the question as a user's turn, the steps as the assistant's.

        Raises:
            ValueError: the tokenizer has no chat template, or no token ``<extra_0>``.
        """
        return cls(model, tokenizer, **{**qwen_layout(tokenizer, system), **options})

    def score(self, candidates: Sequence[Node]) -> Scores:
        """A value and what it took per node; a path that cannot be judged is an exception in its place."""
        return self._run(self._values(candidates))

    def step_scores(self, candidates: Sequence[Node]) -> list[list[float] | Exception]:
        """The scores of all steps on the way to each node, in order."""
        return self._run(self._judged(candidates))[0]

    def close(self) -> None:
        """Closes the connections; what other threads are asking for fails. The next call opens new ones."""
        with _CHANGING:
            loop, self._loop = self._loop, None
        if loop is not None and self._loop_of == os.getpid():
            asyncio.run_coroutine_threadsafe(_ended(self._server), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def __getstate__(self) -> dict[str, Any]:
        """A copy asks in an event loop of its own."""
        return {**self.__dict__, "_loop": None}

    def _run(self, asking: Coroutine[Any, Any, Found]) -> Found:
        """In an event loop in a thread, since the caller's own may be running."""
        with _CHANGING:
            if self._loop is None or self._loop_of != os.getpid():  # a forked process has none of its parent's threads
                self._loop, self._loop_of = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=_forever, args=(self._loop,), name="bavt_fast-critic", daemon=True).start()
            future = asyncio.run_coroutine_threadsafe(asking, self._loop)  # before a `close` that ends what is asked
        try:
            return future.result()
        except CancelledError:  # by `close` in another thread
            raise GenerationError(f"critic: {self._server.name}: the critic was closed meanwhile") from None
        except BaseException:  # Ctrl-C
            future.cancel()
            raise

    async def _values(self, candidates: Sequence[Node]) -> Scores:
        aggregate = AGGREGATES[self.aggregate]
        judged, spent = await self._judged(candidates)
        return Scores([steps if isinstance(steps, Exception) else aggregate(steps) for steps in judged], spent)

    async def _judged(self, candidates: Sequence[Node]) -> tuple[list[list[float] | Exception], list[Spent]]:
        """The scores of each path's steps, and what they took."""
        paths = self.layout.lay(candidates, self.max_prompt_tokens)
        rows = await asyncio.gather(*(self._path(path) for path in paths))
        self.asked += len(rows)
        return [scores for scores, _ in rows], [spent for _, spent in rows]

    async def _path(self, laid: Laid | Exception) -> tuple[list[float] | Exception, Spent]:
        if isinstance(laid, Exception):
            return laid, Spent()
        body = {
            "model": self.model,
            "input": laid.ids,
            "task": "token_classify",
            "use_activation": True,
            "add_special_tokens": False,
        }
        try:
            found = await self._server.post(self._endpoint, body, _read)
        except Exception as error:
            return error, Spent()
        assert found is not None
        rows, said = found
        read = max(said, len(laid.ids))
        self.prompt_tokens += read
        try:
            if isinstance(rows, Exception):
                raise rows
            scores = [self._good(row) for row in _rows_of_steps(rows, laid)]
        except ValueError as error:
            return ValueError(f"critic: {self._server.name}: {error}"), self._spent(read)
        return scores, self._spent(read)

    def _good(self, row: list[float]) -> float:
        """The probability of the good label, of a row of labels."""
        if self.good_label is None and len(row) > 2:
            raise ValueError(f"expected probabilities of one or two labels, got {len(row)}; give good_label")
        label = len(row) - 1 if self.good_label is None else self.good_label
        if label >= len(row):
            raise ValueError(f"expected label {label} (good_label) among the model's, got {len(row)} labels")
        value = row[label]
        if not math.isfinite(value):
            raise ValueError(f"expected finite scores, got {value}; where the model runs in float16, take bfloat16")
        if not -_ROUNDED <= value <= 1.0 + _ROUNDED:
            raise ValueError(
                f"expected probabilities, got {value:g}; the server has to apply its activation (softmax or sigmoid)"
            )
        return min(max(value, 0.0), 1.0)

    def _spent(self, prompt_tokens: int) -> Spent:
        return Spent(cost=float(priced((prompt_tokens, self._price))), prompt_tokens=prompt_tokens)


class AsyncServedRewardCritic(ServedRewardCritic):
    """`ServedRewardCritic` with coroutines, for a generator whose ``propose`` is one; arguments as there.

    All calls come from one event loop.
    """

    async def score(self, candidates: Sequence[Node]) -> Scores:  # type: ignore[override]
        """As `ServedRewardCritic.score`."""
        return await self._values(candidates)

    async def step_scores(self, candidates: Sequence[Node]) -> list[list[float] | Exception]:  # type: ignore[override]
        """As `ServedRewardCritic.step_scores`."""
        return (await self._judged(candidates))[0]

    async def aclose(self) -> None:
        """Closes the connections. The next call opens new ones."""
        await self._server.aclose()


async def _ended(server: ServerClient) -> None:
    """Ends what is asked for in this event loop, and then the connections."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await server.aclose()


def _forever(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _read(answer: Any) -> tuple[list[list[float]] | Exception, int]:
    """The rows of an answer to one path, and the tokens that the server read for it.

    In the place of rows that cannot be read, what is wrong with them where the answer says that it took something:
    then it is not asked for again.
    """
    said = told_count(answer.get("usage"), "prompt_tokens") or 0
    try:
        (only,) = answer["data"]
        rows = [[math.nan if value is None else float(value) for value in row] for row in only["data"]]
        if not all(rows):
            raise ValueError("expected a row of probabilities for each token, got an empty one")
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        if not said:
            raise
        return ValueError(f"{type(error).__name__}: {error}"), said
    return rows, said


def _rows_of_steps(rows: list[list[float]], laid: Laid) -> list[list[float]]:
    """Those of the steps' last tokens, from rows of all tokens or of the step tags alone."""
    if len(rows) == len(laid.ids):
        return [rows[place] for place in laid.positions]
    tag = laid.ids[laid.positions[-1]]
    tags = [place for place, token in enumerate(laid.ids) if token == tag]
    if len(rows) != len(tags) or not set(laid.positions) <= set(tags):
        raise ValueError(
            f"expected the rows of {len(laid.ids)} tokens, or of {len(tags)} step tags (token {tag}), got {len(rows)}; "
            "give the step_tag that the server has (step_tag_id)"
        )
    by_place = dict(zip(tags, rows, strict=True))
    return [by_place[place] for place in laid.positions]
