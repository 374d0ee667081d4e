"""Tiny random process reward models of every kind, tokenizers to go with them, and paths for them to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from bavt_fast.protocols import Node, Step

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def path(*steps: str, question: str = "What is 2 + 3?\n") -> Node:
    """The node at the end of some steps from a question."""
    node = Node(None, question)
    for step in steps:
        node = Node(None, None, node, Step(step, 1))
    return node


def byte_level() -> Any:
    """A byte-level tokenizer without merges, with the special tokens of Qwen2.5-Math-PRM and its chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<extra_0>"],
        chat_template=CHAT,
    )


def metaspace() -> Any:
    """A sentencepiece-like tokenizer with BOS and byte fallback, in which " ки", "+" and "-" are a token each."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()])
    trainer = trainers.BpeTrainer(special_tokens=["<unk>", "<s>", "</s>", *bytes_], vocab_size=400, show_progress=False)
    inner.train_from_iterator(["a ки b", "+ - + - ки", "Step 1: 2 + 3 = 5. ки", "ки"] * 20, trainer)
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def word_piece() -> Any:
    """A WordPiece tokenizer, which drops white space, between [CLS] and [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz0123456789+=.?"]
    words += [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", model_max_length=64)


def classifier(tokenizer: Any, labels: int = 2, context: int = 512, width: int = 16) -> Any:
    """A Qwen2 with a label per token."""
    torch.manual_seed(1)
    config = transformers.Qwen2Config(**_sizes(tokenizer, context, width), num_labels=labels)
    return _spread(transformers.Qwen2ForTokenClassification(config))


class QwenPRM(torch.nn.Module):
    """A random Qwen2.5-Math-PRM of width 64, by the code that its model card has: a head of two layers."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.config = transformers.Qwen2Config(**_sizes(tokenizer, 512, 64), num_labels=2)
        self.model = transformers.Qwen2Model(self.config)
        width = self.config.hidden_size
        self.score = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return (self.score(states),)


def save_qwen_prm(tokenizer: Any, folder: Path) -> Any:
    """Makes one and saves it as vLLM reads it."""
    model = _spread(QwenPRM(tokenizer))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    config = {**model.config.to_dict(), "architectures": ["Qwen2ForProcessRewardModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    return model


def encoder(tokenizer: Any) -> Any:
    """A BERT of width 16 with a label per token: it reads in both directions."""
    torch.manual_seed(2)
    sizes = _sizes(tokenizer, 64)
    sizes.pop("num_key_value_heads")
    return _spread(transformers.BertForTokenClassification(transformers.BertConfig(**sizes, num_labels=2)))


def causal(tokenizer: Any, context: int = 512) -> Any:
    """A Llama of width 16."""
    torch.manual_seed(3)
    return _spread(transformers.LlamaForCausalLM(transformers.LlamaConfig(**_sizes(tokenizer, context))))


def _sizes(tokenizer: Any, context: int, width: int = 16) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer) + 3,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
    }


def _spread(model: Any) -> Any:
    """The model with larger weights, so that its scores differ."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.4)
    return model
