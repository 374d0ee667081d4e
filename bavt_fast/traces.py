"""Listeners for ``on_event``: JSON lines for a file, spans for OpenTelemetry.

    with traces.jsonl("search.jsonl") as trace:
        Searcher(generator, critic, task, on_event=trace).search(question, budget=budget)

Each listener may hear many searches at once, from any thread.
"""

from __future__ import annotations

import io
import json
import os
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from bavt_fast._checks import as_flag, message_of
from bavt_fast._version import __version__
from bavt_fast.events import Event

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

__all__ = ["JsonLines", "Spans", "jsonl", "spans"]

_FINISH = {"delimiter": "stop", "end": "stop", "limit": "length", "deadline": "length"}
"""How a step ended, in the words of the conventions."""


def jsonl(target: str | os.PathLike[str] | TextIO) -> JsonLines:
    """A listener that writes one JSON object a line: the fields of `Event` that say something, and the time of day.

    The question stands in a search's first line alone. Each line is written as it comes: a file can be followed, and a
    kill costs the line that was being written.

    Args:
        target: a path, which is written anew, or a stream of text, which stays open.

    Raises:
        OSError: the file cannot be written.
        TypeError: the target is neither.
    """
    return JsonLines(target)


def spans(
    tracer: Tracer | None = None, *, model: str | None = None, provider: str = "bavt_fast", content: bool = False
) -> Spans:
    """A listener that makes OpenTelemetry spans by the GenAI semantic conventions.

    There is one for each search (``invoke_agent``), and in it one for each ask (``text_completion``), until its tell;
    those that are out when the search stops end with it, and what is told of them later is in no span.
    Scores and refusals are events of the search's span. A search's span is a child of the span that was current when it
    began. Needs opentelemetry-api: ``pip install 'bavt_fast[otel]'``.

    Args:
        tracer: the global provider's, named ``bavt_fast``, for None.
        model: name of the model, for ``gen_ai.request.model``.
        provider: who runs it, for ``gen_ai.provider.name``.
        content: record the question and the steps too. They may be private.

    Raises:
        ModuleNotFoundError: opentelemetry-api is not installed.
        TypeError: an argument is something else.
    """
    return Spans(tracer, model=model, provider=provider, content=content)


