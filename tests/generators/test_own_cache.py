"""Models that keep a context in a way of their own: each says what passes over the whole context say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from model_families import FAMILIES, VOCABULARY, build_model, build_tokenizer, families, fresh_pass

from bavt_fast.generators.own_cache import DecodingPlan, OwnCacheDecoder, has_plain_cache, plan_decoding
from bavt_fast.generators.torch_model import TorchGenerator
from bavt_fast.protocols import GenerationError, Node, StepRequest


class _Remembering(transformers.LlamaForCausalLM):  # type: ignore[misc]
    """Keys and values in every layer, and something beside them that no cache holds."""

    def forward(self, input_ids: Any = None, past_key_values: Any = None, cache: Any = None, **options: Any) -> Any:
        given = cache if past_key_values is None else past_key_values
        if given is None or given.get_seq_length() == 0:
            self.total = torch.zeros(len(input_ids))
        self.total = self.total + input_ids.sum(1)
        name = (
            "cache" if hasattr(transformers.modeling_outputs.CausalLMOutputWithPast(), "cache") else "past_key_values"
        )
        output = super().forward(input_ids=input_ids, **{name: given}, **options)
        output.logits = output.logits * (1 + self.total[:, None, None])
        return output


def _assert_fresh(model: Any, contexts: list[list[int]], logits: torch.Tensor, hidden: torch.Tensor) -> None:
    assert len(logits) == len(hidden) == len(contexts)
    for context, found_logits, found_hidden in zip(contexts, logits, hidden, strict=True):
        (expected_logits,), (expected_hidden,) = fresh_pass(model, context)
        torch.testing.assert_close(found_logits, expected_logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found_hidden, expected_hidden, rtol=1e-4, atol=1e-4)
        best = expected_logits.topk(2).values
        if best[0] - best[1] > 1e-3:
            assert found_logits.argmax() == expected_logits.argmax()


@pytest.mark.parametrize("name", families())
def test_a_plain_cache_is_told_from_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(name)
    assert has_plain_cache(model) == (FAMILIES[name].kind == "plain")
    monkeypatch.setattr(type(model), "_is_stateful", False)  # it is not by what a model says of itself alone
    assert has_plain_cache(model) == (FAMILIES[name].kind == "plain")


@pytest.mark.parametrize("name", families())
def test_cached_equals_uncached(name: str) -> None:
    model, random = build_model(name), np.random.default_rng(0)
    plan = plan_decoding(model)
    decoders = [OwnCacheDecoder(model, plan) for _ in range(3)]
    groups = [random.integers(3, VOCABULARY, (rows, length)).tolist() for rows, length in ((4, 9), (3, 1), (2, 2))]
    groups[0][2] = list(groups[0][0])  # equal contexts, which part later
    logits = []
    for decoder, contexts in zip(decoders, groups, strict=True):
        found, hidden = decoder.begin(contexts)
        _assert_fresh(model, contexts, found, hidden)
        logits.append(found)
    for step in range(4):
        for i, decoder in enumerate(decoders):  # taking turns
            if step == 2:
                rows = random.permutation(len(groups[i]))[: len(groups[i]) - 1].tolist()
                decoder.keep(rows)
                groups[i] = [groups[i][row] for row in rows]
                logits[i] = logits[i][rows]
            tokens = logits[i].argmax(1)
            tokens[0] = int(random.integers(3, VOCABULARY))
            groups[i] = [[*context, token] for context, token in zip(groups[i], tokens.tolist(), strict=True)]
            logits[i], hidden = decoder.advance(tokens)
            _assert_fresh(model, groups[i], logits[i], hidden)


@pytest.mark.parametrize(
    "name", [n for n in ("mamba", "jamba", "bamba", "falcon_h1", "qwen3_next", "lfm2") if n in families()]
)
def test_hybrids_keep_their_cache(name: str) -> None:
    assert plan_decoding(build_model(name)).keeps_cache


def test_a_state_outside_the_cache_is_noticed() -> None:
    model = build_model("llama")
    model.__class__ = _Remembering
    assert not has_plain_cache(model)
    assert plan_decoding(model) == DecodingPlan(keeps_cache=False)


def test_a_decoder_begins_anew() -> None:
    model = build_model("llama")
    decoder = OwnCacheDecoder(model)
    decoder.begin([[3, 4, 5], [6, 7, 8]])
    decoder.keep([])
    contexts = [[9, 10], [11, 12], [9, 10]]
    _assert_fresh(model, contexts, *decoder.begin(contexts))


def test_a_compiled_model_is_looked_into() -> None:
    assert has_plain_cache(torch.compile(build_model("llama")))
    assert plan_decoding(torch.compile(build_model("mamba"))) == plan_decoding(build_model("mamba"))


@pytest.mark.parametrize("contexts", [[], [[]], [[3, 4], [5]]])
def test_contexts_of_several_lengths_are_refused(contexts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="contexts: expected rows of one length"):
        OwnCacheDecoder(build_model("llama"), DecodingPlan(keeps_cache=True)).begin(contexts)


def test_a_wrong_number_of_tokens_is_refused() -> None:
    decoder = OwnCacheDecoder(build_model("llama"), DecodingPlan(keeps_cache=True))
    decoder.begin([[3, 4], [5, 6]])
    with pytest.raises(ValueError, match=r"tokens: expected shape \(2,\)"):
        decoder.advance(torch.tensor([3]))


def test_a_model_that_reads_nothing_is_refused() -> None:
    model = build_model("llama")
    model.model.layers[1].mlp.down_proj = torch.nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"(?s)model: expected one that reads a few tokens, got RuntimeError in the f"):
        TorchGenerator(model, build_tokenizer())


def test_a_head_that_reads_several_states_of_a_token_is_refused() -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_decoder_layers": 1, "num_decoder_attention_heads": 4}
    config = transformers.ProphetNetConfig(**sizes, decoder_ffn_dim=48, ngram=2, is_encoder_decoder=False)
    with pytest.raises(ValueError, match="model: expected an output head that reads one state for each token, got"):
        TorchGenerator(transformers.ProphetNetForCausalLM(config), build_tokenizer())


@pytest.mark.parametrize("check", [has_plain_cache, OwnCacheDecoder])
def test_an_encoder_decoder_is_refused(check: Any) -> None:
    sizes = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 1, "num_heads": 4}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=VOCABULARY, **sizes)).eval()
    with pytest.raises(ValueError, match="model: expected a decoder-only language model, got the encoder-decoder T5"):
        check(model)


# --- memory


def _short_of_memory(model: Any, fails: Callable[[int, int], bool]) -> list[int]:
    """Makes passes of a model fail: (number of the pass, rows) -> whether this one does. The rows of those that did."""
    original, passes, failures = model.forward, count(), []

    def forward(input_ids: Any, **options: Any) -> Any:
        if fails(next(passes), len(input_ids)):
            failures.append(len(input_ids))
            raise RuntimeError("can't allocate memory: you tried to allocate more than there is (a test)")
        return original(input_ids=input_ids, **options)

    model.forward = forward
    return failures


def _in_batches() -> Any:
    """A model whose rows go through it together: with transformers 5.0 Mamba's go one by one."""
    models = [build_model(name) for name in ("mamba", "lfm2") if name in families()]
    return next(model for model in models if plan_decoding(model).in_batches)


