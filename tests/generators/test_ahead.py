"""Passes that are queued before it is read which rows the one before has ended give what passes one by one give."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from model_families import build_model, build_tokenizer  # noqa: E402
from random_steps import difference, steps_of  # noqa: E402
from recorded_graphs import as_on_a_gpu  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.generators import contexts, static_decode  # noqa: E402
from bavt_fast.generators.forward import Forward  # noqa: E402
from bavt_fast.generators.kv_cache import KeyValueWindow  # noqa: E402
from bavt_fast.generators.sampling import COLUMNS, Sampler  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import GenerationError, Node, Step, StepRequest  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402

STOPS = ("e", "a")
PROMPTS = ("the fox ran over the hill ", "the fox ", "and so it was that nobody came to ", "x")


def seeds(count: int) -> list[Any]:
    """So many, all but two of them marked as slow."""
    return [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, count))]


def plain(family: str = "llama", **options: Any) -> TorchGenerator:
    return TorchGenerator(build_model(family), build_tokenizer(), **{"delimiter": STOPS, **options})


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows grow, and are moved, every few passes."""
    monkeypatch.setattr(static_decode, "_COLUMNS", (32, 48, 64, 96, 128))
    monkeypatch.setattr(static_decode, "_SPARE", 2)


class Stream:
    """A stream of random asks, from the prompts and behind steps that were told, some of which are given up.

    What comes back is compared with what `expected` proposes for the same ask alone.
    """

    def __init__(self, generator: TorchGenerator, expected: TorchGenerator, seed: int) -> None:
        self.generator, self.expected = generator, expected
        self.random = random.Random(seed)
        self.nodes = [Node(None, prompt) for prompt in PROMPTS]
        self.out: dict[int, tuple[StepRequest, int, int]] = {}
        self.tickets = self.charged = self.compared = self.failed = 0

    def ask(self, most: int) -> None:
        for _ in range(self.random.randrange(most + 1)):
            node = self.random.choice(self.nodes[:4] + self.nodes[-12:])
            tried = node.tried if self.random.random() < 0.7 else ()
            request = StepRequest(node, self.random.getrandbits(60), tried)
            count, limit = self.random.choice((1, 1, 1, 3)), self.random.choice((1, 2, 4, 9, 20))
            self.out[self.tickets] = request, count, limit
            self.generator.submit([self.tickets], [request], [count], [limit])
            self.tickets += 1

    def collect(self) -> None:
        for ticket, answer in self.generator.collect():
            request, count, limit = self.out.pop(ticket)
            if isinstance(answer, Exception):
                assert isinstance(answer, GenerationError)
                self.charged += answer.spent.tokens
                self.failed += 1
                continue
            self.charged += sum(step.tokens for step in answer)
            [wanted] = self.expected.propose([request], [count], [limit])
            assert isinstance(wanted, list)
            assert difference(answer, wanted) == "", (request.node.context(), count, limit)
            self.compared += 1
            for step in answer:
                request.node.add_try(step)
                if not step.is_cut:
                    self.nodes.append(Node(None, None, request.node, step))

    def give_up(self, share: float) -> None:
        given_up = [ticket for ticket in self.out if self.random.random() < share]
        for ticket, spent in self.generator.discard(given_up).items():
            _, count, limit = self.out.pop(ticket)
            assert 0 <= spent.tokens <= count * limit
            self.charged += spent.tokens

    def run(self, rounds: int, give_up: float = 0.0) -> None:
        for _ in range(rounds):
            self.ask(6)
            if self.out:
                self.collect()
            if self.random.random() < 0.3:
                self.give_up(give_up)
        while self.out:
            self.collect()
        assert self.charged == self.generator.statistics().generated_tokens
        scheduler: Any = self.generator._scheduler
        assert not scheduler._unread
        assert not scheduler.batch.rows
        free = scheduler.sampler._free
        assert sorted(free) == list(range(len(scheduler.sampler._count))), "a record is lost, or was given back twice"


