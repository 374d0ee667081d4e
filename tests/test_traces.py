"""Traces as others read them: JSON lines and OpenTelemetry spans."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from by_hand import EASY
from scripted import Failing, ScriptedGenerator, TableCritic, World, WorldTask
from search_checks import searcher

import bavt_fast as bavt
from bavt_fast import traces
from bavt_fast.events import Event

BUDGET = bavt.Budget(tokens=120)
MIXED = World(seed=3, goal_share=0.0)  # with invalid steps, duplicates and dead ends


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# --- JSON lines


def test_a_file_holds_what_was_told(tmp_path: Path) -> None:
    events: list[Event] = []

    with traces.jsonl(tmp_path / "trace.jsonl") as trace:

        def both(event: Event) -> None:
            events.append(event)
            trace(event)

        result = searcher(MIXED, on_event=both).search("q", budget=BUDGET)
    lines = lines_of((tmp_path / "trace.jsonl").read_text())
    assert [line["kind"] for line in lines] == [event.kind for event in events]
    assert [line.get("question") for line in lines] == ["q"] + [None] * (len(lines) - 1)
    assert [line["tokens"] for line in lines] == [event.tokens for event in events]
    nodes = [line for line in lines if line["kind"] == "node"]
    assert [line["value"] for line in nodes] == result.tree.values[1:].tolist()
    assert [line["parent"] for line in nodes] == result.tree.parents[1:].tolist()
    assert tuple(line["steps"][0]["text"] for line in nodes) == result.texts[1:]
    reasons = [line["reason"] for line in lines if line["kind"] == "refusal"]
    assert reasons == [refusal.reason for refusal in result.refused] != []
    assert lines[-1]["reason"] == result.stop_reason
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_a_line_is_there_as_soon_as_it_is_told(tmp_path: Path) -> None:
    path, seen = tmp_path / "trace.jsonl", []
    trace = traces.jsonl(path)

    def listener(event: Event) -> None:
        trace(event)
        seen.append(path.read_text().count("\n"))

    searcher(EASY, on_event=listener).search("q", budget=BUDGET)
    assert seen == list(range(1, len(seen) + 1))
    trace.close()
    trace.close()  # a second time is no harm


def test_any_text_is_one_line(tmp_path: Path) -> None:
    """Line breaks, quotes, halves of a pair: also where the file's encoding would not take them."""
    text = 'a\n</script>"\u2028½\ud800'
    stream = io.StringIO()
    bavt.search(
        text, generator=lambda context, count: [text], budget=bavt.Budget(tokens=1), on_event=traces.jsonl(stream)
    )
    lines = lines_of(stream.getvalue())
    assert len(lines) == stream.getvalue().count("\n")
    assert lines[0]["question"] == text
    assert [line["steps"][0]["text"] for line in lines if line["kind"] == "node"] == [text + "\n"]
    assert not stream.closed


def test_searches_of_several_threads_share_a_file() -> None:
    stream = io.StringIO()
    trace = traces.jsonl(stream)

    def work(name: str) -> None:
        searcher(EASY, on_event=trace).search_many([f"{name}{i}" for i in range(5)], budget=BUDGET)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = lines_of(stream.getvalue())
    assert len({line["search"] for line in lines}) == 15
    assert sorted(line["question"] for line in lines if "question" in line) == sorted(
        f"{name}{i}" for name in "abc" for i in range(5)
    )


@pytest.mark.parametrize("bad", [3, None, io.BytesIO()])
def test_what_cannot_be_written_to_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="target: expected a path or a stream of text, got"):
        traces.jsonl(bad)


def test_what_failed_stands_in_it() -> None:
    stream = io.StringIO()
    failing = Failing(ScriptedGenerator(EASY), 1, lambda: RuntimeError("gone"))
    with pytest.raises(bavt.SearchError):
        bavt.search("q", generator=failing, task=WorldTask(EASY), budget=BUDGET, on_event=traces.jsonl(stream))
    cancel, stop = lines_of(stream.getvalue())[-2:]
    assert (cancel["kind"], cancel["error"]) == ("cancel", "RuntimeError: gone")
    assert (stop["kind"], stop["reason"], stop["error"]) == ("stop", "error", "RuntimeError: gone")


# --- spans


@pytest.fixture
def exported() -> Any:
    """A tracer, and what it exported by now."""
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    return provider.get_tracer("test"), exporter.get_finished_spans


def test_a_search_is_a_span_and_its_asks_are_within_it(exported: Any) -> None:
    tracer, finished = exported
    listener = traces.spans(tracer, model="tiny")
    with tracer.start_as_current_span("mine") as mine:
        result = searcher(MIXED, on_event=listener).search("q", budget=BUDGET)
    *asks, search, _ = finished()
    assert search.name == "invoke_agent bavt_fast"
    assert search.parent.span_id == mine.get_span_context().span_id
    about = search.attributes
    assert about["gen_ai.operation.name"] == "invoke_agent"
    assert about["gen_ai.agent.name"] == about["gen_ai.provider.name"] == "bavt_fast"
    assert about["gen_ai.usage.output_tokens"] == result.spent.tokens
    assert about["bavt.stop_reason"] == result.stop_reason
    assert {ask.name for ask in asks} == {"text_completion tiny"}
    assert {ask.parent.span_id for ask in asks} == {search.context.span_id}
    assert sum(ask.attributes["gen_ai.usage.output_tokens"] for ask in asks) == result.spent.tokens
    assert {ask.attributes["gen_ai.request.model"] for ask in asks} == {"tiny"}
    assert {ask.attributes["gen_ai.request.choice.count"] for ask in asks} == {1}
    assert {reason for ask in asks for reason in ask.attributes["gen_ai.response.finish_reasons"]} <= {"stop", "length"}
    scores = [event for event in search.events if event.name == "gen_ai.evaluation.result"]
    assert [score.attributes["gen_ai.evaluation.score.value"] for score in scores] == result.tree.values[1:].tolist()
    refusals = [event.attributes["bavt.reason"] for event in search.events if event.name == "bavt.refusal"]
    assert refusals == [refusal.reason for refusal in result.refused] != []


