"""Tiny random language models."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from bavt_fast.tasks.countdown.training.model import build_config


def tiny_model(spread: float = 0.3, seed: int = 0) -> Any:
    """A random Llama of width 32 for the real tokenizer; ``spread`` sharpens its distributions."""
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(build_config(hidden_size=32, layers=2, mlp_size=64, heads=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, spread)
    return model
