"""A byte-level tokenizer of any size for models with random weights: nothing is downloaded.

The first 256 tokens are the bytes. Every other token is a word of its own, such as ``" 00ab"``, and every
`WORDS_PER_LINE`-th word has a line break behind it. A model with random weights draws its tokens about evenly, so its
lines have that many tokens on average, in geometric distribution, and a text of words gives the same tokens again.
"""

from __future__ import annotations

from typing import Any

WORDS_PER_LINE = 12
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_WORD = r" [0-9a-z]{4}\n?"


def word(number: int) -> str:
    """The text of the token 256 + `number`: different for each number below 36^4."""
    digits = ""
    for _ in range(4):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return f" {digits}"


def byte_level_tokenizer(vocabulary: int) -> Any:
    """A transformers tokenizer of so many tokens, 256 bytes among them; it has no special tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if vocabulary <= 256 + WORDS_PER_LINE:
        raise ValueError(f"vocabulary: expected more than {256 + WORDS_PER_LINE} tokens, got {vocabulary}")
    to_letters = pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str
    ids = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for number in range(vocabulary - len(ids)):
        text = word(number) + "\n" * (number % WORDS_PER_LINE == WORDS_PER_LINE - 1)
        ids[to_letters(text)[0][0]] = len(ids)
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORD), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