def test_names_are_those_of_the_conventions(exported: Any) -> None:
    names = pytest.importorskip("opentelemetry.semconv._incubating.attributes.gen_ai_attributes")
    known = {value for name, value in vars(names).items() if name.startswith("GEN_AI_")}
    operations = {value.value for value in names.GenAiOperationNameValues}
    tracer, finished = exported
    searcher(MIXED, on_event=traces.spans(tracer, model="tiny", content=True)).search("q", budget=BUDGET)
    used = {name for span in finished() for name in span.attributes}
    used |= {name for span in finished() for event in span.events for name in event.attributes}
    assert {name for name in used if name.startswith("gen_ai.")} - known == set()
    assert {name for name in used if not name.startswith(("gen_ai.", "bavt."))} == set()
    assert {span.attributes["gen_ai.operation.name"] for span in finished()} <= operations


def test_texts_are_recorded_only_where_it_is_asked_for(exported: Any) -> None:
    tracer, finished = exported
    searcher(EASY, on_event=traces.spans(tracer)).search("secret", budget=BUDGET)
    assert "secret" not in repr([(span.attributes, span.events) for span in finished()])
    searcher(EASY, on_event=traces.spans(tracer, content=True)).search("shown", budget=BUDGET)
    messages = json.loads(finished()[-1].attributes["gen_ai.input.messages"])
    assert messages == [{"role": "user", "parts": [{"type": "text", "content": "shown"}]}]
    assert "gen_ai.output.messages" in finished()[-2].attributes


def test_what_failed_is_an_error_of_its_span(exported: Any) -> None:
    tracer, finished = exported
    failing = Failing(ScriptedGenerator(EASY), 1, lambda: RuntimeError("gone"))
    listener = traces.spans(tracer)
    with pytest.raises(bavt.SearchError):
        bavt.search("q", generator=failing, task=WorldTask(EASY), budget=BUDGET, on_event=listener)
    ask, search = finished()[-2:]
    for span in (ask, search):
        assert span.status.status_code.name == "ERROR"
        assert span.attributes["error.type"] == "RuntimeError"
        assert span.events[-1].name == "exception"
    assert ask.attributes["bavt.cancelled"]


def test_spans_of_searches_side_by_side_and_of_one_that_was_left(exported: Any) -> None:
    tracer, finished = exported
    with traces.spans(tracer) as listener:
        searcher(EASY, on_event=listener).search_many(["a", "b", "c"], budget=BUDGET)
        before = len(finished())
        assert sum(span.name.startswith("invoke_agent") for span in finished()) == 3
        search = bavt.Search("d", task=WorldTask(EASY), budget=bavt.Budget(tokens=400), on_event=listener)
        search.ask(2)
        assert len(finished()) == before
    left = finished()[before:]
    assert [span.name.split()[0] for span in left] == ["text_completion"] * 2 + ["invoke_agent"]
    assert all(span.attributes["bavt.cancelled"] for span in left[:2])


@pytest.mark.parametrize("goes_on", [False, True])
def test_what_is_told_after_the_stop_begins_no_search_again(goes_on: bool, exported: Any) -> None:
    tracer, finished = exported
    listener, stream = traces.spans(tracer), io.StringIO()
    trace = traces.jsonl(stream)
    late = []

    def all_of_them(event: Event) -> None:
        late.append(event.after_stop)
        listener(event)
        trace(event)

    search = bavt.Search("q", task=WorldTask(EASY), budget=bavt.Budget(tokens=200), on_event=all_of_them)
    first, second, third = search.ask(3)
    search.tell(first, ["a"])
    search.stop()
    assert not any(late)
    search.tell(second, ["b"])
    search.cancel(third)
    assert late[-4:] == [False, True, True, True]
    assert [span.name.split()[0] for span in finished()] == ["text_completion"] * 3 + ["invoke_agent"]
    assert not listener._searches
    assert not trace._named
    if goes_on:
        search.extend(bavt.Budget(tokens=100))
        search.ask(1)
        search.stop()
        assert late[-2:] == [False, False]
        assert [span.name.split()[0] for span in finished()[4:]] == ["text_completion", "invoke_agent"]
    lines = lines_of(stream.getvalue())
    assert [line["kind"] for line in lines if "question" in line] == ["ask"] * (1 + goes_on)


def test_the_global_tracer_does_nothing_until_it_is_set_up() -> None:
    pytest.importorskip("opentelemetry")
    result = bavt.Searcher(ScriptedGenerator(EASY), TableCritic(EASY), WorldTask(EASY), on_event=traces.spans()).search(
        "q", budget=BUDGET
    )
    assert result.stop_reason == "budget"
    with pytest.raises(TypeError, match="content: expected True or False, got 'no'"):
        traces.spans(content="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="tracer: expected an OpenTelemetry tracer, got 3"):
        traces.spans(3)  # type: ignore[arg-type]
    for name, value in (("model", 5), ("provider", None)):
        with pytest.raises(TypeError, match=f"{name}: expected a str, got {value}"):
            traces.spans(**{name: value})  # type: ignore[arg-type]


def test_without_opentelemetry_it_is_said_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from bavt_fast import traces\n"
        "try: traces.spans()\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "spans: needs opentelemetry-api; install it with: pip install 'bavt_fast[otel]'\n", (
        done.stderr
    )
