"""Decoding for models whose context is not plain keys and values: state space, linear attention, hybrids, recurrence.

A prefix store shares keys and values between the nodes of a tree. That is right only where they are all that a model
keeps of its context, which `has_plain_cache` finds out. Every other model goes through `OwnCacheDecoder`: the model
keeps its context however it does, and nothing is shared. What a model can do is never looked up by its name. It is
rehearsed once on a few tokens, and compared with passes over the whole context.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bavt_fast.generators.device_memory import is_out_of_memory
from bavt_fast.generators.forward import head_inputs
from bavt_fast.model_places import first_position, input_device

__all__ = ["DecodingPlan", "OwnCacheDecoder", "has_plain_cache", "plan_decoding"]


@dataclass(frozen=True)
class DecodingPlan:
    """How a model's context is kept from one token to the next.

    Attributes:
        keeps_cache: False where the whole context is computed again for every token.
        gives_cache: whether the cache is a `transformers.DynamicCache` made for the model's configuration; else the
            model makes its own.
        in_batches: whether the rows of a group share a cache, and can be taken out of it and repeated in it. Where not,
            every row has a cache, and forward passes, of its own.
        first_position: of a text's first token.
    """

    keeps_cache: bool
    gives_cache: bool = False
    in_batches: bool = True
    first_position: int = 0


_PLANS = tuple(DecodingPlan(True, gives, batches) for batches in (True, False) for gives in (False, True))
"""Best first."""

_REHEARSED = ((1, 2, 3), (4, 5, 6), (7, 8, 9))
_BETWEEN = ((9, 7), (5, 3))
"""Token ids. The second group is decoded between the passes of the first, so that a state kept in the model shows."""
_PADDED = ((4, 5, 6), (7, 8, 9), (8, 8, 7), (9, 9, 3))
_LONG = 2
"""Token ids of rows, of which so many are whole; of the others the first one is padding."""


class OwnCacheDecoder:
    """Decodes one group of contexts of equal length. No padding ever enters a state.

    Args:
        model: a transformers causal LM in eval mode.
        plan: from `plan_decoding`, for a caller that makes many decoders of one model; None to rehearse here.
    """

    def __init__(self, model: Any, plan: DecodingPlan | None = None) -> None:
        self.model = model
        self.plan = plan_decoding(model) if plan is None else plan
        self._batches: list[_Batch] = []  # one, or one for each row

    @torch.no_grad()
    def begin(self, contexts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads contexts, in the place of all before. Equal ones are computed once where the plan allows it.

        Args:
            contexts: (rows, tokens), all of one length of at least 1.

        Returns:
            Logits after each context, ``(rows, V)``, and what the output head read there, ``(rows, H)``.
        """
        lengths = {len(context) for context in contexts}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"contexts: expected rows of one length of at least 1, got lengths {sorted(lengths)}; "
                "begin a group of its own for each length"
            )
        if not self.plan.in_batches:
            self._batches = [_Batch(self.model, self.plan, [context]) for context in contexts]
            return _joined([batch.read_all() for batch in self._batches])
        number: dict[tuple[int, ...], int] = {}
        rows = [number.setdefault(tuple(context), len(number)) for context in contexts]
        self._batches = [_Batch(self.model, self.plan, list(number))]
        logits, hidden = self._batches[0].read_all()
        if len(number) == len(rows):
            return logits, hidden
        self._batches[0].select(rows)
        return logits[rows], hidden[rows]

    @torch.no_grad()
    def advance(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends a token to each row: int64 ``(rows,)``. Returns logits and hidden states after it, as `begin`."""
        rows = sum(batch.rows for batch in self._batches)
        if tokens.shape != (rows,):
            raise ValueError(f"tokens: expected shape ({rows},), one for each row, got {tuple(tokens.shape)}")
        columns = tokens.split([batch.rows for batch in self._batches])
        return _joined([batch.advance(column) for batch, column in zip(self._batches, columns, strict=True)])

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> None:
        """Keeps these of the current rows, in this order, and drops the others. Where none is kept, begin again."""
        if self.plan.in_batches and len(rows) > 0:
            self._batches[0].select(rows)
        else:
            self._batches = [self._batches[row] for row in rows]


class _Batch:
    """Rows that go through the model together, and what it keeps of them."""

    def __init__(self, model: Any, plan: DecodingPlan, contexts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.plan = plan
        self._ids = torch.tensor(contexts, device=input_device(model))  # (rows, tokens)
        self._arguments: dict[str, Any] = {}  # of the next pass, as transformers' own generation keeps them

    @property
    def rows(self) -> int:
        return len(self._ids)

    def read_all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads the whole context."""
        tokens = self._ids.shape[1]
        arguments: dict[str, Any] = {"use_cache": self.plan.keeps_cache}
        if self.plan.gives_cache:
            arguments[_cache_argument(self.model)] = _dynamic_cache(self.model.config.get_text_config(decoder=True))
        if hasattr(self.model, "_get_initial_cache_position"):  # transformers before 5.4
            arguments = self.model._get_initial_cache_position(tokens, self._ids.device, arguments)
        self._arguments = arguments
        return self._read(self.model.prepare_inputs_for_generation(self._ids, is_first_iteration=True, **arguments))

    def advance(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads one token more in each row."""
        self._ids = torch.cat([self._ids, tokens.to(self._ids)[:, None]], dim=1)
        # Some models take a context of one token for a token to go on with: what they keep of it is not trusted.
        if not self.plan.keeps_cache or self._ids.shape[1] == 2:
            return self.read_all()
        only_last = {"next_sequence_length": 1} if _slices_inputs() else {}
        return self._read(self.model.prepare_inputs_for_generation(self._ids, **only_last, **self._arguments))

    def select(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self._ids.device)
        self._ids = self._ids[index]
        for value in self._arguments.values():
            if hasattr(value, "reorder_cache"):
                value.reorder_cache(index)

    def _read(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        if "position_ids" in _arguments(self.model):
            tokens = self._ids.shape[1]
            read = inputs["input_ids"].shape[1]
            first = self.plan.first_position
            positions = torch.arange(first + tokens - read, first + tokens, device=self._ids.device)
            inputs["position_ids"] = positions.repeat(self.rows, 1)
        output, hidden = _forward(self.model, inputs)
        if self.plan.keeps_cache:
            self._arguments = self.model._update_model_kwargs_for_generation(output, self._arguments)
        return output.logits[:, -1], hidden


def _joined(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    if len(parts) == 1:
        return parts[0]
    return torch.cat([logits for logits, _ in parts]), torch.cat([hidden for _, hidden in parts])


def has_plain_cache(model: Any) -> bool:
    """Whether keys and values of every token, in every layer, are all that a model keeps of its context.

    A layer that attends to a window of the last tokens is plain: the window is the mask's business. The model reads
    rows of two lengths with a cache that can hold keys and values only, something else, and then one token more. One
    that takes what its cache holds for the position of a token that it reads has more of a context than that.

    Raises:
        ValueError: an encoder-decoder.
    """
    model = _uncompiled(model)
    _refuse_encoder_decoder(model)
    name = _cache_argument(model)
    if not name or getattr(model, "_is_stateful", False):
        return False
    ids = _tokens(model, _PADDED)
    cache = _dynamic_cache()
    try:
        with torch.no_grad():
            _forward(model, {**_padded(model, ids, 0, 2), name: cache, "use_cache": True})
            _forward(model, {"input_ids": _tokens(model, _BETWEEN), name: _dynamic_cache(), "use_cache": True})
            output, hidden = _forward(model, {**_padded(model, ids, 2, 3), name: cache, "use_cache": True})
            whole = [
                _forward(model, {"input_ids": rows, "use_cache": False})[0].logits[:, -1]
                for rows in (ids[:_LONG], ids[_LONG:, 1:])
            ]
    except Exception as error:  # a model is free to raise anything over a cache that it cannot use
        if is_out_of_memory(error):
            raise
        return False
    found = output.logits[:, -1].split([_LONG, len(ids) - _LONG])
    return _holds(cache, ids) and all(_agree(*logits, hidden.dtype) for logits in zip(found, whole, strict=True))


def _padded(model: Any, ids: torch.Tensor, begin: int, end: int) -> dict[str, Any]:
    """What a pass over these columns is given: ids of `_PADDED`, a mask, and positions where a model takes them."""
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[_LONG:, 0] = False
    inputs = {"input_ids": ids[:, begin:end], "attention_mask": mask[:, :end]}
    if "position_ids" in _arguments(model):
        positions = (mask.cumsum(1) - 1).clamp_min(0) + first_position(model)
        inputs["position_ids"] = positions[:, begin:end].contiguous()  # which XGLM needs
    return inputs


def plan_decoding(model: Any) -> DecodingPlan:
    """The best plan under which a model's logits are those of passes over the whole context.

    Raises:
        ValueError: an encoder-decoder, or a model that does not read a few tokens.
    """
    model = _uncompiled(model)
    _refuse_encoder_decoder(model)
    first = first_position(model)
    recompute = DecodingPlan(keeps_cache=False, first_position=first)
    try:
        expected, dtype = _rehearse(model, recompute)
    except Exception as error:
        if is_out_of_memory(error) or str(error).startswith("model: "):
            raise
        raise ValueError(
            f"model: expected one that reads a few tokens, got {type(error).__name__} in the forward pass of "
            f"{type(model).__name__}: {error}"
        ) from error
    for plan in (replace(plan, first_position=first) for plan in _PLANS):
        if plan.gives_cache and not _cache_argument(model):
            continue
        try:
            found, _ = _rehearse(model, plan)
        except Exception as error:  # as above; what is wrong with the model was raised before the loop
            if is_out_of_memory(error):
                raise
            continue
        if all(_agree(*logits, dtype) for logits in zip(found, expected, strict=True)):
            return plan
    return recompute


def _rehearse(model: Any, plan: DecodingPlan) -> tuple[list[torch.Tensor], torch.dtype]:
    """Logits of a few steps of two groups that take turns, with rows that leave; dtype of the hidden states."""
    first, second = OwnCacheDecoder(model, plan), OwnCacheDecoder(model, plan)
    _, hidden = first.begin(_tokens(model, _REHEARSED).tolist())
    second.begin(_tokens(model, _BETWEEN).tolist())
    logits = [first.advance(_tokens(model, (8, 6, 4))), second.advance(_tokens(model, (2, 1)))]
    first.keep([2, 0])
    logits += [first.advance(_tokens(model, (3, 5))), second.advance(_tokens(model, (6, 4)))]
    return [step for step, _ in logits], hidden.dtype


def _agree(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether logits (rows, V) are equal but for rounding, in at least half of the rows.

    Rounding can send a token to another expert, which changes one row; a context that was lost changes all of them.
    """
    tolerance = torch.finfo(dtype).eps ** 0.5 * expected.abs().max()
    close = (found - expected).abs().amax(dim=1) <= tolerance
    return 2 * int(close.sum()) >= len(close)


def _holds(cache: Any, ids: torch.Tensor) -> bool:
    """Whether every layer of a cache holds keys and values (rows, heads, tokens, any width) of all tokens."""
    rows, tokens = ids.shape
    kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return bool(kept) and all(
        tensor is not None and tensor.ndim == 4 and (tensor.shape[0], tensor.shape[2]) == (rows, tokens)
        for tensor in kept
    )


def _forward(model: Any, inputs: dict[str, Any]) -> tuple[Any, torch.Tensor]:
    """A forward pass: its output, and what the output head read for the last token, ``(rows, H)``."""
    if "logits_to_keep" in _arguments(model):
        inputs["logits_to_keep"] = 1
    with head_inputs(model, model.get_output_embeddings()) as seen:
        output = model(**inputs, return_dict=True)
    if not seen:
        raise RuntimeError(
            "model: expected a forward pass that calls the module of get_output_embeddings(); it did not"
        )
    if seen[-1].ndim > 3:
        raise ValueError(
            f"model: expected an output head that reads one state for each token, got states of shape "
            f"{tuple(seen[-1].shape)} in {type(_uncompiled(model)).__name__}; load a causal language model"
        )
    return output, seen[-1][:, -1]


def _cache_argument(model: Any) -> str:
    """The name by which a forward pass takes a `transformers.Cache`; "" for none. Version 5.24 renamed it."""
    return next((name for name in ("cache", "past_key_values") if name in _arguments(model)), "")


def _arguments(model: Any) -> frozenset[str]:
    """Names of the arguments of a forward pass, also of a model that torch.compile or PEFT has wrapped."""
    inner = _uncompiled(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return _parameters(type(inner).forward)


def _uncompiled(model: Any) -> Any:
    """The model inside a torch.compile wrapper: a rehearsal of odd shapes is not worth compiling for."""
    return getattr(model, "_orig_mod", model)


@functools.cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def _slices_inputs() -> bool:
    """Whether generation is told how many tokens are new; older versions find out from the cache's positions."""
    from transformers import GenerationMixin

    return "next_sequence_length" in _parameters(GenerationMixin.prepare_inputs_for_generation)


def _dynamic_cache(config: Any = None) -> Any:
    """A cache for a configuration's layers; without one, of keys and values only."""
    from transformers import DynamicCache

    return DynamicCache(config=config)


def _refuse_encoder_decoder(model: Any) -> None:
    if getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"model: expected a decoder-only language model, got the encoder-decoder {type(model).__name__}; "
            "load a model with AutoModelForCausalLM"
        )


def _tokens(model: Any, ids: Any) -> torch.Tensor:
    """Token ids that the model's vocabulary has. An embedding that an adapter wraps shows its size by its weights."""
    embedding = model.get_input_embeddings()
    size = getattr(embedding, "num_embeddings", None)
    return torch.tensor(ids, device=input_device(model)) % (embedding.weight.shape[0] if size is None else size)
