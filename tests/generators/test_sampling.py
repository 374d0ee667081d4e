"""Drawing against numpy: truncations, blocks of the vocabulary, ids without a name, processors of logits."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import model_families  # noqa: E402
from tiny_models import tiny_model  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.generators.host_sampling import HostSampler  # noqa: E402
from bavt_fast.generators.sampling import BROKEN, EXHAUSTED, LIMIT, RUNNING, Sampler, SamplingRules  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import GenerationError, StepRequest  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_tokenizer  # noqa: E402
from bavt_fast.tasks.text import TextTask  # noqa: E402


def draw(logits: np.ndarray, rules: list[SamplingRules], named: np.ndarray | None = None) -> list[Any]:
    """One token of each row."""
    size = logits.shape[1]
    named = np.ones(size, dtype=bool) if named is None else named
    sampler = Sampler(np.zeros((2, size), dtype=np.int32), 1, [], named, torch.device("cpu"))
    numbers = sampler.open(rules, [-1] * len(rules))
    rows = torch.as_tensor(logits, dtype=torch.float32)
    sampler.draw(torch.tensor(numbers), np.asarray(numbers), rows, torch.zeros(len(rules), 3))
    return sampler.drawn(numbers)


def oracle(logits: np.ndarray, rule: SamplingRules, named: np.ndarray) -> tuple[int, float, float]:
    """(token, its probability by the rule, its log-probability at temperature 1), by definition, in float64."""
    logits = np.where(named, logits.astype(np.float32).astype(np.float64), -np.inf)
    plain = np.exp(logits - logits.max())
    warm = np.exp((logits - logits.max()) / (rule.temperature or 1.0))
    p = warm / warm.sum()
    if rule.temperature == 0.0:
        p = (np.arange(len(logits)) == logits.argmax()).astype(float)
    order = np.argsort(-p, kind="stable")
    kept = int((np.cumsum(p[order]) - p[order] < rule.top_p).sum())
    kept = min(kept, rule.top_k) if rule.top_k else kept
    floor = max(p[order[kept - 1]], rule.min_p * p.max())
    p = np.where(p >= floor, p, 0.0)
    p /= p.sum()
    uniform = np.random.Generator(np.random.Philox(key=[rule.seed, rule.candidate])).random(rule.limit)[0]
    token = int(np.searchsorted(np.cumsum(p), uniform * p.sum(), side="right"))
    return token, float(p[token]), float(np.log(plain[token] / plain.sum()))


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 1000, 50_257])
def test_tokens_are_those_of_the_definition(size: int) -> None:
    random = np.random.default_rng(size)
    rows = 40
    logits = random.normal(0.0, 3.0, (rows, size))
    named = random.random(size) < 0.9
    named[random.integers(size)] = True
    rules = [
        SamplingRules(
            int(random.integers(2**60)),
            int(random.integers(4)),
            3,
            temperature=float(random.choice([0.0, 0.3, 1.0, 2.0])),
            top_p=float(random.choice([1.0, 1.0, 0.9, 0.3, 1e-9])),
            top_k=int(random.choice([0, 0, 1, 5, 10 * size])),
            min_p=float(random.choice([0.0, 0.0, 0.1, 1.0])),
        )
        for _ in range(rows)
    ]
    wrong = 0
    for row, rule, drawn in zip(logits, rules, draw(logits, rules, named), strict=True):
        token, probability, log_probability = oracle(row, rule, named)
        assert drawn.reason == RUNNING
        if drawn.tokens != (token,):  # the number fell next to the border of two tokens: float32 beside float64
            wrong += 1
            continue
        assert drawn.probabilities[0] == pytest.approx(probability, rel=2e-3)
        assert drawn.log_probability == pytest.approx(log_probability, rel=1e-3, abs=1e-4)
    assert wrong <= 1


def test_seeds_are_any_integers() -> None:
    """Also numpy's, negative ones and those of more than 64 bits; each row has what a generator of its own gives."""
    logits = np.random.default_rng(2).normal(0.0, 2.0, (1, 3000)).repeat(6, 0)
    seeds = [5, np.int64(5), np.uint64(5), -5, 2**64 - 5, 5 + 2**64]
    first, *others = (row.tokens for row in draw(logits, [SamplingRules(seed, 1, 1) for seed in seeds]))  # type: ignore[arg-type]
    assert others == [first, first, others[2], others[2], first]
    assert others[2] != first
    key = np.array([2**64 - 5, 1], dtype=np.uint64)
    uniform = np.random.Generator(np.random.Philox(key=key)).random()
    weights = np.exp(logits[0].astype(np.float32).astype(np.float64)).cumsum()
    assert others[2] == (int(np.searchsorted(weights, uniform * weights[-1], side="right")),)


