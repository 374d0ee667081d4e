"""The generator's batch: who is computed when, what is computed at all, and what happens when something fails."""

from __future__ import annotations

import gc
import inspect
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import tiny_model  # noqa: E402
from tiny_tokenizers import tiny_tokenizer  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.generators.host_sampling import HostSampler  # noqa: E402
from bavt_fast.generators.kv_cache import KeyValueWindow  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import GenerationError, Node, Sampling, Step, StepRequest  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_tokenizer  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402

TOKENIZER = build_tokenizer()
PROMPT = "Target: 24 (left: 4 5 6 10)\n"
NEVER = "))))))))"  # a delimiter that does not come


DIGITS = tuple("13579")  # delimiters that come often


def make(model: Any = None, delimiter: Any = ")", **options: Any) -> TorchGenerator:
    return TorchGenerator(tiny_model() if model is None else model, TOKENIZER, delimiter=delimiter, **options)


class Watched:
    """A model whose forward passes can be watched, made slow, or made to fail."""

    def __init__(self, before: Callable[[Any], None] = lambda ids: None) -> None:
        self.model = tiny_model()
        self.before = before
        self.shapes: list[tuple[int, int]] = []
        original = self.model.forward

        def forward(**arguments: Any) -> Any:
            ids = arguments["input_ids"]
            self.before(ids)
            self.shapes.append(tuple(ids.shape))
            return original(**arguments)

        forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        self.model.forward = forward


def ids_of(rows: Any) -> list[list[tuple[int, ...]]]:
    return [[step.token_ids for step in row] for row in rows]


def child(node: Node, step: Step) -> Node:
    return Node(None, None, node, step)


def grow_tree(generator: TorchGenerator, size: int, seed: int) -> tuple[list[Node], list[list[Step]]]:
    """A random tree of contexts: each ask goes on from a random node, sometimes several at once."""
    random_ = random.Random(seed)
    nodes, told = [Node(None, PROMPT)], []
    while len(told) < size:
        picked = [random_.choice(nodes) for _ in range(random_.randrange(1, 5))]
        requests = [StepRequest(node, random_.getrandbits(60), node.tried) for node in picked]
        rows = generator.propose(requests, [random_.choice((1, 1, 2)) for _ in picked], [6] * len(picked))
        for node, row in zip(picked, rows, strict=True):
            assert isinstance(row, list)
            told.append(row)
            for step in row:
                node.add_try(step)
                if not step.is_cut:
                    nodes.append(child(node, step))
    return nodes, told


@pytest.mark.parametrize("store_bytes", [0, 20_000, 200_000, None])
def test_a_tree_does_not_depend_on_the_store(store_bytes: int | None) -> None:
    """Also where it is so small that most of it is evicted and computed again."""
    plain = make(delimiter=DIGITS, store_bytes=0, max_batch=1)
    stored = make(delimiter=DIGITS, store_bytes=store_bytes, max_batch=7)
    nodes, wanted = grow_tree(plain, 90, 5)
    _, got = grow_tree(stored, 90, 5)
    assert max(len(node.context()[1]) for node in nodes) > 4
    for one, other in zip(wanted, got, strict=True):
        assert [step.token_ids for step in one] == [step.token_ids for step in other]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a.hidden, b.hidden, rtol=1e-3, atol=1e-4)
            assert b.log_probability == pytest.approx(a.log_probability, rel=1e-3, abs=1e-4)
    if store_bytes:
        assert stored.statistics().store_evictions > 0
        assert stored.statistics().store_bytes <= store_bytes


def test_a_prefix_is_computed_once() -> None:
    """Every token of the tree of contexts once, whoever asks for it and however many at once."""
    generator = make()
    long = [PROMPT + f"{n} " * 12 for n in range(6)]
    prompts = [prompt + f"{m} " * 12 for prompt in long for m in range(6)]
    generator.propose([StepRequest(prompt, 1) for prompt in prompts for _ in range(3)], [2] * 108, [1] * 108)
    contexts = [tuple(TOKENIZER(prompt)["input_ids"]) for prompt in prompts]
    distinct = {ids[:length] for ids in contexts for length in range(1, len(ids) + 1)}
    computed = generator.statistics().computed_prompt_tokens
    assert len(distinct) <= computed <= 1.05 * len(distinct)


