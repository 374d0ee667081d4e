"""A generator over models of many families: cached equals uncached, over random trees of contexts.

The oracle is by hand: whole contexts, one at a time, without a cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from model_families import LETTERS, SPECIAL, VOCABULARY, build_model, build_tokenizer, families, fresh_pass

from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.protocols import Node, Sampling, Step, StepRequest

END_OF_TEXT = SPECIAL.index("<eos>")
LINE_BREAK = len(SPECIAL) + LETTERS.index("\n")
GREEDY = Sampling(temperature=0.0)
TIE = 1e-3
"""Of two logits closer than this, rounding may make either the larger one."""


class _Tree:
    """A tree of contexts that grows by what a generator proposes, every step of it compared with the oracle."""

    def __init__(self, model: Any, seed: int, prompts: int) -> None:
        self.model = model
        self.random = np.random.default_rng(seed)
        self.tokenizer = build_tokenizer()
        shared = self._letters(7)
        self.nodes = [Node(None, shared[: self.random.integers(1, 8)] + self._letters(3)) for _ in range(prompts)]
        self.checked = 0

    def _letters(self, count: int) -> str:
        return "".join(self.random.choice(list(LETTERS[1:]), count))

    def grow(self, generator: TorchGenerator, waves: int) -> None:
        for _ in range(waves):
            requests = [self._request() for _ in range(self.random.integers(1, 5))]
            counts = self.random.integers(1, 3, len(requests)).tolist()
            limits = self.random.integers(1, 6, len(requests)).tolist()
            answers = generator.propose(requests, counts, limits)
            for request, count, limit, steps in zip(requests, counts, limits, answers, strict=True):
                assert not isinstance(steps, Exception)
                assert len(steps) <= count
                for step in steps:
                    self._check(request, step, limit)
                    if step.finish_reason != "end":
                        self.nodes.append(Node(None, None, request.node, step))
                    request.node.add_try(step)

    def _request(self) -> StepRequest:
        """From the youngest node as often as from all others: deep paths, and old nodes once more."""
        node = self.nodes[-1] if self.random.random() < 0.5 else self.nodes[self.random.integers(len(self.nodes))]
        seed = int(self.random.integers(2**62))
        if self.random.random() < 0.5:
            return StepRequest(node, seed, sampling=GREEDY)
        return StepRequest(node, seed, node.tried)

    def _check(self, request: StepRequest, step: Step, limit: int) -> None:
        prompt, steps = request.node.context()
        context = self.tokenizer(prompt)["input_ids"] + [token for past in steps for token in past.token_ids]
        count = len(step.token_ids)
        logits, hidden = fresh_pass(self.model, [*context, *step.token_ids[:-1]], count)
        logits = logits[:, :VOCABULARY]  # no token has the ids above
        chosen = logits[range(count), step.token_ids]
        if request.sampling == GREEDY:
            assert bool((chosen >= logits.amax(1) - TIE).all())
        expected = float((chosen - logits.logsumexp(1)).sum())
        assert step.total_log_probability() == pytest.approx(expected, rel=1e-4, abs=1e-3)
        torch.testing.assert_close(step.hidden, hidden[-1], rtol=1e-4, atol=1e-4)
        assert self._ends(step.token_ids) == ([] if step.finish_reason == "limit" else [count])
        assert (step.token_ids[-1] == END_OF_TEXT) == (step.finish_reason == "end")
        assert count == limit or (count < limit and step.finish_reason != "limit")
        self.checked += 1

    def _ends(self, tokens: Sequence[int]) -> list[int]:
        """After how many tokens a step is over: at the end of the text, or a line break with something before it."""
        written = itertools.accumulate(token > LINE_BREAK for token in tokens)
        return [
            i
            for i, (token, letters) in enumerate(zip(tokens, written, strict=True), 1)
            if token == END_OF_TEXT or (token == LINE_BREAK and letters)
        ]


@pytest.mark.parametrize("name", families())
def test_cached_equals_uncached(name: str) -> None:
    model = build_model(name)
    tree = _Tree(model, seed=0, prompts=2)
    tree.grow(TorchGenerator(model, tree.tokenizer), waves=10)
    assert tree.checked > 25
    assert max(len(node.context()[1]) for node in tree.nodes) > 3


@pytest.mark.parametrize(
    ("name", "store_bytes"), [*((name, 4_000) for name in families("plain")), ("llama", 0), ("gemma3", 0)]
)
def test_cached_equals_uncached_after_eviction(name: str, store_bytes: int) -> None:
    model = build_model(name)
    tree = _Tree(model, seed=1, prompts=2)
    generator = TorchGenerator(model, tree.tokenizer, max_batch=3, store_bytes=store_bytes)
    tree.grow(generator, waves=5)
    assert tree.checked > 10
    statistics = generator.statistics()
    assert statistics.store_bytes <= store_bytes
    assert (statistics.store_evictions > 0) == (store_bytes > 0)


def test_positions_may_begin_behind_a_padding_id() -> None:
    """RoBERTa's do. Rows of several lengths, and one to the end of its context."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    ids = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.RobertaConfig(**sizes, **ids, max_position_embeddings=24, is_decoder=True)
    torch.manual_seed(0)
    model = transformers.RobertaForCausalLM(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0.0, 0.3)
        model.roberta.embeddings.position_embeddings.weight.normal_(0.0, 1.0)
    tokenizer = build_tokenizer()
    generator = TorchGenerator(model, tokenizer, delimiter=())
    texts = ["abc", "abcdefghi", "zyxwvutsrqponm"]
    rows = generator.propose([StepRequest(text, seed) for seed, text in enumerate(texts)], [1] * 3, [4, 4, 99])
    assert rows[-1][0].finish_reason == "end" or len(texts[-1]) + rows[-1][0].tokens == 23
    for text, (step,) in zip(texts, rows, strict=True):
        context = [*tokenizer(text)["input_ids"], *step.token_ids]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context[:-1]])).logits[0, -step.tokens :, :VOCABULARY]
        expected = logits.softmax(-1)[range(step.tokens), step.token_ids]
        torch.testing.assert_close(torch.tensor(step.token_probabilities), expected, rtol=1e-3, atol=1e-5)
