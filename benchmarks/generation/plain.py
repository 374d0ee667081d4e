"""What people write by hand, and the ceilings: the recipe's loop, `model.generate` and continuous batching.

None of them stops at the end of a line: a call generates as many tokens as a step of ours has on average (the recipe),
or as a question of ours took (the ceilings). So no side has more prompts for its tokens than another by chance, and all
tokens count. Temperature and distribution are ours: no top-k, which is transformers' default.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from bavt_fast.recipe.reference import BudgetAwareValueTreeSearch
from benchmarks.generation import rows
from benchmarks.generation.counters import PeakMemory, synchronize
from benchmarks.generation.models import TEMPERATURE, Subject
from benchmarks.generation.prefixes import Prefixes
from benchmarks.generation.rounds import Round
from benchmarks.generation.search import OurSearch
from benchmarks.harness import LeftOut


class PlainSide:
    """What the sides below share.

    Args:
        like: whose last round says how many tokens to generate; it takes its turn before.
    """

    who: str

    def __init__(self, subject: Subject, rows_at_once: int, like: OurSearch) -> None:
        self.at = subject.at(rows_at_once, rows_at_once, int(like.at["tokens"]))
        self._subject, self._rows, self._like = subject, rows_at_once, like
        self._rounds = 0

    def warm(self) -> None:
        """A few tokens: these have nothing to make."""
        ids = torch.tensor(self._prompt_ids()[:1], device=self._subject.device)
        generate(self._subject, ids, torch.ones_like(ids), 4)

    def _prompts(self) -> list[str]:
        """Those of the next round."""
        questions = self._subject.asked(self._rounds, self._rows)
        self._rounds += 1
        return [self._subject.prompt_of(question) for question in questions]

    def _prompt_ids(self) -> list[list[int]]:
        return [self._subject.ids_of(prompt) for prompt in self._prompts()]


class RecipeLoop(PlainSide):
    """The recipe's search of one question as it circulates, on `PlainModel`, until the budget of tokens is spent.

    Many questions one after the other go at the same speed, so one is enough.
    """

    who = rows.RECIPE

    def __init__(self, subject: Subject, like: OurSearch) -> None:
        super().__init__(subject, 1, like)

    def round(self) -> Round:
        (prompt,) = self._prompts()
        step_tokens = max(1, round(self._like.step_tokens))
        model = PlainModel(self._subject, int(self.at["tokens"]), step_tokens)
        memory = PeakMemory(self._subject.device)
        synchronize(self._subject.device)
        start_s = time.perf_counter()
        BudgetAwareValueTreeSearch(model, model).search(prompt.strip(), max_depth=10_000)
        seconds = time.perf_counter() - start_s
        figures = {
            rows.STEP_TOKENS: float(step_tokens),
            rows.PROMPT: model.computed_prompt_tokens / model.prefixes.needed,
            rows.MEMORY: memory.read() / 1e6,
        }
        return Round(model.tokens, seconds, seconds, figures)


class PlainModel:
    """Model and critic of the recipe: one `generate` for each candidate, and the text encoded again for its value."""

    def __init__(self, subject: Subject, budget_tokens: int, step_tokens: int) -> None:
        self.tokens = 0
        self.computed_prompt_tokens = 0
        self.prefixes = Prefixes()
        self._subject, self._budget_tokens, self._step_tokens = subject, budget_tokens, step_tokens

    def generate_next_steps(self, text: str, num_candidates: int) -> list[str]:
        """Fewer of them, and in the end none, where the budget does not reach for more."""
        steps = []
        while len(steps) < num_candidates and self.tokens < self._budget_tokens:
            steps.append(self._generate(text + "\n").strip())
        return steps

    @torch.no_grad()
    def estimate_residual_value(self, text: str) -> float:
        ids = self._ids_of(text)
        self.prefixes.add(ids[0].tolist())
        hidden = self._subject.model.base_model(ids, use_cache=False).last_hidden_state[:, -1]
        return self._subject.head(hidden).item()

    def _generate(self, prompt: str) -> str:
        ids = self._ids_of(prompt)
        most = min(self._step_tokens, self._budget_tokens - self.tokens)
        new = generate(self._subject, ids, torch.ones_like(ids), most)[0]
        self.tokens += len(new)
        self.prefixes.add(ids[0].tolist(), new)
        return self._subject.tokenizer.decode(new, skip_special_tokens=True)

    def _ids_of(self, text: str) -> torch.Tensor:
        ids = torch.tensor([self._subject.ids_of(text)], device=self._subject.device)
        self.computed_prompt_tokens += ids.numel()
        return ids


class Generate(PlainSide):
    """`model.generate` on a row for each question: the most that decoding in lock-step can give."""

    who = rows.GENERATE

    def round(self) -> Round:
        prompts = self._prompt_ids()
        new_tokens = round(self._like.question_tokens)
        prefixes = Prefixes()
        for prompt in prompts:
            prefixes.add(prompt)
        memory = PeakMemory(self._subject.device)
        synchronize(self._subject.device)
        start_s = time.perf_counter()
        ids, mask = padded(prompts, self._subject.device)
        generated = generate(self._subject, ids, mask, new_tokens)
        seconds = time.perf_counter() - start_s
        figures = {rows.PROMPT: ids.numel() / prefixes.needed, rows.MEMORY: memory.read() / 1e6}
        return Round(sum(map(len, generated)), seconds, seconds, figures)


class ContinuousBatching(PlainSide):
    """transformers' `generate_batch`, from the first request to the last answer: its cache and threads are there."""

    who = rows.CONTINUOUS

    def round(self) -> Round:
        return self.batch(round(self._like.question_tokens))

    def batch(self, new_tokens: int) -> Round:
        """So many tokens after each prompt. Raises `LeftOut` where this device or this transformers cannot."""
        prompts = self._prompt_ids()
        model = self._subject.model
        memory = PeakMemory(self._subject.device)
        implementation = model.config._attn_implementation
        try:
            from transformers import ContinuousBatchingConfig, GenerationConfig

            sampling = GenerationConfig(
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=0,
                max_new_tokens=new_tokens,
                eos_token_id=-1,  # no token ends the text
                pad_token_id=0,
            )
            # Room for all prompts in one pass, and not for what would fill the memory.
            cache = ContinuousBatchingConfig(num_blocks=4 * self._rows, max_batch_tokens=sum(map(len, prompts)))
            answers = model.generate_batch(prompts, generation_config=sampling, continuous_batching_config=cache)
            tokens = sum(len(answer.generated_tokens) for answer in answers.values())
            if tokens != new_tokens * self._rows:
                raise RuntimeError(f"{tokens} tokens of {new_tokens * self._rows}")
            start_s = min(answer.created_time for answer in answers.values())
            ends_s = [answer.lifespan[1] - start_s for answer in answers.values()]
        except Exception as error:
            raise LeftOut(f"generate_batch with {self._subject.name} ({type(error).__name__}: {error})") from error
        finally:
            model.set_attn_implementation(implementation)
        return Round(tokens, max(ends_s), min(ends_s), {rows.MEMORY: memory.read() / 1e6})


def padded(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) of prompts that end in one column."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def generate(subject: Subject, ids: torch.Tensor, mask: torch.Tensor, new_tokens: int) -> list[Any]:
    """The tokens of each row after its prompt, on the host: exactly so many."""
    rows_after: list[Any] = subject.model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        pad_token_id=0,
    )[:, ids.shape[1] :].tolist()
    return rows_after