def test_a_node_that_is_asked_again_computes_nothing() -> None:
    watched = Watched()
    generator = make(watched.model, DIGITS)
    [[first]] = generator.propose([StepRequest(PROMPT, 1)], [1], [20])
    assert first.finish_reason == "delimiter"
    node = child(Node(None, PROMPT), first)
    generator.propose([StepRequest(node, 2)], [1], [1])
    computed = generator.statistics().computed_prompt_tokens
    assert computed == len(TOKENIZER(PROMPT)["input_ids"]) + 1  # the step's last token is new, the others were decoded
    watched.shapes.clear()
    for seed in range(5):
        generator.propose([StepRequest(node, seed)], [3], [1])
    assert watched.shapes == []
    [[step]] = generator.propose([StepRequest(node, 7)], [1], [3])
    assert watched.shapes == [(1, 1)] * (step.tokens - 1)
    assert step.cached_tokens == step.prompt_tokens


def test_no_row_waits_for_another() -> None:
    """Steps of different lengths: a place that gets free is taken in the next pass, until nothing waits."""
    watched = Watched()
    generator = make(watched.model, max_batch=4)
    watched.shapes.clear()  # of the passes that looked at the model
    limits = [random.Random(seed).randrange(1, 12) for seed in range(40)]
    requests = [StepRequest(PROMPT, seed, sampling=Sampling(temperature=3.0)) for seed in range(40)]
    generator.submit(range(40), requests, [1] * 40, limits)
    done: dict[int, list[Step]] = {}
    while len(done) < 40:
        answers = generator.collect()
        assert answers
        done.update({ticket: steps for ticket, steps in answers if isinstance(steps, list)})
    assert all(done[i][0].tokens <= limits[i] for i in range(40))
    decoded = [rows for rows, columns in watched.shapes if columns == 1]
    full = decoded[decoded.index(4) :]
    assert len(decoded) - len(full) <= 3  # the prompt that all share is computed once
    assert sum(full[:-12]) >= 0.98 * 4 * (len(full) - 12)
    statistics = generator.statistics()
    assert statistics.row_passes == sum(decoded)
    assert statistics.row_passes >= 0.95 * statistics.wanted_row_passes
    assert generator.collect() == []


def test_streaming_gives_what_a_wave_gives() -> None:
    requests = [StepRequest(PROMPT, seed) for seed in range(20)]
    rows = make(max_batch=3).propose(requests, [2] * 20, [9] * 20)
    generator = make(max_batch=5)
    generator.submit(range(20), requests, [2] * 20, [9] * 20)
    told: dict[int, Any] = {}
    while len(told) < 20:
        told.update(generator.collect())
    assert ids_of(told[i] for i in range(20)) == ids_of(rows)


def test_a_wave_may_be_asked_while_others_stream() -> None:
    """As a critic does that asks the same model."""
    generator = make()
    generator.submit([1, 2], [StepRequest(PROMPT, 1), StepRequest(PROMPT, 2)], [1, 1], [9, 9])
    [[step]] = generator.propose([StepRequest("Target:", 3)], [1], [2])
    assert step.token_ids == make().propose([StepRequest("Target:", 3)], [1], [2])[0][0].token_ids
    told: dict[int, Any] = {}
    while len(told) < 2:
        told.update(generator.collect())
    wanted = make().propose([StepRequest(PROMPT, 1), StepRequest(PROMPT, 2)], [1, 1], [9, 9])
    assert ids_of([told[1], told[2]]) == ids_of(wanted)


# --- time


def slow(seconds: float) -> Watched:
    return Watched(lambda ids: time.sleep(seconds))


def test_a_deadline_is_kept_to_within_a_token() -> None:
    generator = make(slow(0.05).model, delimiter=NEVER)
    start = time.monotonic()
    requests = [StepRequest(PROMPT, 1, seconds_left=0.4), StepRequest(PROMPT, 2)]
    late, other = generator.propose(requests, [1, 1], [200, 12])
    assert [step.finish_reason for step in (*late, *other)] == ["deadline", "limit"]  # type: ignore[misc]
    assert 1 <= late[0].tokens < 12  # type: ignore[index]
    assert time.monotonic() - start < 5.0


def test_a_search_ends_at_its_deadline_and_is_charged_for_what_was_begun() -> None:
    generator = make(slow(0.03).model, delimiter=NEVER)
    searcher = bavt.Searcher(generator, None, TextTask(), wave=3, max_step_tokens=500)
    result = searcher.search("Target: 1", budget=bavt.Budget(seconds=0.5, tokens=10_000))
    assert result.stop_reason == "deadline"
    assert 0.5 <= result.spent.seconds < 0.7
    assert result.generation is not None
    assert result.spent.tokens == result.generation.generated_tokens > 0


