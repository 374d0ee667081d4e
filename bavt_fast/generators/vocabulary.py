"""What each token id of a tokenizer adds to the text, and which ids end it.

``tokenizer.decode`` is made for whole texts: it drops the space before the first word, and it shows half a character as
U+FFFD. A generator writes on at the end of a text, token by token, and looks for stop strings that may begin inside one
token and end inside another. It needs the bytes that a token adds *inside* a text. They are read off the tokenizer's
decoder:

- byte-level BPE (GPT-2, Llama 3, Qwen): a letter of the token stands for a byte (Radford et al. 2019, GPT-2).
- everything else (metaspace, WordPiece, a word a token, ...): the text between two other tokens, as the decoder itself
  joins them. Byte tokens such as ``<0x0A>`` are that byte (Kudo 2018, sentencepiece's byte fallback).
"""

from __future__ import annotations

import json
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from bavt_fast._checks import as_count

__all__ = ["Vocabulary", "control_tokens", "end_ids"]

Token = TypeVar("Token")

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ANCHOR = "a"
"""A token around which a fast tokenizer's others are decoded. It need not be in the vocabulary."""

ENOUGH_WORDS = 500
"""So many words are looked at for one that is written without a space."""


class Vocabulary:
    """The bytes of each token id of a tokenizer, as far as a model's logits reach.

    Args:
        tokenizer: a transformers tokenizer, fast or slow.
        size: number of the model's logits. It may be above the tokenizer's size (embeddings are padded) or below.

    Attributes:
        size: as given.
        token_bytes: by id, what the token adds to the text inside a context, in UTF-8; it may be part of a character.
            Empty for control tokens and for ids without a token.
        named: bool ``(size,)``: the ids that may be sampled, those for which the tokenizer has a token. Control tokens
            are among them.
        special: bool ``(size,)``: the control tokens (BOS, EOS, turn ends, ...), which add nothing to the text.

    A token that was added to a byte-level tokenizer adds its text as it was given. ``tokenizer.decode`` reads such a
    token as byte-level letters, so it shows another text where the token has letters outside ASCII and no space.

    A slow tokenizer is asked to decode each id between two others. Parts of characters are recognised where its tokens
    are bytes, single characters below U+0100, ``<0x..>``, or letters of its ``byte_decoder``; elsewhere they become
    U+FFFD.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.size = as_count("size", size, minimum=1)
        self.special = np.zeros(self.size, dtype=bool)
        self.special[[i for i in control_tokens(tokenizer) if i < self.size]] = True
        backend = getattr(tokenizer, "backend_tokenizer", None)
        known = _slow_bytes(tokenizer, self) if backend is None else _fast_bytes(backend)
        self.named = np.zeros(self.size, dtype=bool)
        self.token_bytes: list[bytes] = [b""] * self.size
        for token_id, text in known:
            if token_id < self.size:
                self.named[token_id] = True
                self.token_bytes[token_id] = b"" if self.special[token_id] else text

    def text(self, ids: Iterable[int]) -> str:
        """The text that the tokens add, exactly as generated. Bytes that make no character become U+FFFD."""
        return b"".join([self.token_bytes[i] for i in ids]).decode("utf-8", errors="replace")


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The tokens that stand for no text (BOS, EOS, turn ends, ...) by id: those that ``tokenizer.decode`` can skip."""
    tokens = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        tokens.update((token_id, token) for token_id, token in named if token_id is not None)
    return tokens


def end_ids(model: Any, tokenizer: Any, size: int) -> list[int]:
    """The ids that end a text: every one that the model's or the tokenizer's configuration names, sorted.

    Read are ``eos_token_id`` of the generation config, of the config and of its text config, and the tokenizer's
    ``eos_token_id`` and ``eot_token_id``. Each may be missing, None, an id or a list of ids (chat models list their end
    of turn); -1 stands for none.

    Args:
        model: a transformers model, or a wrapper that hands its attributes on.
        tokenizer: its tokenizer.
        size: number of the model's logits. Ids outside are ignored, with one warning that names them.
    """
    config = getattr(model, "config", None)
    get_text_config = getattr(config, "get_text_config", None)
    text_config = get_text_config() if callable(get_text_config) else getattr(config, "text_config", None)
    sources = (getattr(model, "generation_config", None), config, text_config, tokenizer)
    given = [getattr(source, "eos_token_id", None) for source in sources]
    given.append(getattr(tokenizer, "eot_token_id", None))
    ids = {token_id for value in given for token_id in _integers(value)} - {-1}
    outside = sorted(token_id for token_id in ids if not 0 <= token_id < size)
    if outside:
        shown = ", ".join(map(str, outside))
        warnings.warn(f"eos_token_id: expected ids from 0 to {size - 1}, got {shown}; ignored", stacklevel=2)
    return sorted(ids.difference(outside))


