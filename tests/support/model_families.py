"""Tiny random language models of many families, one for each way to keep a context, and what they should say.

Nothing is downloaded: every model is made from its configuration.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tokenizers
import torch
import transformers

LETTERS = "\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQR"
SPECIAL = ("<pad>", "<bos>", "<eos>")
VOCABULARY = len(SPECIAL) + len(LETTERS)

SLIDING_WINDOW = 6
"""Shorter than the contexts of the tests."""


@dataclass(frozen=True)
class Family:
    """One family of models.

    Attributes:
        model_class: the causal model's name in transformers, which not every version has.
        kind: what it keeps of a context: "plain" for keys and values of every token in every layer, "own" for another
            cache or one whose length is the next token's position, "none" for none that a causal search could use.
        settings: arguments of its configuration.
    """

    model_class: str
    kind: Literal["plain", "own", "none"]
    settings: dict[str, Any]


_SIZES = {"hidden_size": 32, "num_hidden_layers": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_HEADS = {**_SIZES, "intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 256}
_DECODER = {**_HEADS, "num_key_value_heads": 2}
_WIDE = {**_DECODER, "head_dim": 16}
_EXPERTS = {**_DECODER, "moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
_MAMBA = {**_SIZES, "state_size": 8, "conv_kernel": 3}
_MAMBA_HEADS = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_d_conv": 3,
    "mamba_chunk_size": 4,
}
_LINEAR_THEN_FULL: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
_SLIDING_THEN_FULL: dict[str, Any] = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": SLIDING_WINDOW,
}

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", "plain", _DECODER),
    "llama_tied": Family("LlamaForCausalLM", "plain", {**_DECODER, "tie_word_embeddings": True}),
    "llama_wide_vocabulary": Family("LlamaForCausalLM", "plain", {**_DECODER, "vocab_size": VOCABULARY + 16}),
    "qwen2": Family("Qwen2ForCausalLM", "plain", _DECODER),
    "qwen3": Family("Qwen3ForCausalLM", "plain", _WIDE),
    "gemma": Family("GemmaForCausalLM", "plain", _WIDE),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        "plain",
        {**_WIDE, **_SLIDING_THEN_FULL, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0},
    ),
    "gemma3": Family("Gemma3ForCausalLM", "plain", {**_WIDE, **_SLIDING_THEN_FULL}),
    "gemma4": Family(  # the last two layers read the keys and values of the first two
        "Gemma4ForCausalLM",
        "plain",
        {
            **_WIDE,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": 2 * _SLIDING_THEN_FULL["layer_types"],
            "sliding_window": SLIDING_WINDOW,
            "global_head_dim": 16,
            "vocab_size_per_layer_input": VOCABULARY,
            "hidden_size_per_layer_input": 8,
        },
    ),
    "mistral": Family("MistralForCausalLM", "plain", {**_DECODER, "sliding_window": SLIDING_WINDOW}),
    "phi": Family("PhiForCausalLM", "plain", _DECODER),
    "stablelm": Family("StableLmForCausalLM", "plain", _DECODER),
    "gpt2": Family("GPT2LMHeadModel", "plain", _GPT),
    "gpt_neox": Family("GPTNeoXForCausalLM", "plain", _HEADS),
    "opt": Family("OPTForCausalLM", "plain", {**_HEADS, "ffn_dim": 48, "word_embed_proj_dim": 16}),
    "xglm": Family(
        "XGLMForCausalLM",
        "plain",
        {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 256},
    ),
    "bloom": Family("BloomForCausalLM", "plain", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": Family("FalconForCausalLM", "plain", {**_HEADS, "ffn_hidden_size": 48}),
    "falcon_alibi": Family("FalconForCausalLM", "plain", {**_HEADS, "ffn_hidden_size": 48, "alibi": True}),
    "mpt": Family("MptForCausalLM", "plain", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    "mixtral": Family("MixtralForCausalLM", "plain", {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": Family("Qwen2MoeForCausalLM", "plain", {**_EXPERTS, "shared_expert_intermediate_size": 24}),
    "deepseek_v3": Family(
        "DeepseekV3ForCausalLM",
        "plain",
        {
            **_HEADS,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 12,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 10,
        },
    ),
    "mamba": Family("MambaForCausalLM", "own", _MAMBA),
    "mamba2": Family(
        "Mamba2ForCausalLM", "own", {**_MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4}
    ),
    "rwkv": Family("RwkvForCausalLM", "own", {**_SIZES, "context_length": 256, "rescale_every": 1}),
    "recurrent_gemma": Family(
        "RecurrentGemmaForCausalLM",
        "own",
        {
            **_HEADS,
            "lru_width": 32,
            "conv1d_width": 3,
            "attention_window_size": SLIDING_WINDOW,
            "block_types": ["recurrent", "attention"],
        },
    ),
    "jamba": Family(
        "JambaForCausalLM",
        "own",
        {
            **_DECODER,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 8,
            "mamba_d_conv": 3,
            "mamba_dt_rank": 4,
            "use_mamba_kernels": False,
        },
    ),
    "bamba": Family("BambaForCausalLM", "own", {**_DECODER, **_MAMBA_HEADS, "attn_layer_indices": [1]}),
    "falcon_h1": Family("FalconH1ForCausalLM", "own", {**_DECODER, **_MAMBA_HEADS, "mamba_d_ssm": 64}),
    "qwen3_next": Family(
        "Qwen3NextForCausalLM",
        "own",
        {
            **_EXPERTS,
            **_LINEAR_THEN_FULL,
            "head_dim": 16,
            "shared_expert_intermediate_size": 24,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_conv_kernel_dim": 3,
        },
    ),
    "lfm2": Family(
        "Lfm2ForCausalLM", "own", {**_DECODER, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
    ),
    "minimax": Family(
        "MiniMaxForCausalLM", "own", {**_WIDE, **_LINEAR_THEN_FULL, "num_local_experts": 2, "block_size": 4}
    ),
    "bart": Family(
        "BartForCausalLM",
        "own",
        {
            "d_model": 32,
            "decoder_layers": 2,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 256,
        },
    ),
    "xlnet": Family("XLNetLMHeadModel", "none", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}),
    "openai_gpt": Family("OpenAIGPTLMHeadModel", "none", _GPT),
}


def families(kind: str | None = None) -> list[str]:
    """Names of the families that the installed transformers has."""
    return [
        name
        for name, family in FAMILIES.items()
        if hasattr(transformers, family.model_class) and kind in (None, family.kind)
    ]


def build_model(name: str, seed: int = 0) -> Any:
    """A random model of a few layers, in float32 and eval mode. Its weights are wide: sharp distributions."""
    family = FAMILIES[name]
    model_class = getattr(transformers, family.model_class)
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = model_class.config_class(**{**common, "tie_word_embeddings": False, **family.settings})
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.3)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.get_output_embeddings().weight[:2] = 0.0  # padding and the beginning of a text are no likely next tokens
    model.generation_config.eos_token_id = 2
    return model


def build_tokenizer() -> Any:
    """One token for each of `LETTERS`, after the `SPECIAL` ones; no other text can be encoded."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    pad, bos, eos = SPECIAL
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )


@torch.no_grad()
def fresh_pass(model: Any, context: Sequence[int], count: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (count, V) and hidden states (count, H) after each of the `count` longest beginnings of a context.

    Computed by passes over whole contexts, each alone and without a cache.
    """
    if "target_mapping" in inspect.signature(model.forward).parameters:  # XLNet sees all, and predicts where it is told
        beginnings = [torch.tensor([context[:end]]) for end in range(len(context) - count + 1, len(context) + 1)]
        passes = [_fresh_pass(model, **model.prepare_inputs_for_generation(ids)) for ids in beginnings]
        return torch.cat([logits for logits, _ in passes]), torch.cat([hidden for _, hidden in passes])
    logits, hidden = _fresh_pass(model, input_ids=torch.tensor([list(context)]))
    return logits[-count:], hidden[-count:]


def _fresh_pass(model: Any, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model(**inputs, use_cache=False).logits[0]
    return logits, model.base_model(**inputs, use_cache=False).last_hidden_state[0]