def test_rows_do_not_depend_on_each_other() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(0.0, 2.0, (30, 3000))
    rules = [SamplingRules(seed, 0, 1, temperature=0.8, top_p=0.95) for seed in range(30)]
    together = [row.tokens for row in draw(logits, rules)]
    assert together == [draw(logits[i : i + 1], [rules[i]])[0].tokens for i in range(30)]


def test_how_a_row_ends() -> None:
    logits = np.zeros((4, 10))
    logits[1, 3] = np.nan
    logits[2, 3] = np.inf
    logits[3, 3] = 60.0
    tried = [([3], [1.0])]
    rules = [SamplingRules(i, 0, 1, tried=tried if i == 3 else ()) for i in range(4)]
    drawn = draw(logits, rules)
    assert [row.reason for row in drawn] == [LIMIT, BROKEN, BROKEN, EXHAUSTED]
    assert [len(row.tokens) for row in drawn] == [1, 0, 0, 0]


@pytest.mark.parametrize("kind", [Sampler, HostSampler])
@pytest.mark.parametrize(("left", "reason"), [(1e-2, LIMIT), (1e-5, LIMIT), (1e-7, EXHAUSTED), (0.0, EXHAUSTED)])
def test_rare_steps_are_new_and_rounding_is_not(kind: type[Sampler], left: float, reason: int) -> None:
    """What a low temperature makes rare is all that a search has once the rest was tried."""
    sampler = kind(np.zeros((2, 50), dtype=np.int32), 1, [], np.ones(50, dtype=bool), torch.device("cpu"))
    logits = torch.full((1, 50), -np.inf)
    logits[0, 7], logits[0, 9] = 0.0, np.log(left) if left else -np.inf
    numbers = sampler.open([SamplingRules(3, 0, 1, tried=[([7], [1.0])])], [-1])
    sampler.draw(torch.tensor(numbers), np.asarray(numbers), logits, torch.zeros(1, 2))
    [drawn] = sampler.drawn(numbers)
    assert drawn.reason == reason
    assert drawn.tokens == ((9,) if reason == LIMIT else ())


@pytest.mark.parametrize("kind", [Sampler, HostSampler])
def test_a_record_forgets_the_steps_that_its_last_row_was_not_to_repeat(kind: type[Sampler]) -> None:
    """Also where a row beside it has some of its own, so that they are looked at."""
    sampler = kind(np.zeros((2, 2), dtype=np.int32), 1, [], np.ones(2, dtype=bool), torch.device("cpu"))
    tried = [([0], [1.0]), ([1], [1.0])]
    first = sampler.open([SamplingRules(0, 0, 1, tried=tried)], [-1])
    sampler.close(first)  # it was given up before it drew
    numbers = sampler.open([SamplingRules(1, 0, 1), SamplingRules(2, 0, 1, tried=tried)], [-1, -1])
    assert numbers[0] == first[0]
    sampler.draw(torch.tensor(numbers), np.asarray(numbers), torch.zeros(2, 2), torch.zeros(2, 3))
    assert [row.reason for row in sampler.drawn(numbers)] == [LIMIT, EXHAUSTED]


def test_processors_see_each_row_s_ids_and_change_its_logits() -> None:
    """Transformers' own, and one that notes what it is given."""
    tokenizer = build_tokenizer()
    seen: list[list[list[int]]] = []

    def note(ids: Any, logits: Any) -> Any:
        seen.append(ids.tolist())
        return logits

    only = transformers.SuppressTokensLogitsProcessor([i for i in range(1010) if i not in (5, 6)], device="cpu")
    processors = transformers.LogitsProcessorList([note, only])
    generator = TorchGenerator(tiny_model(), tokenizer, delimiter=")", processors=processors, max_batch=2)
    prompts = ["Target: 24 (left: 4 5 6 10)\n", "Target: 7 "]
    rows = generator.propose([StepRequest(prompt, 3) for prompt in prompts], [1, 1], [4, 4])
    contexts = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    for context, row in zip(contexts, rows, strict=True):
        step = row[0]  # type: ignore[index]
        assert set(step.token_ids) <= {5, 6}
        given = [row for batch in seen for row in batch]
        for text in [[*context, *step.token_ids[:count]] for count in range(4)]:
            assert any(row[-len(text) :] == text and set(row[: -len(text)]) <= {text[0]} for row in given)


@pytest.mark.parametrize(
    ("processor", "got"),
    [
        (lambda ids, logits: None, "got None"),
        (lambda ids, logits: logits[:, :5], r"got a tensor of shape \(1, 5\)"),
        (lambda ids, logits: logits.tolist(), "got "),
    ],
)
def test_processors_that_do_not_give_the_logits_back_are_named(processor: Any, got: str) -> None:
    generator = TorchGenerator(tiny_model(), build_tokenizer(), delimiter=")", processors=processor)
    [answer] = generator.propose([StepRequest("Target: 7 ")], [1], [4])
    assert isinstance(answer, GenerationError)
    assert re.match(rf"processors: expected the logits back, a tensor of shape \(1, \d+\), {got}", str(answer))


