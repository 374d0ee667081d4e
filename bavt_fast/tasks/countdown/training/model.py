"""The embedded model: its tokenizer, its configuration and its number embeddings."""

from __future__ import annotations

import math

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from bavt_fast.tasks.countdown.task import MAX_NUMBERS, OPERATORS
from bavt_fast.tasks.countdown.training.states import pairs_of
from bavt_fast.tasks.countdown.training.vocabulary import NUM_NUMBERS, PAD, PAD_ID, UNKNOWN, WORD_IDS
from bavt_fast.training.course import Sizes
from bavt_fast.training.model import JointModel

NUMBER_PERIODS = (2, 3, 4, 5, 7, 10, 11, 13, 16, 25, 50, 100, 250, 1000)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of `WORD_IDS`: ``6 * 4 = 24 (left: 5 10 24)`` is 10 tokens."""
    tokenizer = Tokenizer(models.WordPiece(WORD_IDS, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


def build_config(hidden_size: int, layers: int, mlp_size: int, heads: int) -> LlamaConfig:
    """A Llama whose vocabulary is padded to a multiple of 8; contexts are a problem and one step, 64 tokens at most."""
    return LlamaConfig(
        vocab_size=-(-len(WORD_IDS) // 8) * 8,
        hidden_size=hidden_size,
        intermediate_size=mlp_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=PAD_ID,
        dtype="float32",
    )


def number_features(width: int) -> torch.Tensor:
    """Fourier and logarithmic features of 0..999, ``(1000, width)`` by a fixed random projection.

    Periods that divide a number show divisibility; the logarithm makes products additive.
    """
    n = torch.arange(NUM_NUMBERS, dtype=torch.float32)
    columns = [torch.log1p(n) / math.log(1000), n / 1000, torch.sqrt(n / 1000), (n < 10).float(), (n < 100).float()]
    columns += [torch.log1p(n) - 0.7 * torch.log1p(n).mean()]
    for period in NUMBER_PERIODS:
        columns += [torch.cos(2 * math.pi * n / period), torch.sin(2 * math.pi * n / period)]
    for cycles in (1, 2, 4, 8, 16):  # phases of log n: equal ratios are equal rotations
        phase = 2 * math.pi * cycles * torch.log1p(n) / math.log(1000)
        columns += [torch.cos(phase), torch.sin(phase)]
    features = torch.stack(columns, dim=1)
    features = (features - features.mean(0)) / features.std(0)
    projection = torch.randn(features.shape[1], width, generator=torch.Generator().manual_seed(0))
    return features @ projection / math.sqrt(features.shape[1])


def new_model(sizes: Sizes) -> JointModel:
    """An untrained model whose number embeddings start from what numbers are."""
    successors = {k: len(pairs_of(k)[0]) * len(OPERATORS) for k in range(2, MAX_NUMBERS + 1)}
    model = JointModel(build_config(sizes.hidden_size, sizes.layers, sizes.mlp_size, sizes.heads), successors)
    with torch.no_grad():
        model.lm.get_input_embeddings().weight[:NUM_NUMBERS] += 0.05 * number_features(sizes.hidden_size)
    return model