def _requests() -> list[StepRequest]:
    return [StepRequest("abc"[: 1 + seed % 3] * 4, seed) for seed in range(12)]


def _ids(rows: Any) -> list[list[tuple[int, ...]]]:
    return [[step.token_ids for step in row] for row in rows]


@pytest.mark.parametrize("name", ["mamba", "lfm2"])
@pytest.mark.parametrize(
    "fails",
    [
        lambda number, rows: rows > 1,
        lambda number, rows: rows > 3,
        lambda number, rows: number in (4, 11, 12),
        lambda number, rows: number > 5 and rows > 2,
    ],
)
def test_out_of_memory_makes_the_groups_smaller(name: str, fails: Any) -> None:
    """In a pass that begins a group, and in one that goes on: what was drawn is neither lost nor drawn anew."""
    if name not in families():
        pytest.skip("not in this transformers")
    model = build_model(name)
    if not plan_decoding(model).in_batches:
        pytest.skip("its rows go one by one in this transformers")
    wanted = TorchGenerator(model, build_tokenizer(), delimiter="z").propose(_requests(), [2] * 12, [9] * 12)
    generator = TorchGenerator(model, build_tokenizer(), delimiter="z", max_batch=16)
    failures = _short_of_memory(model, fails)
    rows = generator.propose(_requests(), [2] * 12, [9] * 12)
    assert failures
    assert _ids(rows) == _ids(wanted)
    for row, other in zip(rows, wanted, strict=True):
        torch.testing.assert_close(row[0].hidden, other[0].hidden, rtol=1e-3, atol=1e-4)
    sampler = generator._scheduler.sampler
    assert sorted(sampler._free) == list(range(len(sampler._count)))


def test_out_of_memory_with_one_row_of_a_group_says_so() -> None:
    model = build_model("mamba")
    generator = TorchGenerator(model, build_tokenizer(), delimiter="z")
    _short_of_memory(model, lambda number, rows: True)
    rows = generator.propose(_requests(), [2] * 12, [9] * 12)
    assert all(isinstance(row, GenerationError) and "out of memory with one row" in str(row) for row in rows)
    assert all(
        isinstance(state, GenerationError) and "out of memory" in str(state)
        for state in generator.read([request.node for request in _requests()])
    )


def test_what_waits_for_memory_is_charged_when_it_is_given_up() -> None:
    """By its deadline, by hand, or as something else fails."""
    model = _in_batches()
    generator = TorchGenerator(model, build_tokenizer(), delimiter="z")
    _short_of_memory(model, lambda number, rows: number == 4)
    generator.submit(range(12), _requests(), [1] * 12, [9] * 12)
    for _ in range(2):
        generator._scheduler.advance()
    waiting = [context.resumes for context in generator._scheduler.waiting]
    assert all(waiting)
    assert waiting
    spent = generator.discard(range(12))
    assert {taken.tokens for taken in spent.values()} == {1, 2}
    assert generator.collect() == []
    sampler = generator._scheduler.sampler
    assert sorted(sampler._free) == list(range(len(sampler._count)))


def test_states_are_read_in_smaller_groups_where_memory_is_short() -> None:
    model, nodes = _in_batches(), [Node(None, letter + "bc") for letter in "abcdefg"]
    wanted = TorchGenerator(model, build_tokenizer(), delimiter="z").read(nodes)
    generator = TorchGenerator(model, build_tokenizer(), delimiter="z")
    failures = _short_of_memory(model, lambda number, rows: rows > 2)
    found = generator.read(nodes)
    assert failures == [7, 4, 3]
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), rtol=1e-3, atol=1e-4)