def _integers(value: Any) -> list[int]:
    """The integers of an id, or of a list, array or tensor of ids. Whatever else it holds is passed over."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return []
    try:
        return [operator.index(value)]
    except TypeError:
        return [i for item in value for i in _integers(item)] if isinstance(value, Iterable) else []


# --- fast tokenizers


def _fast_bytes(backend: Any) -> list[tuple[int, bytes]]:
    """(id, bytes) of all tokens of a ``tokenizers.Tokenizer``, by its decoder."""
    own = {token_id: token for token, token_id in backend.get_vocab(with_added_tokens=False).items()}
    added = {token_id: token.content for token_id, token in backend.get_added_tokens_decoder().items()}
    decoder = backend.decoder
    kinds = _decoder_kinds(decoder)
    if "ByteLevel" in kinds and kinds <= {"ByteLevel", "Fuse"}:
        texts = {token_id: _byte_level_bytes(token) for token_id, token in own.items()}
        texts.update((token_id, content.encode()) for token_id, content in added.items() if token_id not in own)
        return list(texts.items())
    in_context = _between_anchors(" ".join if decoder is None else decoder.decode, _ANCHOR)
    return [(token_id, _decoded_bytes(token, kinds, in_context)) for token_id, token in {**own, **added}.items()]


def _decoder_kinds(decoder: Any) -> set[str]:
    """The names of the steps of a ``tokenizers`` decoder; empty without one, or for one written in Python."""
    if decoder is None:
        return set()
    try:
        steps = [json.loads(decoder.__getstate__())]
    except Exception:  # the library raises a bare Exception for a decoder that it cannot serialise
        return set()
    kinds: set[str] = set()
    while steps:
        step = steps.pop()
        steps += step.get("decoders", [])
        kinds.add(step["type"])
    return kinds - {"Sequence"}


def _decoded_bytes(token: str, kinds: set[str], in_context: Callable[[str], str]) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token) if "ByteFallback" in kinds else None
    if byte is not None:
        return bytes.fromhex(byte[1])
    text = in_context(token)
    return _byte_level_bytes(token) if "ByteLevel" in kinds and "\ufffd" in text else text.encode()


def _byte_level_letters() -> dict[str, int]:
    """The byte that each letter of a byte-level token stands for.

    Printable Latin-1 characters are their own bytes. The other bytes, in order, are the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + i): byte for i, byte in enumerate(others)}}


_LETTERS = _byte_level_letters()


def _byte_level_bytes(token: str) -> bytes:
    try:
        return bytes(map(_LETTERS.__getitem__, token))
    except KeyError:  # plain text with a character that no byte-level token has, such as a space
        return token.encode()


def _between_anchors(join: Callable[[Sequence[Token]], str], anchor: Token | None) -> Callable[[Token], str]:
    """A function from a token to the text that it makes between two anchors: never a text's first or last token.

    Without an anchor it is the text that the token makes alone.
    """
    if anchor is None:
        return lambda token: join([token])
    head = join([anchor])
    tail = join([anchor, anchor])[len(head) :]

    def in_context(token: Token) -> str:
        whole = join([anchor, token, anchor])
        if len(whole) >= len(head) + len(tail) and whole.endswith(tail):
            return whole[len(head) : len(whole) - len(tail)]
        return join([anchor, token])[len(head) :]

    return in_context


# --- slow tokenizers


def _slow_bytes(tokenizer: Any, vocabulary: Vocabulary) -> list[tuple[int, bytes]]:
    """(id, bytes) of all tokens that a tokenizer without a backend knows, each decoded between two others."""
    ids = sorted(i for i in {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder} if i < vocabulary.size)

    def join(ids: Sequence[int]) -> str:
        text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    anchor = _anchor((i for i in ids if not vocabulary.special[i]), join)
    in_context = _between_anchors(join, anchor)
    letters = getattr(tokenizer, "byte_decoder", {})
    known = []
    for i in ids:
        token = tokenizer.convert_ids_to_tokens(i)
        if token is not None:
            text = "" if vocabulary.special[i] or isinstance(token, bytes) else in_context(i)
            known.append((i, token if isinstance(token, bytes) else _slow_token_bytes(token, text, letters)))
    return known


def _anchor(ids: Iterable[int], join: Callable[[Sequence[int]], str]) -> int | None:
    """A token to decode the others beside: an ASCII word that stays the same word behind itself, None without any.

    Best is one that is written without a space, such as a syllable: then every space is the other token's.
    """
    words = []
    for token_id in ids:
        alone, twice = join([token_id]), join([token_id, token_id])
        word, again = alone.strip(), twice[len(alone) :]
        if not (word.isascii() and word.isalnum() and twice.startswith(alone) and again.strip() == word):
            continue
        if alone == again == word:
            return token_id
        words.append(token_id)
        if len(words) == ENOUGH_WORDS:
            break
    return words[0] if words else None


def _slow_token_bytes(token: str, text: str, letters: dict[str, int]) -> bytes:
    """The bytes of a token that decodes to `text`; those of part of a character are read off the token itself."""
    if text and "\ufffd" not in text:
        return text.encode("utf-8", errors="surrogatepass")
    byte = _BYTE_TOKEN.fullmatch(token)
    if byte is not None:
        return bytes.fromhex(byte[1])
    if letters and all(letter in letters for letter in token):
        return bytes(letters[letter] for letter in token)
    return bytes([ord(token)]) if len(token) == 1 and ord(token) < 256 else text.encode("utf-8")