@pytest.mark.parametrize("seed", seeds(6))
@pytest.mark.parametrize("graphs", [True, False])
def test_random_streams(seed: int, graphs: bool, small_buckets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks of many sizes that come and go, some given up in mid-step; a store that evicts; few and many rows."""
    options: dict[str, Any] = {
        "max_batch": (2, 5, 64)[seed % 3],
        "store_bytes": (0, 30_000, 2**28)[seed % 3 if seed < 3 else 2],
        "without_replacement": seed % 2 == 0,
    }
    generator = as_on_a_gpu("llama", monkeypatch, graphs, **options)
    stream = Stream(generator, plain(without_replacement=seed % 2 == 0), seed)
    stream.run(40, give_up=0.3)
    assert stream.compared > 40
    assert not stream.failed


@pytest.mark.parametrize("seed", seeds(4))
def test_random_failures(seed: int, small_buckets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes and windows that find no memory, and passes that fail: all else gives the same steps."""
    generator = as_on_a_gpu("llama", monkeypatch, seed % 2 == 0, max_batch=16)
    stream = Stream(generator, plain(), seed)
    random_ = random.Random(seed)
    untimed, make_room = Forward.untimed, KeyValueWindow.make_room
    failures = [0]

    def fail(share: float, error: Exception) -> None:
        if random_.random() < share:
            failures[0] += 1
            raise error

    def failing(self: Any, ids: Any, *rest: Any) -> Any:
        if self is generator._scheduler.forward:
            fail(0.02 if ids.shape[0] > 1 else 0.0, torch.OutOfMemoryError("no memory (a test)"))
            fail(0.01 if seed % 2 else 0.0, RuntimeError("an error (a test)"))
        return untimed(self, ids, *rest)

    def short(self: Any, rows: int, *rest: Any) -> None:
        if self is generator._scheduler.batch.window:  # type: ignore[attr-defined]
            fail(0.1 if rows > 1 else 0.0, torch.OutOfMemoryError("no memory (a test)"))
        make_room(self, rows, *rest)

    monkeypatch.setattr(Forward, "untimed", failing)
    monkeypatch.setattr(KeyValueWindow, "make_room", short)
    for _ in range(4):
        generator._scheduler.max_rows = 16
        stream.run(12, give_up=0.2)
    assert failures[0] > 3
    assert stream.compared > 30


@pytest.mark.parametrize("seed", range(4))
def test_deadlines(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose time is over while a pass is under way: they have the beginning of what they would have drawn."""
    clock = [0.0]
    monkeypatch.setattr(contexts.time, "monotonic", lambda: clock[0])
    generator = as_on_a_gpu("llama", monkeypatch)
    untimed = generator._scheduler.forward.untimed

    def ticking(*arguments: Any) -> Any:
        clock[0] += 1.0
        return untimed(*arguments)

    monkeypatch.setattr(generator._scheduler.forward, "untimed", ticking)
    generator._scheduler.batch.static = None  # type: ignore[attr-defined]
    random_ = random.Random(seed)
    requests = [
        StepRequest(random_.choice(PROMPTS), number, seconds_left=random_.choice((None, 3.0, 6.0, 9.0)))
        for number in range(20)
    ]
    found = generator.propose(requests, [1] * 20, [20] * 20)
    wanted = plain().propose([StepRequest(r.node, r.seed) for r in requests], [1] * 20, [20] * 20)
    reasons = set()
    for request, row, other in zip(requests, found, wanted, strict=True):
        assert isinstance(row, list)
        assert isinstance(other, list)
        if not row:
            assert request.seconds_left is not None
            continue
        reasons.add(row[0].finish_reason)
        count = row[0].tokens
        assert row[0].token_ids == other[0].token_ids[:count]
        if row[0].finish_reason == "deadline":
            assert count <= (request.seconds_left or 0.0) + 1
            [[cut]] = plain().propose([StepRequest(request.node, request.seed)], [1], [count])  # type: ignore[misc]
            torch.testing.assert_close(row[0].hidden, cut.hidden, rtol=1e-3, atol=1e-4)
        else:
            assert difference(row, other) == ""
    assert "deadline" in reasons
    assert "delimiter" in reasons


@pytest.mark.parametrize("at", range(1, 30, 3))
def test_an_interrupt_leaves_a_generator_that_works(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = as_on_a_gpu("llama", monkeypatch, graphs=False)
    calls = [0]
    untimed = Forward.untimed

    def interrupted(self: Any, *arguments: Any) -> Any:
        calls[0] += self is generator._scheduler.forward
        if calls[0] == at:
            calls[0] += 1
            raise KeyboardInterrupt
        return untimed(self, *arguments)

    monkeypatch.setattr(Forward, "untimed", interrupted)
    searcher = bavt.Searcher(generator, None, TextTask(), wave=4, max_step_tokens=30)
    result = searcher.search("the fox ", budget=bavt.Budget(tokens=300))
    assert result.stop_reason == "interrupted"
    assert result.spent.tokens == generator.statistics().generated_tokens
    stream = Stream(generator, plain(), at)
    stream.charged = result.spent.tokens
    stream.run(6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_a_row_that_is_done_costs_nothing_where_its_step_is_gone_on_from(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass too many is the first one of the next step: the same tokens are computed, and told as computed."""
    generator, expected = as_on_a_gpu(family, monkeypatch), plain(family)
    request, other = (StepRequest("the fox ran over the hill ", 0) for _ in range(2))
    reasons = []
    for seed in range(1, 100):  # what random weights say is another with each version of transformers
        [found], [wanted] = (
            one.propose([asked], [1], [40]) for one, asked in ((generator, request), (expected, other))
        )
        assert isinstance(found, list)
        assert isinstance(wanted, list)
        assert difference(found, wanted) == ""
        assert found[0].cached_tokens == wanted[0].cached_tokens
        reasons.append(found[0].finish_reason)
        if reasons[-1] != "delimiter":  # nobody goes on from there
            request, other = (StepRequest(asked.node, seed) for asked in (request, other))
            continue
        request, other = (
            StepRequest(Node(None, None, asked.node, step), seed)
            for asked, [step] in ((request, found), (other, wanted))
        )
        if reasons.count("delimiter") > 5:
            break
    assert reasons.count("delimiter") > 5
    left_behind = reasons.count("end") + (reasons[-1] == "delimiter")  # at a limit no pass is too many
    told, plainly = generator.statistics(), expected.statistics()
    assert told.computed_prompt_tokens == plainly.computed_prompt_tokens
    assert told.saved_prompt_tokens == plainly.saved_prompt_tokens
    assert told.row_passes == plainly.row_passes
    assert told.decode_passes == plainly.decode_passes + left_behind


def test_trees_have_the_same_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, expected = as_on_a_gpu("llama", monkeypatch), plain()
    found, wanted = steps_of(generator, 20), steps_of(expected, 20)
    assert difference(found, wanted) == ""
    assert [step.cached_tokens for step in found] == [step.cached_tokens for step in wanted]
    told, plainly = generator.statistics(), expected.statistics()
    assert told.computed_prompt_tokens == plainly.computed_prompt_tokens
    assert told.row_passes == plainly.row_passes
    assert told.row_passes < told.decode_passes * 5


def test_rows_that_all_come_to_their_limits_take_no_pass_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = as_on_a_gpu("llama", monkeypatch, delimiter="\n")
    [row] = generator.propose([StepRequest("the fox ", 4)], [4], [5])
    assert [step.tokens for step in row] == [5] * 4  # type: ignore[union-attr]
    told = generator.statistics()
    assert (told.decode_passes, told.row_passes) == (4, 16)


def test_what_is_read_beside_a_pass_does_not_change_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the records of rows that are done are read while the next draw may be writing them."""
    before: dict[str, Any] = {}
    draw, drawn = Sampler.draw, Sampler._drawn
    read = [0]

    def noted(self: Sampler, *arguments: Any) -> None:
        before.update({name: getattr(self, name).clone() for name in (*COLUMNS, "_hidden") if self._hidden is not None})
        draw(self, *arguments)

    def twice(self: Sampler, numbers: Any, beside: bool = False) -> Any:
        after = drawn(self, numbers)
        if beside and before and before["_count"].shape == self._count.shape:
            now = {name: getattr(self, name) for name in before}
            vars(self).update(before)
            for one, other in zip(drawn(self, numbers), after, strict=True):
                assert (one.tokens, one.probabilities, one.reason) == (other.tokens, other.probabilities, other.reason)
                assert one.log_probability == other.log_probability
                assert torch.equal(one.hidden, other.hidden)
                read[0] += 1
            vars(self).update(now)
        return after

    monkeypatch.setattr(Sampler, "draw", noted)
    monkeypatch.setattr(Sampler, "drawn", twice)
    generator = as_on_a_gpu("llama", monkeypatch, max_batch=6)
    Stream(generator, plain(), 0).run(30)
    assert read[0] > 50


@pytest.mark.parametrize("leaves", [1, 4])
def test_searches_side_by_side(leaves: int, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [f"{prompt}{letter}" for prompt in PROMPTS for letter in "bcd"]

    def search(generator: TorchGenerator) -> list[Any]:
        searcher = bavt.Searcher(
            generator, lambda text: (len(text) % 7) / 7, TextTask(max_depth=5), wave=6, leaves=leaves, max_step_tokens=9
        )
        return searcher.search_many(questions, budget=bavt.Budget(tokens=90), seed=3)

    found = search(as_on_a_gpu("llama", monkeypatch))
    for result in found:
        assert result.error is None
        told = [step for step in (*result.steps, *(refusal.step for refusal in result.refused)) if step is not None]
        assert sum(step.tokens for step in told) <= result.spent.tokens <= 90
    if leaves == 1:  # else the order in which steps end decides
        for one, other in zip(found, search(plain()), strict=True):
            assert one.tree.parents.tolist() == other.tree.parents.tolist()
            assert [_ids(step) for step in one.steps] == [_ids(step) for step in other.steps]
            assert one.spent.tokens == other.spent.tokens


def _ids(step: Step | None) -> tuple[int, ...]:
    return () if step is None else tuple(np.asarray(step.token_ids).tolist())


@pytest.mark.parametrize("graphs", [False, True])
def test_processors_may_change_the_logits_that_they_are_given(monkeypatch: pytest.MonkeyPatch, graphs: bool) -> None:
    """What is kept of a context is what the model said, so they are applied once when somebody goes on from there."""

    def in_place(_: Any, logits: Any) -> Any:
        logits[:, 20:] += 1.5
        return logits

    def apart(ids: Any, logits: Any) -> Any:
        return in_place(ids, logits.clone())

    answers = []
    for processors in (apart, in_place):
        options = {"delimiter": ("a", "b", "c", "d", "e"), "processors": processors}
        generator = as_on_a_gpu("llama", monkeypatch, graphs, **options)
        nodes, steps = [Node(None, "the fox")], []
        for seed in range(12):
            node = nodes[seed % len(nodes)]
            asks = 2 * [StepRequest(node, seed)]
            [found, _] = generator.propose(asks, [2, 2], [20, 20])
            assert isinstance(found, list)
            nodes += [Node(None, None, node, step) for step in found if step.finish_reason == "delimiter"]
            steps += [(step.token_ids, step.token_probabilities) for step in found]
        answers.append(steps)
    assert answers[0] == answers[1]
