"""What a language model is, asked once: whether a generator can drive it, and the facts that one needs.

A model that cannot be driven is refused here, before anything is spent, with the argument and the remedy named. What
works: every causal language model of transformers with an output head, as it is, quantised, with LoRA-like adapters
(PEFT), behind ``torch.compile``, or spread over devices and offloaded by accelerate (``device_map=``).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bavt_fast.model_places import first_position, input_device

__all__ = ["ModelFacts", "check_model", "check_tokenizer", "check_unchanged"]

_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")
_INNER = ("pretrained_model", "module")  # where wrappers that are not unwrapped here keep the model
_LOAD = "load one with AutoModelForCausalLM.from_pretrained(...) or bavt_fast.load(...)"


@dataclass(frozen=True)
class ModelFacts:
    """What a generator needs to know of a model.

    Attributes:
        core: the transformers model under what wraps it (``torch.compile``, PEFT): has the configuration. Calls go to
            the wrapper.
        config: of the text half, for a model of several modalities.
        generation_config: None where the model has none.
        device: where token ids go: the device of the input embedding, also for a model on several devices.
        dtype: of the hidden states that the output head reads.
        vocabulary_size: logits per position; at least the ids that the input embedding knows.
        hidden_size: H, the width of what the output head reads.
        max_positions: tokens that a context may have; None where no number is a limit (ALiBi, a recurrent state).
        first_position: of a text's first token.
        output_head: the module whose input is the last hidden state and whose output are the logits.
        parameters: names of the arguments of the model's ``forward``.
        num_weights: how many it has, those of packed layers too.
        num_layers: 1 where the configuration does not say.
        embedding: the input embedding.
        embedded: type, place and shape of its weight.
    """

    core: Any
    config: Any
    generation_config: Any
    device: torch.device
    dtype: torch.dtype
    vocabulary_size: int
    hidden_size: int
    max_positions: int | None
    first_position: int
    output_head: nn.Module
    parameters: frozenset[str]
    num_weights: int
    num_layers: int
    embedding: nn.Module
    embedded: tuple[Any, ...]


def check_model(model: Any, tokenizer: Any) -> ModelFacts:
    """The facts of a model and its tokenizer.

    Args:
        model: a transformers causal language model, or a wrapper that this module's description names.
        tokenizer: its tokenizer.

    Raises:
        TypeError: one of them is something else, such as a model without an output head or a processor.
        ValueError: an encoder-decoder, a model that looks ahead (but for XLNet, which is told what to predict), weights
            without values or on several devices without hooks between them, or an adapter made of virtual tokens.
    """
    if hasattr(model, "convert_ids_to_tokens") and isinstance(tokenizer, nn.Module):
        raise TypeError("model: expected a model, got a tokenizer; the order is (model, tokenizer)")
    check_tokenizer(tokenizer)
    core = _unwrap(model)
    _check_kind(core)
    head = core.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise TypeError(f"model: expected one with an output head, got {type(core).__name__}, which has none; {_LOAD}")
    if isinstance(head, nn.ModuleList):
        raise TypeError(f"model: expected one output head, got {type(core).__name__}, which has {len(head)}; {_LOAD}")
    config = core.config.get_text_config(decoder=True)
    embedding = core.get_input_embeddings()
    device = _checked_device(core)
    parameters = frozenset(inspect.signature(type(core).forward).parameters)
    facts = ModelFacts(
        core=core,
        config=config,
        generation_config=getattr(core, "generation_config", None),
        device=device,
        dtype=_dtype(core, embedding),
        vocabulary_size=_width(head, "out_features", 0, config.vocab_size),
        hidden_size=_width(head, "in_features", 1, config.hidden_size),
        max_positions=_max_positions(core, config, parameters),
        first_position=first_position(core),
        output_head=head,
        parameters=parameters,
        num_weights=_count_weights(core),
        num_layers=getattr(config, "num_hidden_layers", None) or 1,
        embedding=embedding,
        embedded=_about(embedding),
    )
    if _may_look_ahead(core, config, parameters) and _looks_ahead(core, device):
        raise ValueError(
            f"model: expected a causal model, got {type(core).__name__}, whose tokens see those after them; set "
            "is_decoder=True in its configuration if it was trained as a decoder, or load another model"
        )
    if len(tokenizer) > facts.vocabulary_size:
        warnings.warn(
            f"tokenizer: it has {len(tokenizer)} tokens, the model {facts.vocabulary_size}: a text that needs one of "
            "the others cannot be read; see model.resize_token_embeddings(len(tokenizer))",
            stacklevel=3,
        )
    return facts


def check_unchanged(facts: ModelFacts) -> None:
    """Raises ValueError where the model was converted, moved or given another vocabulary since `facts` were asked for:
    what was made of them, such as caches and CUDA graphs, fits it no more. Called at every submit, so it looks at one
    module alone."""
    now = _about(facts.embedding)
    if now != facts.embedded:
        before, got = (", ".join(map(str, [*some[:2], *map(tuple, some[2:])])) for some in (facts.embedded, now))
        raise ValueError(
            f"model: expected the input embedding as it was when the generator was made ({before}), got {got}; make a "
            "new generator of the model"
        )


def _about(embedding: nn.Module) -> tuple[Any, ...]:
    """Type, place and shape of its weight, where it has one. The place is not known while it is offloaded."""
    own = vars(embedding)  # asked for by name it would take nn.Module ten times as long
    weight = own["_parameters"].get("weight")
    if weight is None:
        return ()
    return weight.dtype, "offloaded" if "_hf_hook" in own else weight.device, weight.shape


def check_tokenizer(tokenizer: Any) -> None:
    """Raises TypeError, with what to pass instead, for anything but a tokenizer of transformers."""
    name = type(tokenizer).__name__
    if all(hasattr(tokenizer, part) for part in ("convert_ids_to_tokens", "decode", "__call__", "__len__")):
        return
    remedy = "load one with AutoTokenizer.from_pretrained(...)"
    if hasattr(tokenizer, "tokenizer"):
        remedy = "pass its .tokenizer"
    elif hasattr(tokenizer, "token_to_id"):  # of the package tokenizers
        remedy = "wrap it: PreTrainedTokenizerFast(tokenizer_object=...)"
    raise TypeError(f"tokenizer: expected a tokenizer of transformers, got {_article(name)}; {remedy}")


def _unwrap(model: Any) -> Any:
    """The transformers model under ``torch.compile`` and PEFT."""
    while True:
        if isinstance(inner := _own(model, "_orig_mod"), nn.Module):
            model = inner
        elif callable(getattr(model, "get_base_model", None)):
            if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
                raise ValueError(
                    f"model: expected adapters inside the layers, got {_article(type(model).__name__)} with virtual "
                    "tokens, which no text or token id stands for; use LoRA or another adapter that can be merged"
                )
            model = model.get_base_model()
        else:
            return model


def _check_kind(core: Any) -> None:
    name = _article(type(core).__name__)
    if not isinstance(core, nn.Module):
        raise TypeError(f"model: expected a causal language model of transformers, got {name}; {_LOAD}")
    if not (hasattr(core, "config") and hasattr(core, "get_output_embeddings")):
        inner = next((part for part in _INNER if isinstance(_own(core, part), nn.Module)), None)
        remedy = _LOAD if inner is None else f"pass its .{inner}"
        raise TypeError(f"model: expected a causal language model of transformers, got {name}; {remedy}")
    if getattr(core.config, "is_encoder_decoder", False):
        raise ValueError(
            f"model: expected a decoder alone, got {name}, an encoder-decoder, which does not go on from its prompt; "
            "load a causal model with AutoModelForCausalLM.from_pretrained(...)"
        )


def _own(module: Any, name: str) -> Any:
    """What the module itself calls so, not what it passes on from the module it wraps; None for nothing."""
    if not isinstance(module, nn.Module):
        return None
    return module.__dict__.get(name, module._modules.get(name))


def _width(head: nn.Module, attribute: str, dimension: int, otherwise: int) -> int:
    """A side of the output head: packed weights do not show it by their shape, but such layers say it."""
    if isinstance(width := getattr(head, attribute, None), int):
        return width
    weight = getattr(head, "weight", None)
    return int(weight.shape[dimension]) if isinstance(weight, torch.Tensor) and weight.dim() == 2 else int(otherwise)


def _count_weights(core: Any) -> int:
    """Those that are parameters, and those of linear layers that keep theirs packed elsewhere, as quantised ones do."""
    count = sum(weight.numel() for weight in core.parameters())
    for layer in core.modules():
        inputs, outputs = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
        is_packed = next(layer.parameters(), None) is None
        if is_packed and isinstance(inputs, int) and isinstance(outputs, int):
            count += inputs * outputs
    return int(count)


def _checked_device(core: Any) -> torch.device:
    """Where token ids go. Hooks of accelerate fetch offloaded weights and carry states from device to device."""
    hooked = any(hasattr(module, "_hf_hook") for module in core.modules())
    devices = sorted({str(weight.device) for weight in core.parameters()})
    if not hooked and "meta" in devices:
        raise ValueError(
            "model: expected weights with values, got some on the meta device; load it without "
            "torch.device('meta'), or offload by from_pretrained(..., device_map='auto')"
        )
    if not hooked and len(devices) > 1:
        raise ValueError(
            f"model: expected weights on one device, got {', '.join(devices)}; move it with model.to(...), or spread "
            "it by from_pretrained(..., device_map='auto')"
        )
    return input_device(core)


def _dtype(core: Any, embedding: nn.Module) -> torch.dtype:
    """That of the input embedding, which is not quantised, or else of the first weights that are not."""
    for weight in (*embedding.parameters(), *core.parameters()):
        if weight.is_floating_point() and weight.element_size() > 1:
            return weight.dtype
    return torch.get_default_dtype()


def _max_positions(core: Any, config: Any, parameters: frozenset[str]) -> int | None:
    if getattr(config, "alibi", False) or (getattr(core, "_is_stateful", False) and "position_ids" not in parameters):
        return None
    for name in _POSITIONS:
        value = getattr(config, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return _steady_positions(config, value - first_position(core))
    return None


def _steady_positions(config: Any, most: int) -> int:
    """How long a context may grow before what came before is computed in another way: longrope has a factor for each
    frequency, and others for all of a pass in which one row is long."""
    found = getattr(config, "rope_parameters", None) or {}
    layers = [found, *found.values()]  # some models have a dictionary for each kind of layer
    changing = [
        some
        for some in layers
        if isinstance(some, Mapping)
        and some.get("rope_type") == "longrope"
        and some.get("short_factor") != some.get("long_factor")
    ]
    steady = min([some.get("original_max_position_embeddings") or most for some in changing], default=most)
    if steady >= most:
        return most
    warnings.warn(
        f"model: contexts end at {steady} tokens, for longrope computes longer ones, and all beside them, by other "
        f"factors; for up to {most} load it by a configuration whose rope_parameters['short_factor'] is its "
        "['long_factor']",
        stacklevel=4,
    )
    return steady


def _may_look_ahead(core: Any, config: Any, parameters: frozenset[str]) -> bool:
    """Whether it is worth a pass to find out. A model with a target mapping sees all that it is given by design, and
    predicts the token that its own generation names."""
    says = getattr(config, "is_decoder", None)
    is_doubtful = says is False or (says is None and not type(core).__name__.endswith("ForCausalLM"))
    return is_doubtful and "target_mapping" not in parameters


@torch.no_grad()
def _looks_ahead(core: Any, device: torch.device) -> bool:
    """Whether the logits of a token change with the token after it, measured by how much they change with itself."""
    training = core.training
    core.eval()
    try:
        logits = core(input_ids=torch.tensor([[0, 0], [0, 1]], device=device)).logits.float()
    finally:
        core.train(training)
    before, itself = (logits[1] - logits[0]).abs().amax(-1).tolist()
    return bool(before > 1e-3 * itself)


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
