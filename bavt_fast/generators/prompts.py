"""Prompts as token ids: exactly one BOS where there is one, no EOS at the end, and words of the user that stay words.

A tokenizer puts control tokens around what it encodes, a chat template writes some of its own, and text that looks
like a control token becomes one. A prompt to be continued wants the BOS once, no EOS behind it, and only those control
tokens that the template wrote: a user who asks to "print </s>" has not ended the text.
"""

from __future__ import annotations

import copy
import functools
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from bavt_fast._checks import as_count, as_flag
from bavt_fast.generators.vocabulary import control_tokens
from bavt_fast.protocols import GenerationError

__all__ = ["ChatPrompts", "PlainPrompts", "PromptTooLong", "bare_ids", "check_texts", "checked_ids", "too_long"]

_OWN_OPTIONS = ("conversation", "tokenize", "add_generation_prompt", "continue_final_message", "return_dict")


class PlainPrompts:
    """Encodes a text to be continued: ``prompts(text) -> list of ids``.

    The tokenizer's BOS (or whatever else it puts before a text) stands before it once, also where the text begins with
    it already. What it would put behind is left out: a text that ends in EOS is not continued. Nothing is cut off.

    Args:
        tokenizer: a transformers tokenizer.
        tokens_as_text: encode words that look like control tokens as text. Without it, they become control tokens, as
            someone wants who writes a template by hand.

    Raises:
        TypeError: the text is not a str.
        ValueError: the text is empty, and the tokenizer has no BOS to begin with.
    """

    def __init__(self, tokenizer: Any, *, tokens_as_text: bool = False) -> None:
        self.tokenizer = tokenizer
        self.tokens_as_text = as_flag("tokens_as_text", tokens_as_text)
        self._prefix = _prefix(tokenizer)
        self._encoder = _TextEncoder(tokenizer, _control_words(tokenizer))

    def __call__(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(f"text: expected a str, got {text!r} of type {type(text).__name__}")
        ids = self._encoder.encode([text]) if self.tokens_as_text else bare_ids(self.tokenizer, text)
        ids = _behind(self._prefix, ids)
        if not ids and self.tokenizer.bos_token_id is not None:
            return [self.tokenizer.bos_token_id]
        if not ids:
            raise ValueError(
                f"text: expected a text of at least one token to continue, got {text!r}; "
                "this tokenizer has no BOS token that could stand alone, so begin with some text"
            )
        return ids


class ChatPrompts:
    """Encodes a question as a chat: ``prompts(question) -> list of ids``.

    The ids are those of the system prompt, the examples as turns, the user's turn and the beginning of the assistant's,
    as the tokenizer's chat template writes them. The tokenizer's own BOS is added where the template writes none.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
        system: the system prompt. Where the template knows no system role (it refuses it, or leaves its text out), it
            stands at the beginning of the first user turn, before a blank line.
        examples: (question, answer) pairs, turns that stand before the question.
        opening: how the assistant's turn begins; the model goes on behind it.
        user_tokens_as_text: encode words of the questions (those of the examples too) that look like control tokens as
            text. Control tokens are the tokenizer's special tokens and the added tokens that the template writes, such
            as ``<think>``. In `system`, answers and `opening`, which are the developer's, they stay control tokens.
        **template_options: passed to the template, such as ``enable_thinking=False``, ``tools=...`` or
            ``chat_template=...``, a template in place of the tokenizer's.

    Raises:
        TypeError: a text is not a str.
        ValueError: there is no chat template; it refuses the messages, or leaves questions out; an option is one that
            this class decides.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        system: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        opening: str = "",
        user_tokens_as_text: bool = True,
        **template_options: Any,
    ) -> None:
        if decided := [name for name in _OWN_OPTIONS if name in template_options]:
            raise ValueError(f"template options: expected options of the chat template, got {decided[0]}; leave it out")
        check_texts(system, examples, opening)
        self.tokenizer = tokenizer
        self.system = system
        self.examples = tuple((question, answer) for question, answer in examples)
        self.opening = opening
        self.user_tokens_as_text = as_flag("user_tokens_as_text", user_tokens_as_text)
        self.template_options = template_options
        self._prefix = _prefix(tokenizer)
        self._words = _control_words(tokenizer, _template(tokenizer, template_options))
        self._encoder = _TextEncoder(tokenizer, self._words)
        self._folds_system = system is not None and not self._has_system_role()
        self._check_that_questions_are_read()

    def __call__(self, question: str) -> list[int]:
        if not isinstance(question, str):
            raise TypeError(f"question: expected a str, got {question!r} of type {type(question).__name__}")
        questions = [question, *(asked for asked, _ in self.examples)]
        if self.user_tokens_as_text and any(self._encoder.makes_control_tokens(text) for text in questions):
            masked = [self._encoder.mask(text) for text in questions]
            ids = self._encoder.encode(self._encoder.parts(self._render(*masked)))
        else:
            ids = bare_ids(self.tokenizer, self._render(*questions))
        return _behind(self._prefix, ids)

    def _render(self, question: str, *examples_asked: str) -> str:
        """The text of the whole chat. `examples_asked` stand for the questions of the examples."""
        messages = []
        for asked, (_, answer) in zip(examples_asked, self.examples, strict=True):
            messages += [_message("user", asked), _message("assistant", answer)]
        messages.append(_message("user", question))
        if self._folds_system and self.system:
            messages[0]["content"] = f"{self.system}\n\n{messages[0]['content']}"
        elif self.system is not None and not self._folds_system:
            messages.insert(0, _message("system", self.system))
        return self._apply(messages) + self.opening

    def _check_that_questions_are_read(self) -> None:
        """Some templates take a content in parts, and leave out one that is a text."""
        asked = [_unguessable() for _ in ("question", *self.examples)]
        text = self._render(*asked).casefold()
        if left_out := sum(question not in text for question in asked):
            raise ValueError(
                f"chat template: expected one that writes what users say, got one that leaves out {left_out} of "
                f"{len(asked)} texts; pass chat_template=..., or use PlainPrompts, which encodes the text as it is"
            )

    def _has_system_role(self) -> bool:
        system = _unguessable()
        try:
            return system in self._apply([_message("system", system), _message("user", "?")])
        except ValueError:
            return False

    def _apply(self, messages: list[dict[str, str]]) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.template_options
            )
        except (TemplateError, TypeError, AttributeError, LookupError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"chat template: it refuses the turns {roles}: {error}; pass chat_template=... or other options"
            ) from error
        return text


def check_texts(system: Any, examples: Any, opening: Any) -> None:
    """Raises TypeError for what stands around a question and is no text."""
    for name, text in [("system", "" if system is None else system), ("opening", opening), *_named_texts(examples)]:
        if not isinstance(text, str):
            raise TypeError(f"{name}: expected a str, got {text!r} of type {type(text).__name__}")


def _named_texts(examples: Any) -> list[tuple[str, Any]]:
    is_list = isinstance(examples, Sequence) and not isinstance(examples, str)
    if not is_list or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in examples):
        raise TypeError(f"examples: expected pairs (question, answer), got {examples!r:.80}")
    return [(f"examples[{i}]", text) for i, pair in enumerate(examples) for text in pair]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _template(tokenizer: Any, options: Mapping[str, Any]) -> str:
    """The source of the chat template that these options choose."""
    if getattr(tokenizer, "chat_template", None) is None and options.get("chat_template") is None:
        raise ValueError(
            "tokenizer: expected one with a chat template, got one without; set tokenizer.chat_template, pass "
            "chat_template=..., or use PlainPrompts, which encodes the text as it is"
        )
    source: str = tokenizer.get_chat_template(options.get("chat_template"), options.get("tools"))
    return source


class PromptTooLong(GenerationError, ValueError):
    """A prompt leaves no room for a token in a model's context."""


def too_long(tokens: int, most: int) -> PromptTooLong:
    """The error that says both lengths."""
    return PromptTooLong(
        f"prompt: expected fewer than {most:,} tokens, which is all that the model's context holds, got {tokens:,}"
    )


def checked_ids(name: str, ids: Any, known: int) -> tuple[int, ...]:
    """Token ids, checked. One that the model has not would end a GPU's work for the whole process."""
    numbers = ids.tolist() if hasattr(ids, "tolist") else ids
    if not isinstance(numbers, Sequence) or isinstance(numbers, (str, bytes)):
        raise TypeError(f"{name}: expected a list of token ids, got {ids!r:.80}")
    return tuple([as_count(f"{name}: token ids", number, maximum=known - 1) for number in numbers])


# --- what a tokenizer puts around a text


def bare_ids(tokenizer: Any, text: str, *, as_text: bool = False) -> list[int]:
    """The ids of a text, with nothing put around it, whole; control words as control tokens or `as_text`."""
    bare = {"add_special_tokens": False, "truncation": False, "padding": False, "verbose": False}
    return list(tokenizer(_whole(text), split_special_tokens=as_text, **bare)["input_ids"])


def _whole(text: str) -> str:
    """The text; a question mark for half a character, which no tokenizer takes."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _prefix(tokenizer: Any) -> list[int]:
    """The ids that a tokenizer puts before every text: BOS, as a rule, or none."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    words = (token for token in tokenizer.get_vocab() if isinstance(token, str) and token not in special)
    plain = (word for word in words if word.isascii() and word.isalnum())
    probe = min(plain, key=lambda word: (len(word), word), default="a")  # some tokenizers refuse what they do not know
    ids = list(tokenizer(probe, truncation=False, padding=False, verbose=False)["input_ids"])
    bare = bare_ids(tokenizer, probe)
    for start in range(len(ids) - len(bare) + 1):
        if bare and ids[start : start + len(bare)] == bare:
            return ids[:start]
    return ids[:1] if ids[:1] == [tokenizer.bos_token_id] else []


def _behind(prefix: list[int], ids: list[int]) -> list[int]:
    return ids if ids[: len(prefix)] == prefix else prefix + ids


# --- words that stay words


def _control_words(tokenizer: Any, template: str = "") -> dict[str, int]:
    """The control tokens by their text: the special tokens, and the added ones that a template writes."""
    words = {content: token_id for token_id, content in control_tokens(tokenizer).items()}
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if token.content in template and not token.content.isspace():
            words[token.content] = token_id
    return words


def _unguessable() -> str:
    """A word of small letters and digits, which no normaliser changes and no text holds."""
    return f"zq{secrets.token_hex(8)}qz"


class _TextEncoder:
    """Encodes text whose control words are text, with control tokens in given places.

    A control token that stands in a given place is written as a name that nobody can guess. A copy of the tokenizer
    knows these names and none of the control words; it reads the whole text at once, so that spaces and word
    boundaries are treated beside a name as they are beside the control token. A tokenizer without a backend encodes the
    pieces in between one by one, as it does by itself.

    Args:
        tokenizer: a transformers tokenizer.
        words: id of each control word.
    """

    def __init__(self, tokenizer: Any, words: Mapping[str, int]) -> None:
        self.tokenizer = tokenizer
        self.words = dict(words)
        # As a tokenizer matches them: from the left, the longest first.
        self._pattern = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) or r"\Z.")
        # What has no token is unknown; that is no word of control.
        self._control_ids = set(words.values()) - {tokenizer.unk_token_id}
        self._names = {token_id: _unguessable() for token_id in words.values()}
        self._masks = {word: _unguessable() for word in words}
        # A template may raise letters.
        self._masked = re.compile("|".join(self._masks.values()) or r"\Z.", re.IGNORECASE)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_backend", "_pieces")}

    def makes_control_tokens(self, text: str) -> bool:
        """Whether the tokenizer by itself would make a control token of some of the text."""
        if self._pattern.search(text):
            return True
        return not self._control_ids.isdisjoint(bare_ids(self.tokenizer, text))

    def mask(self, text: str) -> str:
        """The text with its control words hidden, for a template to write it where it wants."""
        return self._pattern.sub(lambda match: self._masks[match[0]], text)

    def parts(self, text: str) -> list[str | int]:
        """Text and control tokens by turns; what `mask` hid is text again."""
        parts: list[str | int] = []
        end = 0
        for match in self._pattern.finditer(text):
            parts += [text[end : match.start()], self.words[match[0]]]
            end = match.end()
        parts.append(text[end:])
        return [self._unmasked(part) if isinstance(part, str) else part for part in parts]

    def _unmasked(self, text: str) -> str:
        words = {mask: word for word, mask in self._masks.items()}
        return self._masked.sub(lambda match: words[match[0].lower()], text)

    def encode(self, parts: Sequence[str | int]) -> list[int]:
        """The ids of texts and control tokens, one after the other."""
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            return self._encode_slow(parts)
        backend, controls = self._backend
        text = "".join(self._names[part] if isinstance(part, int) else part for part in parts)
        ids = []
        for token_id in backend.encode(_whole(text), add_special_tokens=False).ids:
            ids += [controls[token_id]] if token_id in controls else self._as_text([token_id])
        return ids

    def _encode_slow(self, parts: Sequence[str | int]) -> list[int]:
        tokens = self.tokenizer.added_tokens_decoder
        ids = []
        for at, part in enumerate(parts):
            if isinstance(part, int):
                ids.append(part)
                continue
            before, after = (tokens.get(parts[i]) if 0 <= i < len(parts) else None for i in (at - 1, at + 1))
            text = part.lstrip() if before is not None and before.rstrip else part
            text = text.rstrip() if after is not None and after.lstrip else text
            if text:
                ids += self._as_text(bare_ids(self.tokenizer, text, as_text=True))
        return ids

    @functools.cached_property
    def _backend(self) -> tuple[Any, dict[int, int]]:
        """A copy of the tokenizer's backend that knows names for control words; the control token of each name's id."""
        backend = copy.deepcopy(self.tokenizer.backend_tokenizer)
        backend.no_truncation()
        backend.no_padding()
        tokens = backend.get_added_tokens_decoder()
        backend.add_special_tokens(list(self.words))
        backend.encode_special_tokens = True
        for token_id, name in self._names.items():
            token = tokens[token_id]
            flags = {flag: getattr(token, flag) for flag in ("single_word", "lstrip", "rstrip", "normalized")}
            backend.add_tokens([type(token)(name, special=False, **flags)])
        return backend, {backend.token_to_id(name): token_id for token_id, name in self._names.items()}

    def _as_text(self, ids: Sequence[int]) -> list[int]:
        """The ids, with control tokens spelled out.

        A vocabulary that holds the control words as words (Unigram, a word a token) gives their ids for plain text too.
        """
        spelled = []
        for token_id in ids:
            spelled += self._spelled(token_id) if token_id in self._control_ids else [token_id]
        return spelled

    def _spelled(self, control_id: int) -> list[int]:
        """The longest pieces that make a control token's text; the unknown token where they cannot."""
        rest: str = next(word for word, token_id in self.words.items() if token_id == control_id)
        ids = []
        while rest:
            length = next((length for length in range(len(rest), 0, -1) if rest[:length] in self._pieces), 0)
            if not length:
                unknown = self.tokenizer.unk_token_id
                return [] if unknown is None else [unknown]
            ids.append(self._pieces[rest[:length]])
            rest = rest[length:]
        return ids

    @functools.cached_property
    def _pieces(self) -> dict[str, int]:
        vocabulary = self.tokenizer.get_vocab().items()
        return {token: token_id for token, token_id in vocabulary if token_id not in self._control_ids}