class JsonLines:
    """See `jsonl`."""

    def __init__(self, target: str | os.PathLike[str] | TextIO) -> None:
        stream: Any = target
        self._own = isinstance(target, (str, os.PathLike))
        if isinstance(target, (str, os.PathLike)):
            stream = open(target, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 (see close)
        elif not callable(getattr(stream, "write", None)) or isinstance(stream, (io.RawIOBase, io.BufferedIOBase)):
            raise TypeError(f"target: expected a path or a stream of text, got {target!r:.80}")
        self._stream: TextIO = stream
        self._named: set[str] = set()  # searches whose question is written
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._stream.write(json.dumps(self._record(event)) + "\n")

    def _record(self, event: Event) -> dict[str, Any]:
        record: dict[str, Any] = {"time": time.time(), "kind": event.kind, "search": event.search}
        if event.search not in self._named and not event.after_stop:
            self._named.add(event.search)
            record["question"] = event.question
        if event.kind == "stop":
            self._named.discard(event.search)
        record |= {"at_s": event.at_s, "tokens": event.tokens, "remaining_ratio": event.remaining_ratio}
        for name in ("node", "parent", "ticket", "seed", "value", "reason"):
            if (said := getattr(event, name)) is not None:
                record[name] = said
        if event.kind in ("ask", "tell"):
            record["count"] = event.count
        if event.kind == "ask":
            record["limit"] = event.limit
        if event.steps or event.kind == "tell":
            record["steps"] = [
                {
                    "text": step.text,
                    "tokens": step.tokens,
                    "prompt_tokens": step.prompt_tokens,
                    "finish_reason": step.finish_reason,
                }
                for step in event.steps
            ]
        if event.error is not None:
            record["error"] = f"{type(event.error).__name__}: {message_of(event.error)}"
        return record

    def close(self) -> None:
        """Closes the file, if it is our own."""
        with self._lock:
            if self._own:
                self._stream.close()
            elif callable(flush := getattr(self._stream, "flush", None)):
                flush()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Open:
    """The spans of one search that have not ended."""

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self.context = context
        self.asks: dict[int, Span] = {}  # by ticket


class Spans:
    """See `spans`."""

    def __init__(self, tracer: Tracer | None, *, model: str | None, provider: str, content: bool) -> None:
        try:
            from opentelemetry import trace
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "spans: needs opentelemetry-api; install it with: pip install 'bavt_fast[otel]'", name=error.name
            ) from error
        if tracer is not None and not callable(getattr(tracer, "start_span", None)):
            raise TypeError(f"tracer: expected an OpenTelemetry tracer, got {tracer!r:.80}")
        for name, value in (("model", "" if model is None else model), ("provider", provider)):
            if not isinstance(value, str):
                raise TypeError(f"{name}: expected a str, got {value!r:.80}")
        self._trace: Any = trace
        self._tracer = trace.get_tracer("bavt_fast", __version__) if tracer is None else tracer
        self._common: dict[str, Any] = {"gen_ai.provider.name": provider}
        if model is not None:
            self._common["gen_ai.request.model"] = model
        self._ask_name = "text_completion" if model is None else f"text_completion {model}"
        self._content = as_flag("content", content)
        self._searches: dict[str, _Open] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            search = self._searches.get(event.search)
            if search is None:
                if event.after_stop:
                    return
                search = self._searches[event.search] = self._begun(event)
            getattr(self, f"_{event.kind}")(search, event)

    def close(self) -> None:
        """Ends the spans of searches that have not stopped."""
        with self._lock:
            for search in self._searches.values():
                self._end(search)
            self._searches.clear()

    def __enter__(self) -> Spans:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begun(self, event: Event) -> _Open:
        attributes = {
            **self._common,
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": "bavt_fast",
            "gen_ai.agent.version": __version__,
            "bavt.search.id": event.search,
        }
        if self._content:
            attributes["gen_ai.input.messages"] = _message("user", event.question)
        span = self._tracer.start_span("invoke_agent bavt_fast", attributes=attributes)
        return _Open(span, self._trace.set_span_in_context(span))

    def _ask(self, search: _Open, event: Event) -> None:
        attributes: dict[str, Any] = {
            **self._common,
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.choice.count": event.count,
            "gen_ai.request.max_tokens": event.limit,
            "bavt.node": event.node,
            "bavt.remaining_ratio": event.remaining_ratio,
        }
        if event.seed is not None:
            attributes["gen_ai.request.seed"] = event.seed
        assert event.ticket is not None
        search.asks[event.ticket] = self._tracer.start_span(
            self._ask_name, context=search.context, attributes=attributes
        )

    def _tell(self, search: _Open, event: Event) -> None:
        assert event.ticket is not None
        span = search.asks.pop(event.ticket, None)
        if span is None:  # it was asked before anybody listened
            return
        span.set_attributes(
            {
                "gen_ai.usage.output_tokens": sum(step.tokens for step in event.steps),
                "gen_ai.usage.input_tokens": sum(step.prompt_tokens for step in event.steps),
                "gen_ai.usage.cache_read.input_tokens": sum(step.cached_tokens for step in event.steps),
                "gen_ai.response.finish_reasons": [_FINISH[step.finish_reason] for step in event.steps],
                "bavt.new_states": event.count,
            }
        )
        if self._content:
            messages = _message("assistant", *[step.text for step in event.steps])
            span.set_attribute("gen_ai.output.messages", messages)
        span.end()

    def _refusal(self, search: _Open, event: Event) -> None:
        search.span.add_event("bavt.refusal", {"bavt.node": event.node or 0, "bavt.reason": event.reason or ""})

    def _node(self, search: _Open, event: Event) -> None:
        attributes: dict[str, Any] = {
            "gen_ai.evaluation.name": "value",
            "bavt.node": event.node or 0,
            "bavt.parent": event.parent or 0,
        }
        if event.value is not None:
            attributes["gen_ai.evaluation.score.value"] = event.value
        search.span.add_event("gen_ai.evaluation.result", attributes)

    def _cancel(self, search: _Open, event: Event) -> None:
        assert event.ticket is not None
        span = search.asks.pop(event.ticket, None)
        if span is not None:
            self._fail(span, event.error)
            span.set_attribute("bavt.cancelled", True)
            span.end()

    def _stop(self, search: _Open, event: Event) -> None:
        search.span.set_attributes({"gen_ai.usage.output_tokens": event.tokens, "bavt.stop_reason": event.reason or ""})
        self._fail(search.span, event.error)
        self._end(search)
        del self._searches[event.search]

    def _fail(self, span: Span, error: Exception | None) -> None:
        if error is not None:
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(self._trace.StatusCode.ERROR, message_of(error))

    def _end(self, search: _Open) -> None:
        for span in search.asks.values():
            span.set_attribute("bavt.cancelled", True)
            span.end()
        search.asks.clear()
        search.span.end()


def _message(role: str, *texts: str) -> str:
    """Messages as the conventions write them where a span takes no structures."""
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]} for text in texts])
