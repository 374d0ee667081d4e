"""One forward pass of a causal language model: token ids in; the last column's logits and hidden states out.

The hidden state is what the output head reads: the last layer's, normed. It is caught on its way into the head, so no
other layer's states are kept and nothing is computed twice.
"""

from __future__ import annotations

import inspect
import time
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from bavt_fast.generators.kv_cache import Layout

__all__ = ["Forward"]


class Forward:
    """Calls a model.

    Args:
        model: a transformers causal language model, or a wrapper around one that calls it.
        measure: wait for the device after each pass, so that `seconds` is right there too.

    Attributes:
        seconds: spent in the model so far.
        passes: forward passes so far.
    """

    def __init__(self, model: Any, measure: bool = False) -> None:
        self.model = model
        self.head = model.get_output_embeddings()
        self.device: torch.device = model.get_input_embeddings().weight.device
        parameters = inspect.signature(_unwrapped(model).forward).parameters
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._takes_positions = "position_ids" in parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self.measure = measure
        self.seconds = 0.0
        self.passes = 0

    @torch.no_grad()
    def __call__(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Any) -> tuple[Tensor, Tensor]:
        """Computes the next tokens of some rows.

        Args:
            ids: int64 (rows, columns), aligned at their ends.
            mask: bool (rows, cached and new columns), False for padding; None where there is none.
            positions: int64 (rows, columns) of the tokens in their texts.
            cache: a transformers cache; it takes in the new columns.

        Returns:
            Logits (rows, vocabulary) and hidden states (rows, H) of the last column.
        """
        start = time.perf_counter()
        arguments: dict[str, Any] = {self.cache_name: cache, "use_cache": cache is not None}
        if self._takes_positions:
            arguments["position_ids"] = positions
        if self._keeps_logits:
            arguments["logits_to_keep"] = 1
        caught: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
        try:
            logits = self.model(input_ids=ids, attention_mask=mask, **arguments).logits[:, -1]
        finally:
            hook.remove()
        if self.measure and logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        self.passes += 1
        self.seconds += time.perf_counter() - start
        return logits, caught[-1].reshape(ids.shape[0], -1, caught[-1].shape[-1])[:, -1]

    def layout(self) -> Layout:
        """Where the model's keys and values lie, found by looking at what it caches of one token."""
        cache: Any = DynamicCache(config=_unwrapped(self.model).config.get_text_config(decoder=True))
        one = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        self(one, None, one, cache)
        return Layout([(layer.keys, layer.values) for layer in cache.layers])


def _unwrapped(model: Any) -> Any:
    """The transformers model inside wrappers such as torch.compile's and PEFT's."""
    for name in ("_orig_mod", "base_model"):
        inner = getattr(model, name, None)
        if name == "_orig_mod" and inner is not None:
            model = inner
    get_base_model = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()
