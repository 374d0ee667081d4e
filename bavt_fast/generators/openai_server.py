"""Steps from a server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, transformers serve, or a hosted one.

    generator = OpenAIGenerator("my-model", base_url="http://127.0.0.1:8000/v1", delimiter="\\n")
    results = asyncio.run(bavt.Searcher(generator, task=task, wave=64).asearch_many(questions, budget=budget))

`Searcher.search` and `search_many` work too. Each candidate is a request of its own, many are in flight at once, and
the server's own count of tokens is what is charged. Where a server does not count, the tokens or probabilities that it
lists do; where it gives none of these, the whole limit is charged: never less than what was taken.

The key comes from the environment (OPENAI_API_KEY) or from `api_key`, and is never part of an error or a repr.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bavt_fast._checks import as_flag
from bavt_fast.budget import Spent
from bavt_fast.generators import sglang_generate
from bavt_fast.generators.hidden_states import FileStates, HiddenStateError, source_of
from bavt_fast.generators.kept_prompts import KeptPrompts
from bavt_fast.generators.served_answers import (
    DROPPED,
    Usage,
    ending,
    is_known,
    listed_ids,
    log_probabilities,
    says_no_room,
    says_nothing,
    text_of,
    wants_other_limit,
)
from bavt_fast.generators.served_steps import (
    as_delimiters,
    as_sampling,
    behind,
    candidate_seed,
    goes_on,
    joined,
    paying,
    spent_on,
    with_failed,
)
from bavt_fast.protocols import (
    DeadlinePassed,
    GenerationError,
    GenerationStatistics,
    Sampling,
    Step,
    StepRequest,
)
from bavt_fast.request_checks import check_requests
from bavt_fast.server_client import OutOfTime, ServerClient, shown

__all__ = ["OpenAIGenerator", "ServerStatistics"]

_log = logging.getLogger("bavt_fast")
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
_DECIDED = ("prompt", "messages", "max_tokens", "max_completion_tokens", "stop")
"""Fields of a request that follow from what is asked: another limit would break the budget."""
_ONE_ANSWER = {"n": 1, "best_of": 1, "stream": False, "echo": False}
"""Fields that have to be so, or not one answer comes that is the step alone."""


class ServerStatistics(NamedTuple):
    """What a generator has asked of its server.

    Attributes:
        requests: that were answered. retries: that were sent again. failures: that were given up.
        unmetered: answers without a usable count of tokens, for which the whole limit was charged.
        generated_tokens, prompt_tokens, cached_tokens: as the server counts them.
    """

    requests: int = 0
    retries: int = 0
    failures: int = 0
    unmetered: int = 0
    generated_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class OpenAIGenerator:
    """A step generator over a server with OpenAI's protocol.

    Args:
        model: its name on the server.
        base_url: such as "http://127.0.0.1:8000/v1"; None for OPENAI_BASE_URL, or OpenAI.
        api_key: None for OPENAI_API_KEY; a server that wants none is given "none".
        delimiter: text that ends a step, or several.
        temperature, top_p, top_k, min_p: how to sample, where a request does not say. The last two are extensions of
            vLLM and SGLang, and are sent only where they are set.
        chat: ask `chat/completions`: the prompt is the user's turn, and the steps so far begin the assistant's.
        generate_endpoint: ask SGLang's own ``/generate`` in place of OpenAI's ``/completions``. ``extra_body`` are then
            its fields (`bavt_fast.generators.sglang_generate`). Not in a chat.
        system: system prompt, in a chat.
        continue_body: what is sent besides when an assistant's turn is to be gone on with; None for vLLM's fields. Not
            those that ``extra_body`` may not have.
        token_ids: send contexts as the token ids that the model made (``return_token_ids``, an extension of vLLM and
            SGLang), so that no text is tokenised anew. Not in a chat.
        logprobs: ask for the probability of every token, for `Step.log_probability`.
        stop_is_returned: ask the server to return the stop string with the text (``include_stop_str_in_output`` of
            vLLM, ``no_stop_trim`` of SGLang); "always" for one that does so unasked and takes no such field
            (``transformers serve``). Where it does not, the delimiter that the server names is appended, or else the
            first one.
        hidden_layer: steps carry the hidden states of this layer, for a critic that reads them: "last" (behind the
            final norm), or a layer's number as a str; None for none, and for "last" beside a ``hidden_directory``.
            `bavt_fast.generators.hidden_states` has what the server needs.
        hidden_directory: the folder in which vLLM leaves them; None for SGLang, which sends them.
        max_in_flight: requests out at once.
        timeout_s: of one request; a question's deadline comes before it.
        retries: times that a request is sent again after a dropped connection, a timeout, or a status of 408, 409, 425,
            429 or 5xx, with longer and longer waits, or after what the server asks for (Retry-After). A server that
            asks so with 429 or 503 is asked for nothing until then, and a question whose deadline comes first ends.
        extra_body: fields sent with every request; not those that a request decides itself (``prompt``, ``messages``,
            ``max_tokens``, ``max_completion_tokens``, ``stop``), nor those with which not one answer comes (``n``,
            ``best_of``, ``stream``, ``echo``).

    Raises:
        ModuleNotFoundError: the package aiohttp is not installed.
        TypeError, ValueError: an argument is not what it should be.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        delimiter: str | Sequence[str] = "\n",
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float | None = None,
        chat: bool = False,
        generate_endpoint: bool = False,
        system: str | None = None,
        continue_body: Mapping[str, Any] | None = None,
        token_ids: bool = False,
        logprobs: bool = False,
        stop_is_returned: bool | Literal["always"] = False,
        hidden_layer: str | None = None,
        hidden_directory: str | os.PathLike[str] | None = None,
        max_in_flight: int = 64,
        timeout_s: float = 120.0,
        retries: int = 5,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        self._server = ServerClient(
            base_url, api_key=api_key, max_in_flight=max_in_flight, timeout_s=timeout_s, retries=retries
        )
        if not isinstance(model, str) or not model:
            raise ValueError(f"model: expected the model's name on the server, got {model!r:.80}")
        if token_ids and chat:
            raise ValueError("token_ids: expected False in a chat, whose template stands between text and tokens")
        if generate_endpoint and chat:
            raise ValueError("generate_endpoint: expected False in a chat; /generate knows no chat template")
        if stop_is_returned not in (False, True, "always"):
            raise ValueError(f"stop_is_returned: expected False, True or 'always', got {stop_is_returned!r:.80}")
        if system is not None and not chat:
            raise ValueError("system: expected None without chat=True; write it into the question")
        if system is not None and not isinstance(system, str):
            raise TypeError(f"system: expected a str or None, got {system!r:.80}")
        self.base_url = base_url
        self.model = model
        self.delimiters = as_delimiters(delimiter)
        self.temperature, self.top_p, self.top_k, self.min_p = as_sampling(temperature, top_p, top_k, min_p)
        self.chat, self.system = as_flag("chat", chat), system
        self.generate_endpoint = as_flag("generate_endpoint", generate_endpoint)
        self._generate_address = sglang_generate.address_of(base_url) if generate_endpoint else None
        self.continue_body = _fields("continue_body", _CONTINUE if continue_body is None else continue_body)
        self.token_ids, self.logprobs = as_flag("token_ids", token_ids), as_flag("logprobs", logprobs)
        self.stop_is_returned = stop_is_returned
        self._hidden = source_of(hidden_layer, hidden_directory)
        if generate_endpoint and isinstance(self._hidden, FileStates):
            raise ValueError("hidden_directory: expected None with generate_endpoint; SGLang sends states")
        self.hidden_layer = None if self._hidden is None else self._hidden.layer
        self.extra_body = _fields("extra_body", {} if extra_body is None else extra_body)
        if generate_endpoint:
            sglang_generate.check_fields(self.extra_body)
        else:
            _check_fields("extra_body", self.extra_body)
            _check_fields("continue_body", self.continue_body)
        self._limit_name = "max_tokens"
        self._prompt_ids = KeptPrompts()
        self._counts = dict.fromkeys(("unmetered", "generated_tokens", "prompt_tokens", "cached_tokens"), 0)
        self._stateless = 0
        self._told: set[str] = set()  # reasons that were logged

    def server_statistics(self) -> ServerStatistics:
        """What has been asked of the server until now."""
        server = self._server
        return ServerStatistics(server.requests, server.retried, server.failed + self._stateless, **self._counts)

    def statistics(self) -> GenerationStatistics:
        """The part of it that every generator has, for `SearchResult.generation`."""
        now = self.server_statistics()
        return GenerationStatistics(
            generated_tokens=now.generated_tokens,
            prompt_tokens=now.prompt_tokens,
            computed_prompt_tokens=now.prompt_tokens - now.cached_tokens,
            saved_prompt_tokens=now.cached_tokens,
        )

    def encode(self, text: str) -> NDArray[np.float32]:
        """(1, H): the hidden state of a text's last token, as `load_critic` asks a model for it.

        Raises:
            TypeError: the generator has no ``hidden_layer``.
            GenerationError: the server cannot be asked, or gives no such state.
        """
        with ThreadPoolExecutor(1) as thread:  # an event loop of its own, also where one is running
            return thread.submit(asyncio.run, self._encode(text)).result()

    async def _encode(self, text: str) -> NDArray[np.float32]:
        if self._hidden is None:
            raise TypeError("hidden_layer: expected a generator with one, such as hidden_layer='last', got none")
        plain = copy.copy(self)
        plain.chat, plain.token_ids, plain.logprobs, plain._server = False, False, False, copy.copy(self._server)
        plain._limit_name = "max_tokens"
        plain._server.unbind()
        try:
            request = StepRequest(text, sampling=Sampling(0.0))
            step = await plain._ask(request, 0, 1, None)
        finally:
            await plain.aclose()
        if step is None:
            raise GenerationError(f"{self._server.name}: no room behind {text!r:.80}")
        return np.asarray(step.hidden)[None]

    async def aclose(self) -> None:
        """Closes the connections, in the event loop that they were made in. The next ask opens new ones."""
        await self._server.aclose()

    def __repr__(self) -> str:
        return f"OpenAIGenerator({self.model!r}, base_url={shown(self.base_url)!r})"

    # ---- asks

    async def propose(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> list[list[Step] | Exception]:
        """`StepGenerator.propose` as a coroutine. An ask that fails gets its error; the others are not disturbed."""
        check_requests((), states=states, counts=counts, limits=limits)
        asks = list(zip(states, counts, limits, strict=True))
        if len(asks) == 1:
            return [await self._answer(*asks[0])]  # in the caller's task
        return await asyncio.gather(*(self._answer(request, count, limit) for request, count, limit in asks))

    async def _answer(self, request: StepRequest, count: int, limit: int) -> list[Step] | Exception:
        if count <= 0 or limit <= 0:
            return []
        # One for all candidates: a place that is free since another's time is over is not taken then.
        deadline = None if request.seconds_left is None else time.monotonic() + request.seconds_left
        if count == 1:
            try:
                only = await self._step(request, 0, limit, deadline)
            except Exception as error:
                return error
            return [] if only is None else [only]
        found = await asyncio.gather(
            *(self._step(request, candidate, limit, deadline) for candidate in range(count)), return_exceptions=True
        )
        steps = [step for step in found if isinstance(step, Step)]
        errors = [error for error in found if isinstance(error, Exception)]
        for left in found:
            if isinstance(left, BaseException) and not isinstance(left, Exception):
                raise left
        late = [error for error in errors if isinstance(error, DeadlinePassed)]
        if len(late) == len(found):
            return min(late, key=lambda error: error.is_known)
        # What came is used; of the others the most that they may have made is charged.
        steps += [_late(request, limit) for error in late if not error.is_known]
        errors = [error for error in errors if not isinstance(error, DeadlinePassed)]
        return with_failed(steps, errors, spent_on(errors))

    async def _step(self, request: StepRequest, candidate: int, limit: int, deadline: float | None) -> Step | None:
        """One candidate; None where the context leaves no room for a step.

        A step has to say something: behind a delimiter with nothing but white space before it the model goes on, as
        long as what may be generated and read for it is enough for another request.
        """
        step = last = await self._ask(request, candidate, limit, deadline)
        while step is not None and last is not None:
            reads = last.prompt_tokens and last.prompt_tokens + last.tokens
            if not goes_on(step, limit, self.delimiters, reads, request.sampling.max_prompt_tokens):
                break
            try:
                last = await self._ask(behind(request, step), candidate, limit - step.tokens, deadline)
            except DeadlinePassed as late:
                return step if late.is_known else joined(step, _late(request, limit, step))
            except GenerationError as error:  # the next ask will meet it
                return paying(step, spent_on([error]))
            if last is not None:
                step = joined(step, last)
        return step

    async def _ask(self, request: StepRequest, candidate: int, limit: int, deadline: float | None) -> Step | None:
        """One answer of the server."""
        hidden = {} if self._hidden is None else self._hidden.fields()
        body = self._body(request, candidate, limit, hidden)
        other_limit = False

        def is_none(said: str) -> bool:
            nonlocal other_limit
            other_limit = "max_tokens" in body and self.chat and wants_other_limit(said)
            # A context that has grown too long is closed, also one with a prompt of its own; a question is an error.
            return other_limit or (request.node.parent is not None and says_no_room(said))

        path = self._generate_address or ("/chat/completions" if self.chat else "/completions")
        try:
            found = await self._server.post(
                path, body, lambda answer: self._read(request, answer, limit), deadline=deadline, none_if=is_none
            )
        except OutOfTime as late:
            # What the server did by now is not known.
            raise DeadlinePassed(f"{self._server.name}: no answer by the deadline", is_known=not late.asked) from None
        except GenerationError as error:
            raise sglang_generate.explained(error) from None
        if other_limit:
            self._limit_name = "max_completion_tokens"
            return await self._ask(request, candidate, limit, deadline)
        if found is None:
            return None
        step, choice = found
        if self._hidden is not None:
            try:
                step.hidden = await self._hidden.take(hidden, choice)
            except HiddenStateError as error:
                self._stateless += 1
                spent = Spent(step.tokens, prompt_tokens=step.prompt_tokens)
                raise GenerationError(f"{self._server.name}: {error}", spent) from None
        return step

    # ---- what is sent

    def _body(self, request: StepRequest, candidate: int, limit: int, hidden: Mapping[str, Any]) -> dict[str, Any]:
        wanted = request.sampling
        extra: dict[str, Any] = {}
        for name in ("top_k", "min_p"):
            value = getattr(wanted, name) if getattr(wanted, name) is not None else getattr(self, name)
            if value is not None:
                extra[name] = value
        if self.stop_is_returned is True:
            extra["include_stop_str_in_output"] = True
        body: dict[str, Any] = {
            "model": self.model,
            self._limit_name: limit,
            "stop": list(self.delimiters),
            "temperature": self.temperature if wanted.temperature is None else wanted.temperature,
            "top_p": self.top_p if wanted.top_p is None else wanted.top_p,
            "seed": candidate_seed(request.seed, candidate),
        }
        if self.logprobs:
            body["logprobs"] = True if self.chat else 1
        if self.chat:
            body["messages"] = self._messages(request)
            if body["messages"][-1]["role"] == "assistant":
                extra |= self.continue_body
        else:
            body["prompt"] = self._prompt(request)
        if self.token_ids:
            extra["return_token_ids"] = True
        if self.generate_endpoint:
            return sglang_generate.request_of({**body, **hidden, **extra}, self.extra_body)
        return {**body, **self.extra_body, **hidden, **extra}

    def _messages(self, request: StepRequest) -> list[dict[str, str]]:
        prompt, steps = request.node.context()
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages.append({"role": "user", "content": prompt})
        if steps:
            messages.append({"role": "assistant", "content": "".join(step.text for step in steps)})
        return messages

    def _prompt(self, request: StepRequest) -> str | list[int]:
        """As text; as token ids where the server has told those of the prompt and of every step since."""
        if self.token_ids:
            prompt, steps = request.node.context()
            ids = self._prompt_ids.get(prompt)
            if ids is not None and all(step.token_ids for step in steps):
                return [*ids, *(token for step in steps for token in step.token_ids)]
        return request.text

    # ---- what comes back

    def _read(self, request: StepRequest, answer: Any, limit: int) -> tuple[Step, Mapping[str, Any]]:
        """The step in an answer, and what of the answer it was in.

        Raises:
            GenerationError: there is none, but the answer was billed: it is not asked for again.
            ValueError, TypeError, AttributeError, LookupError: there is none, and nobody says that it took anything.
        """
        usage = Usage.of(sglang_generate.usage_of(answer) if self.generate_endpoint else answer)
        try:
            sent = sglang_generate.completion_of(answer) if self.generate_endpoint else answer
            return self._step_in(request, sent, usage, limit)
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            if not usage.was_billed:
                raise
            self._count(usage.made or 0, usage)
            spent = Spent(usage.made or 0, prompt_tokens=usage.charged(request))
            raise GenerationError(f"{self._server.name}: {type(error).__name__}: {error}", spent) from None

    def _step_in(self, request: StepRequest, answer: Any, usage: Usage, limit: int) -> tuple[Step, Mapping[str, Any]]:
        said, choice = text_of(answer, self.chat, usage)
        is_full = usage.made is not None and usage.made >= limit
        text, reason = ending(said, choice, self.delimiters, bool(self.stop_is_returned), is_full)
        self._tell_of(choice.get("finish_reason"))
        probabilities = log_probabilities(choice, self.logprobs)
        token_ids, listed = listed_ids(choice, "token_ids")
        prompt_ids, prompt_listed = listed_ids(choice if choice.get("prompt_token_ids") else answer, "prompt_token_ids")
        counted = None if usage.made == 0 and not says_nothing(said, choice) else usage.made
        tokens = self._tokens(counted, max(len(probabilities), listed), limit)
        self._count(tokens, usage)
        self._remember_prompt(request, prompt_ids)
        step = Step(
            text,
            tokens,
            reason,
            usage.charged(request, prompt_listed),
            token_ids=token_ids if self.token_ids else (),
            log_probability=sum(probabilities) if probabilities else None,
            cached_tokens=usage.cached,
        )
        return step, choice

    def _tell_of(self, reason: Any) -> None:
        """Once: a search whose steps are all dropped spends its budget on nothing."""
        if not isinstance(reason, str) or reason in self._told or (is_known(reason) and reason not in DROPPED):
            return
        self._told.add(reason)
        if reason in DROPPED:
            became = "such a step is charged and dropped"
        else:
            became = "it is taken for 'stop', or for 'length' where the text is as long as it may be"
        _log.warning("%s: finish_reason %.80r: %s; this is said once", self._server.name, reason, became)

    def _count(self, tokens: int, usage: Usage) -> None:
        taken = ("generated_tokens", tokens), ("prompt_tokens", usage.read), ("cached_tokens", usage.cached)
        for name, value in taken:
            self._counts[name] += value

    def _tokens(self, counted: int | None, listed: int, limit: int) -> int:
        """What is charged: the server's count, or the tokens that it lists where they are more."""
        if counted is not None:
            return max(counted, listed, 1)
        if listed:
            return listed
        self._counts["unmetered"] += 1
        return limit

    def _remember_prompt(self, request: StepRequest, ids: tuple[int, ...]) -> None:
        """Keeps the ids of a prompt that was sent as text."""
        if not (self.token_ids and ids):
            return
        prompt, steps = request.node.context()
        if not steps:
            self._prompt_ids.keep(prompt, ids)


def _late(request: StepRequest, limit: int, first: Step | None = None) -> Step:
    """What a request is charged that was dropped at its deadline: all that was reserved, but for what came before."""
    most_read = request.sampling.max_prompt_tokens or 0
    if first is None:
        return Step("", limit, "deadline", most_read)
    return Step("", limit - first.tokens, "deadline", max(0, most_read - first.prompt_tokens))


def _check_fields(argument: str, fields: Mapping[str, Any]) -> None:
    """Raises ValueError for fields with which no budget holds, or not one answer comes."""
    for name in _DECIDED:
        if name in fields:
            raise ValueError(f"{argument}: expected no {name}, which follows from what is asked, got one")
    for name, only in _ONE_ANSWER.items():
        value = fields.get(name)
        if value not in (only, None):
            raise ValueError(f"{argument}: expected {only} as {name}: a request is for one answer, got {value!r:.40}")


def _fields(name: str, body: Any) -> dict[str, Any]:
    if not isinstance(body, Mapping):
        raise TypeError(f"{name}: expected a dictionary of fields, got {body!r:.80}")
    return dict(body)
