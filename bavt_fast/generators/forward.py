"""One forward pass of a causal language model: token ids in; the last column's logits and hidden states out.

The hidden state is what the output head reads: the last layer's, normed. It is caught on its way into the head, so no
other layer's states are kept and nothing is computed twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from bavt_fast.device_queue import Spans
from bavt_fast.generators.kv_cache import Layout
from bavt_fast.generators.model_checks import ModelFacts
from bavt_fast.threads import ComputeThreads, Turns

__all__ = ["Forward", "head_inputs"]


class Forward:
    """Calls a model.

    Args:
        model: a transformers causal language model, or a wrapper around one that calls it.
        facts: of the model.
        measure: on a GPU, take the times of passes there; see `Spans`.
        threads: of a pass on the CPU; None to choose by its work.

    Attributes:
        device: where token ids go.
        passes: forward passes so far.
    """

    def __init__(self, model: Any, facts: ModelFacts, measure: bool = False, threads: int | None = None) -> None:
        self.model = model
        self.facts = facts
        self.device = facts.device
        self.cache_name = "cache" if "cache" in facts.parameters else "past_key_values"
        self.threads = ComputeThreads(facts.device, facts.num_weights, facts.num_layers, threads)
        self.measure = measure
        self.spans = Spans(facts.device, measure)
        self.passes = 0

    def __call__(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Any, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Computes the next tokens of some rows.

        Args:
            ids: int64 (rows, columns), aligned at their ends.
            mask: bool (rows, cached and new columns), False for padding; None where there is none.
            positions: int64 (rows, columns) of the tokens in their texts.
            cache: a transformers cache; it takes in the new columns.
            kept: columns of one row whose results are wanted; None for the last one of each row.

        Returns:
            Logits (rows, vocabulary) and hidden states (rows, H) of the last column, or of those that are kept.
        """
        result: tuple[Tensor, Tensor] = self.timed(lambda: self.untimed(ids, mask, positions, cache, kept), ids.numel())
        return result

    @torch.no_grad()
    def untimed(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Any, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same, as a part of something that is counted."""
        arguments: dict[str, Any] = {self.cache_name: cache, "use_cache": True}
        if "position_ids" in self.facts.parameters and positions is not None:
            arguments["position_ids"] = positions + self.facts.first_position  # new ones: XGLM changes them in place
        if mask is None and "cache_position" in self.facts.parameters:  # transformers before 5.4: StableLM needs a mask
            mask = torch.ones(ids.shape[0], cache.get_seq_length() + ids.shape[1], dtype=torch.bool, device=ids.device)
        if "logits_to_keep" in self.facts.parameters:
            arguments["logits_to_keep"] = 1 if kept is None else kept
        with head_inputs(self.model, self.facts.output_head) as caught:
            output = self.model(input_ids=ids, attention_mask=mask, **arguments)
        logits = output.logits
        hidden = caught[-1].reshape(ids.shape[0], -1, caught[-1].shape[-1])
        if kept is None:
            return logits[:, -1].to(self.device), hidden[:, -1].to(self.device)
        return tuple(
            (found if found.shape[1] == len(kept) else found[:, kept])[0].to(self.device) for found in (logits, hidden)
        )  # type: ignore[return-value]

    def timed(self, call: Callable[[], Any], tokens: int = 1) -> Any:
        """The result of a forward pass over so many tokens, which is counted."""
        with self.spans.one(), self.threads.of_pass(tokens):
            result = call()
        self.passes += 1
        return result

    @property
    def seconds(self) -> float:
        """Spent in the model so far."""
        return self.spans.seconds

    def layout(self) -> Layout:
        """Where the model's keys and values lie, found by looking at what it caches of one token."""
        cache: Any = DynamicCache()
        one = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        self(one, None, one, cache)
        return Layout([(layer.keys, layer.values) for layer in cache.layers])


@contextmanager
def head_inputs(model: Any, head: nn.Module) -> Iterator[list[Tensor]]:
    """What this thread's passes inside give to a model's output head; other threads may use the model meanwhile.

    Of a model that torch.compile wraps they take turns: what is compiled of a hook cannot tell threads apart.
    """
    seen: list[Tensor] = []
    thread = threading.get_ident()

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.compiler.is_compiling() or threading.get_ident() == thread:
            seen.append(inputs[0])

    with _COMPILED if hasattr(model, "_orig_mod") else nullcontext():
        handle = head.register_forward_pre_hook(note)
        try:
            yield seen
        finally:
            handle.remove()


_COMPILED = Turns("model")
