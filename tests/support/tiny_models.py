"""Tiny random language models, and what a plain forward of one says."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers

from bavt_fast.tasks.countdown.training.model import build_config

NAMED = 1010  # ids of the real tokenizer; its models have a few more, which nobody may sample


def tiny_model(spread: float = 0.3, seed: int = 0) -> Any:
    """A random Llama of width 32 for the real tokenizer; ``spread`` sharpens its distributions."""
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(build_config(hidden_size=32, layers=2, mlp_size=64, heads=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, spread)
    return model


def tiny_vocabulary_model(size: int) -> Any:
    """The same for so few tokens that their steps can be enumerated."""
    config = build_config(hidden_size=32, layers=2, mlp_size=64, heads=2)
    config.vocab_size, config.pad_token_id = size, None
    torch.manual_seed(1)
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0.0, 0.04)
    return model


def forward(model: Any, ids: list[int]) -> tuple[np.ndarray, Any]:
    """Next-token logits and the last layer's hidden state at the last position, from a fresh forward."""
    with torch.no_grad():
        hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        return model.lm_head(hidden).double().numpy()[:NAMED], hidden


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum())
