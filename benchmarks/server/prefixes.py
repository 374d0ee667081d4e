"""What vLLM had of the prompts of a search, of what it could have had: by its own counters."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers

from bavt_fast.budget import Budget
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.protocols import Step, StepRequest
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask
from benchmarks.harness import Row, row_of
from benchmarks.server import rows, serving

LETTERS = "abcdefghijklmnopqrstuvwxyz\n"
POSITIONS = 512


def letters(folder: Path) -> None:
    """A random Llama whose tokens are letters: a text of n letters is a prompt of n tokens."""
    vocabulary = {"<pad>": 0, **{letter: number + 1 for number, letter in enumerate(LETTERS)}}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


class Watched(OpenAIGenerator):
    """Knows what of each prompt the server could have, when it is asked: whole blocks that it has seen before."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: set[tuple[int, ...]] = set()
        self.could = self.prompts = 0

    async def _ask(self, request: StepRequest, candidate: int, limit: int, deadline: float | None) -> Step | None:
        prompt = self._prompt(request)
        ids = [LETTERS.index(letter) + 1 for letter in prompt] if isinstance(prompt, str) else prompt
        whole = self.note(ids)
        step = await super()._ask(request, candidate, limit, deadline)
        self.seen.update(whole)
        if step is not None:
            self.seen.update(blocks([*ids, *step.token_ids][:-1]))
        return step

    def note(self, ids: list[int]) -> list[tuple[int, ...]]:
        """Counts a prompt and what of it was seen. vLLM always computes a prompt's last token."""
        whole = blocks(ids)
        size = serving.BLOCK_TOKENS
        self.prompts += len(ids)
        self.could += size * min(sum(block in self.seen for block in whole), (len(ids) - 1) // size)
        return whole


def blocks(ids: list[int]) -> list[tuple[int, ...]]:
    """Whole blocks of a text, each with all that is before it."""
    size = serving.BLOCK_TOKENS
    return [tuple(ids[: size * (place + 1)]) for place in range(len(ids) // size)]


def cache_hits(questions: int, tokens: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        letters(folder)
        assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == POSITIONS
        with serving.vllm(folder, POSITIONS) as (url, _):
            generator = Watched("m", base_url=url, delimiter="\n", token_ids=True, max_in_flight=questions)
            asked = [f"{LETTERS[number % 26] * 3}{LETTERS[:26] * 3}\n" for number in range(questions)]
            searcher = Searcher(generator, task=TextTask(max_depth=12), wave=questions, max_step_tokens=40)
            before = serving.metric(url, "prefix_cache_hits_total")
            searcher.search_many(asked, budget=Budget(tokens=tokens))
            hits = serving.metric(url, "prefix_cache_hits_total") - before
    at = {"questions": questions, "prompt_tokens": generator.prompts, "could_be_cached": generator.could}
    yield row_of(rows.HITS, rows.SEARCH, "%", [100 * hits / generator.could], at)