def failing_at(number: int, kind: str) -> TorchGenerator:
    """Its processors raise in one call, of this number."""
    calls = itertools.count(1)

    def fail(ids: Any, logits: Any) -> Any:
        if next(calls) == number:
            raise RuntimeError("it has failed")
        return logits

    model, tokenizer = model_families.build_model(kind), model_families.build_tokenizer()
    return TorchGenerator(model, tokenizer, delimiter="z", processors=fail)


@pytest.mark.parametrize("kind", ["llama", "mamba"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_was_submitted_ends_where_processors_raise_for_requests_beside_it(number: int, kind: str) -> None:
    """Also where it was about to begin; else `collect` would wait for it for ever."""
    generator = failing_at(number, kind)
    generator.submit([7], [StepRequest("abcd", 1)], [2], [9])
    [answer] = generator.propose([StepRequest("abc", 1)], [1], [9])
    assert str(answer) == "processors: RuntimeError: it has failed"
    generator.submit([8], [StepRequest("abcd", 1)], [2], [9])
    told: dict[int, Any] = {}
    while len(told) < 2:
        told |= generator.collect()
    assert str(told[7]) == "processors: RuntimeError: it has failed"
    assert len(told[8]) == 2


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_what_was_drawn_is_charged_where_processors_raise(kind: str) -> None:
    """Of all asks that were under way, and no ask after them suffers."""
    generator = failing_at(4, kind)
    requests = [StepRequest("abc", 1), StepRequest("abd", 2)]
    answers = generator.propose(requests, [1, 2], [9, 9])
    assert [str(answer) for answer in answers] == ["processors: RuntimeError: it has failed"] * 2
    spent = [answer.spent for answer in answers if isinstance(answer, GenerationError) and answer.spent is not None]
    assert [one.prompt_tokens for one in spent] == [3, 6]
    assert min(one.tokens for one in spent) > 0
    assert sum(one.tokens for one in spent) == generator.statistics().generated_tokens
    assert [len(answer) for answer in generator.propose(requests, [1, 2], [9, 9])] == [1, 2]  # type: ignore[arg-type]


def test_processors_that_allow_no_token_are_named() -> None:
    def forbid(ids: Any, logits: Any) -> Any:
        return torch.full_like(logits, -torch.inf)

    generator = TorchGenerator(tiny_model(), build_tokenizer(), delimiter=")", processors=forbid)
    [answer] = generator.propose([StepRequest("Target: 7 ")], [1], [4])
    assert isinstance(answer, GenerationError)
    assert "processors that allow no token do this" in str(answer)


@pytest.mark.parametrize("limit", [10**9, 2**53])
def test_a_step_that_there_is_no_memory_to_draw_is_an_error_that_names_its_setting(limit: int) -> None:
    """Of a model without a limit on positions: else that is the limit."""
    generator = TorchGenerator(model_families.build_model("mamba"), model_families.build_tokenizer(), delimiter="z")
    large, small = generator.propose([StepRequest("abc")] * 2, [1, 1], [limit, 4])
    assert isinstance(large, MemoryError)
    wanted = f"limits: expected steps that there is memory to draw, got one of {limit} tokens; lower max_step_tokens"
    assert str(large) == wanted
    assert isinstance(small, list)
    searcher = bavt.Searcher(generator, task=TextTask(), max_step_tokens=limit)
    with pytest.raises(bavt.SearchError, match="lower max_step_tokens"):
        searcher.search("abc", budget=bavt.Budget(tokens=2 * limit))


def test_a_sampler_that_finds_no_memory_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = HostSampler(np.zeros((2, 9), dtype=np.int32), 1, [], np.ones(9, dtype=bool), torch.device("cpu"))
    first, zeros = sampler.open([SamplingRules(1, 0, 3)], [-1]), torch.zeros

    def short(*shape: int, **options: Any) -> Any:
        if shape[-1] > 50:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", short)
    with pytest.raises(MemoryError, match="got one of 60 tokens; lower max_step_tokens"):
        sampler.open([SamplingRules(1, 0, 60)], [-1])
    second = sampler.open([SamplingRules(2, 0, 3)], [-1])
    rows = torch.rand(2, 9)
    sampler.draw(torch.tensor([*first, *second]), np.array([*first, *second]), rows, torch.zeros(2, 3))
    assert [len(one.tokens) for one in sampler.drawn([*first, *second])] == [1, 1]