# --- failures


def nan_for(token: int, model: Any) -> None:
    """Logits are NaN where a row's last token is this one."""
    original = model.forward

    def forward(*args: Any, **arguments: Any) -> Any:
        output = original(*args, **arguments)
        output.logits[arguments["input_ids"][:, -1] == token] = float("nan")
        return output

    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    model.forward = forward


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_logits_that_are_not_numbers_fail_their_own_request(temperature: float) -> None:
    prompts = [PROMPT, "Target: 7 (left: 3 4)\n", "Target: 24"]
    bad = int(TOKENIZER("24")["input_ids"][-1])
    model = tiny_model()
    nan_for(bad, model)
    requests = [StepRequest(prompt, 5, sampling=Sampling(temperature=temperature)) for prompt in prompts]
    rows = make(model).propose(requests, [1] * 3, [3] * 3)
    error = rows[2]
    assert isinstance(error, GenerationError)
    assert "NaN or infinity after 'Target: 24'" in str(error)
    assert error.spent.tokens == 0
    wanted = make().propose(requests[:2], [1] * 2, [3] * 2)
    for row, other in zip(rows[:2], wanted, strict=True):
        if isinstance(row, list):  # a row that drew the bad token itself fails too, and is charged
            assert [step.token_ids for step in row] == [step.token_ids for step in other]  # type: ignore[union-attr]


