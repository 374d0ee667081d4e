"""Tokenizers of every kind, trained in a moment on a few sentences; none is downloaded.

They differ where a generator stumbles: how a token becomes text, which control tokens there are, and what the tokenizer
puts around what it encodes.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "Step 1: add 3 and 4, which gives 7.\nStep 2: multiply by 2.\n\nAnswer: 14",
    "def double(x):\n    if x > 0:\n        return 2 * x\n    return 0\n",
    "print the </step> tag. Then the user asks again, and the model answers: it's done.",
    "你好。 今天 天气 很 好。 我们 去 公园。",
    "naïve café, déjà vu; 12 + 30 = 42 (left: 42)",
    "the quick brown fox jumps over the lazy dog, and the dog does not mind the fox at all",
] * 3

BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"
MARK = "▁"
"""What stands for a space in sentencepiece's tokens."""

FAST_KINDS = ("byte_level", "llama", "metaspace", "unigram", "wordpiece", "word_suffix", "words")
SLOW_KINDS = ("slow_bytes", "slow_words", "slow_letters")
KINDS = (*FAST_KINDS, *SLOW_KINDS)

CHAT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}[{{ message['role'] }}]\n{{ message['content'] }}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
)
"""Writes BOS itself and ends every turn with EOS."""


def tiny_tokenizer(
    kind: str,
    *,
    bos: bool = True,
    eos: bool = True,
    pad: bool = True,
    adds_bos: bool = False,
    appends_eos: bool = False,
    added: tuple[str, ...] = (),
    chat_template: str | None = None,
) -> Any:
    """A new transformers tokenizer.

    Args:
        kind: one of `KINDS`. ``byte_level``: GPT-2 and Llama 3, the control tokens behind the model's vocabulary;
            ``llama``: BPE with byte fallback, as Llama 2; ``metaspace``: the same with a space put before the first
            word alone, as Mistral; ``unigram``: T5; ``wordpiece``: BERT; ``word_suffix``: ``</w>``, as the first GPT;
            ``words``: a word a token, without a decoder; ``slow_bytes``: ByT5; ``slow_words``: words in plain Python;
            ``slow_letters``: byte-level letters in plain Python.
        bos, eos, pad: which of the control tokens it names.
        adds_bos, appends_eos: whether encoding puts them around the text (fast kinds).
        added: texts that become tokens of their own, not control tokens (fast kinds).
        chat_template: as in `transformers`.
    """
    names = {"bos_token": BOS if bos else None, "eos_token": EOS if eos else None, "pad_token": PAD if pad else None}
    if kind in SLOW_KINDS:
        build = {"slow_bytes": _slow_bytes, "slow_words": SlowWords, "slow_letters": SlowLetters}[kind]
        tokenizer = build(**names)
    else:
        backend = Tokenizer.from_str(_trained(kind))
        if kind == "byte_level":
            backend.add_special_tokens([AddedToken(name, special=True) for name in (BOS, EOS, PAD)])
        unk = None if kind == "byte_level" else UNK
        backend.add_tokens(list(added))
        if adds_bos or appends_eos:
            around = f"{BOS + ' ' if adds_bos else ''}$A{' ' + EOS if appends_eos else ''}"
            ids = [(name, backend.token_to_id(name)) for name in (BOS, EOS)]
            backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unk, **names)
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.chat_template = chat_template
    return tokenizer


@functools.cache
def _trained(kind: str) -> str:
    """The JSON of a trained ``tokenizers.Tokenizer``."""
    return {
        "byte_level": _byte_level,
        "llama": _llama,
        "metaspace": _metaspace,
        "unigram": _unigram,
        "wordpiece": _wordpiece,
        "word_suffix": _word_suffix,
        "words": _words,
    }[kind]().to_str()


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _with_byte_fallback(pre_tokenizer: Any, normalizer: Any) -> Tokenizer:
    """A BPE over text with `MARK` for spaces; what it has no token for becomes byte tokens."""
    trained = Tokenizer(models.BPE(unk_token=UNK))
    trained.pre_tokenizer, trained.normalizer = pre_tokenizer, normalizer
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=[UNK, BOS, EOS, PAD], show_progress=False)
    trained.train_from_iterator([line.replace("。", "").replace("\n", " ") for line in CORPUS], trainer)
    model = json.loads(trained.to_str())["model"]
    vocabulary = {**model["vocab"]}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNK, byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizer, normalizer
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (UNK, BOS, EOS, PAD)])
    return tokenizer


def _llama() -> Tokenizer:
    normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tokenizer = _with_byte_fallback(None, normalizer)
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _metaspace() -> Tokenizer:
    tokenizer = _with_byte_fallback(pre_tokenizers.Metaspace(prepend_scheme="first", split=True), None)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex("\t"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = [UNK, BOS, EOS, PAD]
    trainer = trainers.UnigramTrainer(vocab_size=160, special_tokens=specials, unk_token=UNK, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNK))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    specials = [UNK, BOS, EOS, PAD]
    trainer = trainers.WordPieceTrainer(vocab_size=250, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _word_suffix() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    specials = [UNK, BOS, EOS, PAD]
    trainer = trainers.BpeTrainer(
        vocab_size=250, special_tokens=specials, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=[UNK, BOS, EOS, PAD], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


# --- without a backend


def _slow_bytes(bos_token: str | None, eos_token: str | None, pad_token: str | None) -> Any:
    tokenizer = transformers.ByT5Tokenizer(extra_ids=3)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = bos_token, eos_token, pad_token
    return tokenizer


class SlowTable(transformers.PreTrainedTokenizer):  # type: ignore[misc]
    """Tokens from a table; ids 2, 5 and 6 have none."""

    def __init__(self, tokens: list[str], **names: str | None) -> None:
        named = [UNK, BOS, None, EOS, PAD, None, None, *tokens]
        self.table = {token: i for i, token in enumerate(named) if token is not None}
        self.names = {i: token for token, i in self.table.items()}
        super().__init__(unk_token=UNK, special_tokens_pattern="none", **names)

    @property
    def vocab_size(self) -> int:
        return max(self.names) + 1

    def get_vocab(self) -> dict[str, int]:
        return {**self.table, **self.added_tokens_encoder}

    def _convert_token_to_id(self, token: str) -> int:
        return self.table.get(token, self.table[UNK])

    def _convert_id_to_token(self, index: int) -> str | None:
        return self.names.get(index)


class SlowWords(SlowTable):
    """A word a token, joined by spaces."""

    def __init__(self, **names: Any) -> None:
        super().__init__(sorted(set(" ".join(CORPUS).split())), **names)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return text.split()


class SlowLetters(SlowTable):
    """Byte-level letters, as GPT-2's tokenizer in Python had them."""

    def __init__(self, **names: Any) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        printable = [ord(letter) for letter in alphabet if ord(letter) < 256]
        others = [byte for byte in range(256) if byte not in printable]
        letters = [letter for letter in alphabet if ord(letter) >= 256]
        self.byte_decoder = {**{chr(byte): byte for byte in printable}, **dict(zip(letters, others, strict=True))}
        self.byte_encoder = {byte: letter for letter, byte in self.byte_decoder.items()}
        words = ["".join(self.byte_encoder[byte] for byte in word.encode()) for word in (" the", "\n\n", "é", "。\n")]
        super().__init__([*alphabet, *words], **names)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [self.byte_encoder[byte] for byte in text.encode()]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return bytes(self.byte_decoder[letter] for letter in "".join(tokens)).decode("utf-8", errors="replace")


def word_tokenizer(words: list[str]) -> Any:
    """A tokenizer of these words alone."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
