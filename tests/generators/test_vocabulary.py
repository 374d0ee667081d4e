"""What tokens add to a text, against the tokenizers' own encoding and decoding, for every kind of tokenizer."""

from __future__ import annotations

import random
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from tiny_tokenizers import CORPUS, FAST_KINDS, KINDS, SLOW_KINDS, SlowTable, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from bavt_fast.generators.vocabulary import Vocabulary, end_ids

EXACT = ("byte_level", "llama", "metaspace", "slow_bytes", "slow_letters")
"""Kinds that have tokens for every text."""
TEXTS = [*CORPUS[:6], "  two  spaces ", "\n\n\tindented\n", "emoji 🙂🙃 and 漢字", "‰ № ü", ""]
BROKEN = "\ufffd"


def encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def wrapped(vocabulary: dict[str, int], decoder: Any) -> Any:
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    if decoder is not None:
        backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend)


# --- the bytes of a token


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_what_was_encoded_is_the_text(kind: str, text: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    written = vocabulary.text(encode(tokenizer, text))
    begins_with_space = kind in ("llama", "metaspace") and written.startswith(" ")
    assert written in ((text, f" {text}") if begins_with_space else (text,))


@pytest.mark.parametrize("kind", EXACT)
def test_a_character_may_be_spread_over_tokens(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    ids = encode(tokenizer, "x🙂")
    assert len(ids) >= 5
    assert vocabulary.text(ids).endswith("x🙂")
    assert vocabulary.text(ids[:-1]).endswith("x" + BROKEN)
    assert vocabulary.text(ids[-1:]) == BROKEN


@pytest.mark.parametrize("kind", KINDS)
def test_text_is_what_decoding_adds_to_a_context(kind: str) -> None:
    """Random ids behind random contexts, wherever decoding shows whole characters and leaves the context as it is."""
    tokenizer = tiny_tokenizer(kind)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    ordinary = np.flatnonzero(vocabulary.named & ~vocabulary.special).tolist()
    dice, compared = random.Random(7), 0
    for _ in range(1500):
        texts = [encode(tokenizer, dice.choice(CORPUS)), [dice.choice(ordinary) for _ in range(dice.randrange(1, 4))]]
        context, ids = dice.choice(texts), dice.choice(texts)[:12]
        context, ids = ([i for i in part if i in ordinary] for part in (context[:9], ids))
        before, whole = (tokenizer.decode(part) for part in (context, context + ids))
        if not before or not ids or not whole.startswith(before) or BROKEN in whole:
            continue
        if kind == "slow_bytes" and encode(tokenizer, whole) != context + ids:  # ByT5 leaves out broken characters
            continue
        compared += 1
        added = vocabulary.text(ids)
        if kind == "word_suffix":  # a word's space is written once another token follows
            assert whole[len(before) :].strip() == added.strip()
        else:
            assert whole[len(before) :] == added
    assert compared > 500


def test_broken_characters_are_shown_as_decoding_shows_them() -> None:
    """A byte-level decoder joins bytes first, so even what is no character can be compared."""
    tokenizer = tiny_tokenizer("byte_level")
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    dice = random.Random(3)
    for _ in range(300):
        ids = [dice.randrange(256) for _ in range(8)]
        assert vocabulary.text(ids) == tokenizer.decode(ids)
    assert BROKEN in vocabulary.text(range(256))


def test_added_tokens_are_their_text() -> None:
    added = ("<think>", "    ", "café", "Ġ", "▁▁")
    tokenizer = tiny_tokenizer("byte_level", added=added)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.text(tokenizer.convert_tokens_to_ids(["<think>", "    "])) == "<think>    "
    for text in ("a café<think> b", "x    y", "▁▁"):
        assert vocabulary.text(encode(tokenizer, text)) == text
    # A token of the vocabulary itself is read as byte-level letters, even where it was added once more.
    assert vocabulary.token_bytes[tokenizer.convert_tokens_to_ids("Ġ")] == b" "
    for kind in ("llama", "metaspace", "wordpiece"):
        tokenizer = tiny_tokenizer(kind, added=added[:1])
        vocabulary = Vocabulary(tokenizer, len(tokenizer))
        assert vocabulary.text(encode(tokenizer, "a <think>")).endswith("<think>")


@pytest.mark.parametrize(
    ("decoder", "token", "expected"),
    [
        (decoders.WordPiece(cleanup=True), ".", b"."),
        (decoders.WordPiece(cleanup=False), ".", b" ."),
        (decoders.WordPiece(prefix="@"), "@ing", b"ing"),
        (decoders.Metaspace(replacement="_"), "_a_b", b" a b"),
        (decoders.Sequence([decoders.Replace("_", " "), decoders.Fuse(), decoders.Strip(" ", 1, 1)]), "_a_", b" a "),
        (decoders.Sequence([decoders.Replace("_", " "), decoders.Strip(" ", 1, 0)]), "_a", b"a"),
        (decoders.Sequence([decoders.Sequence([decoders.ByteFallback()]), decoders.Fuse()]), "<0xe3>", b"\xe3"),
        (decoders.Fuse(), "<0xe3>", b"<0xe3>"),
        (decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()]), "Ġã", b" \xe3"),
        (decoders.Sequence([decoders.Replace("_", "Ġ"), decoders.ByteLevel()]), "_x", b" x"),
        (decoders.Sequence([decoders.Replace("_", "Ġ"), decoders.ByteLevel()]), "Ġã", b" \xe3"),
        (None, "word", b" word"),
    ],
)
def test_decoders(decoder: Any, token: str, expected: bytes) -> None:
    tokenizer = wrapped({"<unk>": 0, token: 1, "x": 2}, decoder)
    assert Vocabulary(tokenizer, 3).token_bytes[1] == expected


