"""Where a transformers model takes its token ids, and from where it counts their positions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["first_position", "input_device"]


def input_device(model: Any) -> torch.device:
    """Where token ids go: where accelerate's hooks compute, or where the weights of the input embedding are.

    Raises:
        ValueError: neither is told.
    """
    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else model
    for module in (embedding, model):
        for hook in _hooks(module):
            if (device := getattr(hook, "execution_device", None)) is not None:
                return _as_device(device)
    weight = next(embedding.parameters(), None)
    if weight is None or weight.device.type == "meta":
        raise ValueError(
            "model: expected to find the device of its input embedding, got offloaded weights whose hooks name none; "
            "load it by from_pretrained(..., device_map='auto')"
        )
    found: torch.device = weight.device
    return found


def _hooks(module: Any) -> Iterator[Any]:
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        yield from getattr(hook, "hooks", (hook,))  # accelerate's SequentialHook


def _as_device(device: Any) -> torch.device:
    """accelerate names the accelerators by numbers."""
    if isinstance(device, int):
        kind = torch.accelerator.current_accelerator()
        return torch.device("cuda" if kind is None else kind.type, device)
    return torch.device(device)


def first_position(model: Any) -> int:
    """The position of a text's first token: 0, but in models after RoBERTa, whose embedding of positions has a padding
    id. There they are counted from the one behind it."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    most = getattr(config, "max_position_embeddings", None)
    if most is None or not hasattr(model, "modules"):
        return 0
    words = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module is not words and module.num_embeddings == most:
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0
