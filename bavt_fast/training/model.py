"""The embedded model: its tokenizer, its configuration and the joint network (language model plus value head)."""

from __future__ import annotations

import math
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from bavt_fast.tasks.countdown.task import MAX_VALUE
from bavt_fast.training.states import OPERATORS

PAD, UNKNOWN, TARGET, LEFT, EQUALS, CLOSE = "[PAD]", "[UNK]", "Target:", "(left:", "=", "##)"
NUMBER_PERIODS = (2, 3, 4, 5, 7, 10, 11, 13, 16, 25, 50, 100, 250, 1000)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per integer 0-999, operator and bracket: ``6 * 4 = 24 (left: 5 10 24)`` is 10 tokens.

    A closing bracket continues the word before it (WordPiece), so that decoding gives the text back exactly.
    """
    words = [str(n) for n in range(MAX_VALUE + 1)] + list(OPERATORS) + [EQUALS, TARGET, LEFT, CLOSE, PAD, UNKNOWN]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


def build_config(hidden_size: int, layers: int, mlp_size: int, heads: int) -> LlamaConfig:
    """A Llama whose vocabulary is padded to a multiple of 8; contexts are a problem and one step, 64 tokens at most."""
    vocabulary = MAX_VALUE + 1 + len(OPERATORS) + 6
    return LlamaConfig(
        vocab_size=-(-vocabulary // 8) * 8,
        hidden_size=hidden_size,
        intermediate_size=mlp_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=vocabulary - 2,
        dtype="float32",
    )


def number_features(width: int) -> torch.Tensor:
    """Fourier and logarithmic features of 0..999, ``(1000, width)`` by a fixed random projection.

    Periods that divide a number show divisibility; the logarithm makes products additive.
    """
    n = torch.arange(MAX_VALUE + 1, dtype=torch.float32)
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


def value_head(hidden_size: int) -> nn.Sequential:
    """``Linear(H, 2H) -> ReLU -> Linear(2H, 1)``: the shape of ``ResidualValuePredictor.predictor``."""
    return nn.Sequential(nn.Linear(hidden_size, 2 * hidden_size), nn.ReLU(), nn.Linear(2 * hidden_size, 1))


class JointModel(nn.Module):
    """A causal language model and a value head on the same hidden states, trained together."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        # On sequences of 20 tokens the eager attention is twice as fast as the fused one of the CPU.
        self.lm: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        self.head = value_head(config.hidden_size)
        with torch.no_grad():
            embedding = self.lm.get_input_embeddings().weight
            embedding.normal_(0.0, 0.02)
            embedding[: MAX_VALUE + 1] += 0.05 * number_features(config.hidden_size)

    def forward(
        self, ids: torch.Tensor, value_positions: list[int], step_start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the tokens from ``step_start`` on, and value logits at ``value_positions``.

        ids: int64 (batch, length). Returns (batch, length - step_start, vocabulary) and (batch, positions).
        """
        hidden = self.lm.model(input_ids=ids, use_cache=False).last_hidden_state
        values = self.head(hidden[:, value_positions]).squeeze(-1)
        return self.lm.lm_head(hidden[:, step_start - 1 : -1]), values