def test_a_decoder_written_in_python_is_asked() -> None:
    class Shout:
        def decode_chain(self, tokens: list[str]) -> list[str]:
            return [token.upper() for token in tokens]

    tokenizer = wrapped({"<unk>": 0, "word": 1}, None)
    tokenizer.backend_tokenizer.decoder = decoders.Decoder.custom(Shout())
    assert Vocabulary(tokenizer, 2).token_bytes[1] == b"WORD"


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_a_slow_tokenizer_without_any_word_is_decoded_alone(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    tokenizer.decode = lambda ids, **_: "?" * len(ids)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.token_bytes[np.flatnonzero(vocabulary.named & ~vocabulary.special)[0]] == b"?"


@pytest.mark.parametrize(
    ("tokens", "ids", "text"),
    [
        (["foo</w>", "ba", "r</w>"], [8, 9, 7], "bar foo "),
        (["foo</w>", "(</w>", "("], [7, 8, 9, 7], " foo ( ( foo"),
    ],
    ids=["with a syllable", "words alone"],
)
def test_a_slow_tokenizer_with_spaces_behind_its_words(tokens: list[str], ids: list[int], text: str) -> None:
    tokenizer = SlowTable(tokens)

    def decode(ids: list[int], **_: Any) -> str:
        return "".join(tokenizer.convert_ids_to_tokens(ids)).replace("</w>", " ").strip()

    tokenizer.decode = decode
    assert Vocabulary(tokenizer, 7 + len(tokens)).text(ids) == text


def test_a_slow_tokenizer_may_give_bytes() -> None:
    tokenizer = tiny_tokenizer("slow_words")
    tokenizer.decode = lambda ids, **_: " word" * len(ids)
    tokenizer.convert_ids_to_tokens = lambda i: b"\xf0\x9f" if i == 9 else "word"
    assert Vocabulary(tokenizer, 20).token_bytes[9] == b"\xf0\x9f"


# --- which ids there are


@pytest.mark.parametrize("kind", FAST_KINDS)
def test_a_vocabulary_of_the_model_may_be_larger_or_smaller(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    known = len(tokenizer)
    larger, smaller = Vocabulary(tokenizer, known + 37), Vocabulary(tokenizer, known - 11)
    assert larger.named.shape == larger.special.shape == (known + 37,)
    assert len(larger.token_bytes) == larger.size == known + 37
    assert np.flatnonzero(~larger.named).tolist() == list(range(known, known + 37))
    assert larger.token_bytes[known:] == [b""] * 37
    assert not larger.special[known:].any()
    assert smaller.token_bytes == larger.token_bytes[: known - 11]
    assert smaller.named.all()


def test_ids_in_between_without_a_token_are_not_named() -> None:
    slow = Vocabulary(tiny_tokenizer("slow_words"), 12)
    assert np.flatnonzero(~slow.named).tolist() == [2, 5, 6]
    fast = Vocabulary(wrapped({"<unk>": 0, "a": 1, "b": 4}, None), 6)
    assert np.flatnonzero(fast.named).tolist() == [0, 1, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_control_tokens_are_named_and_add_nothing(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    vocabulary = Vocabulary(tokenizer, len(tokenizer) + 5)
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if token_id is not None:
            assert vocabulary.named[token_id]
            assert vocabulary.special[token_id]
            assert vocabulary.token_bytes[token_id] == b""
    word = encode(tokenizer, "the")
    assert vocabulary.text([*word, tokenizer.eos_token_id, *word]) == vocabulary.text(word * 2)


def test_control_tokens_without_a_name_are_found() -> None:
    tokenizer = tiny_tokenizer("byte_level", bos=False, pad=False)
    tokenizer.backend_tokenizer.add_special_tokens(["<|turn|>"])
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    marked = tokenizer.convert_ids_to_tokens(np.flatnonzero(vocabulary.special).tolist())
    assert marked == ["<s>", "</s>", "<pad>", "<|turn|>"]


def test_text_takes_numpy_ids_and_refuses_strangers() -> None:
    tokenizer = tiny_tokenizer("byte_level")
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.text(np.array(encode(tokenizer, "the dog"))) == "the dog"
    assert vocabulary.text([]) == ""
    with pytest.raises(IndexError):
        vocabulary.text([len(tokenizer)])
    with pytest.raises(ValueError, match="size: expected an integer of at least 1"):
        Vocabulary(tokenizer, 0)


# --- what ends a text


def model(generation: Any = None, config: Any = None, text: Any = None) -> Any:
    """A model whose three configurations name these end ids."""
    inner = SimpleNamespace(eos_token_id=text)
    outer = SimpleNamespace(eos_token_id=config, get_text_config=lambda: inner)
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=generation), config=outer)


NO_TOKENIZER = SimpleNamespace()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (model(), []),
        (model(7), [7]),
        (model([9, 7], 3, (5,)), [3, 5, 7, 9]),
        (model(-1, [-1, 4], None), [4]),
        (model(True, [False, 2], np.True_), [2]),
        (model(np.int64(6), np.array([1, 6])), [1, 6]),
        (model("7", ["8", None, 3.0, 1]), [1]),
        (model([[1, 2], 3]), [1, 2, 3]),
        (SimpleNamespace(), []),
        (SimpleNamespace(config=SimpleNamespace(eos_token_id=1, text_config=SimpleNamespace(eos_token_id=2))), [1, 2]),
        (SimpleNamespace(generation_config=None, config=None), []),
    ],
)
def test_end_ids_of_a_model(given: Any, expected: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert end_ids(given, NO_TOKENIZER, 10) == expected


def test_end_ids_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert end_ids(model(torch.tensor([3, 1]), torch.tensor(2)), NO_TOKENIZER, 10) == [1, 2, 3]


def test_end_ids_of_tokenizers() -> None:
    tokenizer = tiny_tokenizer("llama")
    assert end_ids(model(55), tokenizer, 456) == [tokenizer.eos_token_id, 55]
    assert end_ids(model(55), tiny_tokenizer("llama", eos=False), 456) == [55]
    tokenizer = SimpleNamespace(eos_token_id=None, eot_token_id=8)
    assert end_ids(model(), tokenizer, 10) == [8]


def test_end_ids_outside_are_told_once() -> None:
    with pytest.warns(UserWarning, match=r"eos_token_id: expected ids from 0 to 9, got -7, 10, 4000; ignored") as told:
        assert end_ids(model([4, 10], 4000, -7), NO_TOKENIZER, 10) == [4]
    assert len(told) == 1