def test_a_temperature_next_to_nothing_is_an_error_and_not_the_last_token() -> None:
    [error] = make(temperature=1e-40).propose([StepRequest(PROMPT, 1)], [1], [3])
    assert isinstance(error, GenerationError)
    assert "temperature" in str(error)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_out_of_memory_makes_the_batch_smaller(most: int) -> None:
    def check(ids: Any) -> None:
        if ids.shape[0] > most:
            raise torch.OutOfMemoryError("no room")

    watched = Watched()
    generator = make(watched.model, max_batch=16)
    watched.before = check
    requests = [StepRequest(PROMPT + str(seed % 4), seed) for seed in range(24)]
    rows = generator.propose(requests, [1] * 24, [8] * 24)
    wanted = make().propose(requests, [1] * 24, [8] * 24)
    assert ids_of(rows) == ids_of(wanted)
    for row, other in zip(rows, wanted, strict=True):
        torch.testing.assert_close(row[0].hidden, other[0].hidden, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_a_window_that_finds_no_memory_makes_the_batch_smaller(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come find no place: the ones under way wait with them, and all go on as if nothing had been."""
    make_room, failures = KeyValueWindow.make_room, []

    def short_of_memory(self: Any, rows: int, *rest: Any) -> None:
        if rows > most:
            failures.append(rows)
            raise torch.OutOfMemoryError("no room")
        make_room(self, rows, *rest)

    requests = [StepRequest(PROMPT + str(seed % 4), seed) for seed in range(24)]
    wanted = make().propose(requests, [1] * 24, [8] * 24)
    monkeypatch.setattr(KeyValueWindow, "make_room", short_of_memory)
    generator = make(max_batch=16)
    rows = generator.propose(requests, [1] * 24, [8] * 24)
    assert failures
    assert ids_of(rows) == ids_of(wanted)
    for row, other in zip(rows, wanted, strict=True):
        torch.testing.assert_close(row[0].hidden, other[0].hidden, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("step", ["make_room", "place"])
def test_a_window_without_memory_for_one_row_says_so(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def short_of_memory(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    generator = make()
    with monkeypatch.context() as patched:
        patched.setattr(KeyValueWindow, step, short_of_memory)
        rows = generator.propose([StepRequest(PROMPT, 1), StepRequest("Target:", 2)], [2, 1], [8, 8])
    assert all(isinstance(row, GenerationError) and "out of memory" in str(row) for row in rows)
    free = generator._scheduler.sampler._free
    assert len(set(free)) == len(free)  # no record is given back twice
    rows, wanted = (one.propose([StepRequest(PROMPT, 1)], [1], [8]) for one in (generator, make()))
    assert ids_of(rows) == ids_of(wanted)


def test_out_of_memory_with_one_row_says_so() -> None:
    def check(ids: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    watched = Watched()
    generator = make(watched.model)
    watched.before = check
    rows = generator.propose([StepRequest(PROMPT, 1), StepRequest("Target:", 2)], [1, 1], [8, 8])
    assert all(isinstance(row, GenerationError) and "out of memory" in str(row) for row in rows)
    watched.before = lambda ids: None
    rows, wanted = (one.propose([StepRequest(PROMPT, 1)], [1], [8]) for one in (generator, make()))
    assert ids_of(rows) == ids_of(wanted)


def test_a_failing_model_fails_what_it_was_computing() -> None:
    calls = [0]

    def check(ids: Any) -> None:
        calls[0] += 1
        if calls[0] == 5:
            raise RuntimeError("device-side assert")

    watched = Watched()
    generator = make(watched.model, max_batch=2)
    watched.before = check
    requests = [StepRequest(PROMPT, seed) for seed in range(6)]
    rows = generator.propose(requests, [1] * 6, [9] * 6)
    failed = [row for row in rows if isinstance(row, GenerationError)]
    assert 1 <= len(failed) <= 2
    assert all("device-side assert" in str(row) and 0 < row.spent.tokens < 9 for row in failed)
    wanted = make().propose(requests, [1] * 6, [9] * 6)
    for row, other in zip(rows, wanted, strict=True):
        if isinstance(row, list):
            assert [s.token_ids for s in row] == [s.token_ids for s in other]  # type: ignore[union-attr]


@pytest.mark.parametrize("at", [1, 3, 9])
def test_an_interrupt_leaves_a_generator_that_works(at: int) -> None:
    calls = [0]

    def check(ids: Any) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt

    watched = Watched()
    generator = make(watched.model, delimiter=NEVER)
    watched.before = check
    searcher = bavt.Searcher(generator, None, TextTask(), wave=4, max_step_tokens=30)
    result = searcher.search("Target: 1", budget=bavt.Budget(tokens=100))
    assert result.stop_reason == "interrupted"
    assert result.spent.tokens == generator.statistics().generated_tokens
    fresh = make(delimiter=NEVER)
    again = [StepRequest(PROMPT, seed) for seed in range(9)]
    rows, wanted = (one.propose(again, [1] * 9, [9] * 9) for one in (generator, fresh))
    assert ids_of(rows) == ids_of(wanted)


def test_what_is_given_up_is_charged_and_forgotten() -> None:
    generator = make(delimiter=NEVER)
    generator.submit([4, 5, 6], [StepRequest(PROMPT, seed) for seed in range(3)], [1, 2, 1], [3, 50, 50])
    assert [ticket for ticket, _ in generator.collect()] == [4]
    took = generator.discard([4, 5, 99])
    assert set(took) == {5}
    assert 2 <= took[5].tokens <= 6
    assert [ticket for ticket, _ in generator.collect()] == [6]
    assert generator.statistics().generated_tokens == 3 + took[5].tokens + 50


def test_a_ticket_that_is_out_is_refused_and_nothing_is_taken() -> None:
    """It took the place of the first one, and whoever collected met a KeyError, again and again."""
    generator, one = make(delimiter=NEVER), StepRequest(PROMPT)
    for _ in range(2):
        with pytest.raises(ValueError, match="tickets: expected each once, and none that is out, got 4 again"):
            generator.submit([4, 4], [one, one], [1, 1], [3, 3])
        with pytest.raises(
            ValueError, match="tickets, states, counts, limits: expected as many of each, got 2, 1, 1, 1"
        ):
            generator.submit([4, 5], [one], [1], [3])
        with pytest.raises(ValueError, match="states, counts, limits: expected as many of each, got 1, 2, 1"):
            generator.propose([one], [1, 1], [3])
        assert generator.collect() == []
    generator.submit([4, 5], [one, one], [1, 0], [3, 3])
    for ticket in (4, 5):
        with pytest.raises(ValueError, match=f"got {ticket} again"):
            generator.submit([ticket], [one], [1], [3])
    found = dict(generator.collect())
    while len(found) < 2:
        found |= dict(generator.collect())
    assert (len(found[4]), found[5]) == (1, [])
    assert generator.statistics().generated_tokens == 3


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_step_with_tokens_of_another_model_fails_alone(token: int) -> None:
    """Such as one of a checkpoint that another model has begun."""
    generator = make(tiny_model())
    node = child(Node(None, PROMPT), Step("x", 2, token_ids=(5, token)))
    error, steps = generator.propose([StepRequest(node, 1), StepRequest(PROMPT, 1)], [1, 1], [4, 4])
    assert "Step.token_ids: token ids: expected an integer from 0 to" in str(error)
    assert f"got {token}" in str(error)
    assert len(steps) == 1  # type: ignore[arg-type]
    assert "Step.token_ids" in str(generator.read([node])[0])


def test_half_a_character_of_a_step_is_a_question_mark() -> None:
    """As it is in a prompt. Steps that a model has made carry their tokens; others are encoded."""
    tokenizer = tiny_tokenizer("byte_level")
    generator = TorchGenerator(tiny_model(), tokenizer)
    nodes = [child(Node(None, PROMPT), Step(text, 1)) for text in ("a\ud800", "a?")]
    found, expected = generator.propose([StepRequest(node, 3) for node in nodes], [1, 1], [4, 4])
    assert [step.token_ids for step in found] == [step.token_ids for step in expected]  # type: ignore[union-attr]


def test_a_context_that_does_not_fit_the_model_is_closed() -> None:
    model = tiny_model()
    model.config.max_position_embeddings = 20
    generator = make(model, delimiter=NEVER)
    length = len(TOKENIZER(PROMPT)["input_ids"])
    ids = tuple(TOKENIZER(PROMPT)["input_ids"])
    node = child(Node(None, PROMPT), Step("x", 20 - length, token_ids=(ids * 2)[: 20 - length]))
    own = Node(None, PROMPT * 20, Node(None, PROMPT), node.step)  # a state's own prompt, which has grown
    requests = [StepRequest(PROMPT, 1), StepRequest(node, 1), StepRequest(PROMPT * 20, 1), StepRequest(own, 1)]
    rows = generator.propose(requests, [1] * 4, [100, 5, 5, 5])
    assert rows[0][0].tokens == 20 - length  # type: ignore[index]
    assert rows[1] == rows[3] == []
    assert isinstance(rows[2], GenerationError)
    assert "prompt: expected fewer than 20 tokens, which is all that the model's context holds, got" in str(rows[2])
    assert generator.statistics().too_long == 3


# --- the ledger, and memory


@pytest.mark.parametrize("seed", range(12))
def test_the_ledger_counts_what_was_drawn(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against every token that was drawn, in searches that end for every reason."""
    drawn = [0]
    draw = HostSampler.draw

    def counted(sampler: HostSampler, records: Any, *rest: Any) -> None:
        before = sum(map(len, sampler.tokens(records)))
        draw(sampler, records, *rest)
        drawn[0] += sum(map(len, sampler.tokens(records))) - before

    monkeypatch.setattr(HostSampler, "draw", counted)
    random_ = random.Random(seed)
    model = tiny_model(spread=random_.choice((0.02, 0.3)))
    model.generation_config.eos_token_id = [3, 900]
    generator = make(model, random_.choice(("7", ")", "12 ")), max_batch=random_.choice((2, 64)))
    options = {
        "wave": random_.choice((1, 4, 9)),
        "candidates": random_.choice((1, 3)),
        "max_step_tokens": random_.choice((3, 12)),
        "max_nodes": random_.choice((None, 9)),
    }
    budget = random_.choice((bavt.Budget(tokens=300), bavt.Budget(tokens=9000, seconds=0.3)))
    searcher = bavt.Searcher(generator, lambda text: 0.5, TextTask(max_depth=4), **options)
    results = searcher.search_many(["Target: 5", "Target: 9 (left: 1 2)", "(left: 1"], budget=budget, seed=seed)
    assert sum(result.spent.tokens for result in results) == drawn[0]
    for result in results:
        told = [step for step in (*result.steps, *(refusal.step for refusal in result.refused)) if step is not None]
        assert sum(step.tokens for step in told) <= result.spent.tokens
        assert result.overrun.tokens == 0


def test_nothing_grows_from_question_to_question() -> None:
    generator = make(store_bytes=200_000)
    searcher = bavt.Searcher(generator, None, TextTask(max_depth=3), max_step_tokens=6)

    def held(first: int, last: int) -> int:
        questions = [f"Target: {n} (left: {n % 7} {n % 11})" for n in range(first, last)]
        searcher.search_many(questions, budget=bavt.Budget(tokens=20))
        gc.collect()
        storages = [thing.untyped_storage() for thing in gc.get_objects() if type(thing) is torch.Tensor]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    after_100 = held(0, 100)
    assert held(100, 1000) <= 1.2 * after_100 + 200_000
    assert generator.statistics().store_bytes <= 200_000
