"""What is in an answer of OpenAI's endpoints: counts, probabilities, how a step ended, why a request was refused."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bavt_fast.protocols import FinishReason, StepRequest
from bavt_fast.server_client import told_count

__all__ = [
    "DROPPED",
    "Usage",
    "ending",
    "is_known",
    "listed_ids",
    "log_probabilities",
    "says_no_room",
    "says_nothing",
    "text_of",
    "wants_other_limit",
]

_AT_LIMIT = ("length", "max_tokens")
DROPPED = ("content_filter", "tool_calls", "function_call", "abort", "error")
"""Of texts that are not whole, whatever their limit is."""
_LARGEST_ID = 2**31 - 1
_NO_ROOM = (
    "context length",
    "maximum context",
    "max_tokens must be at least 1",
    "context_length_exceeded",  # the code of OpenAI
    "context size",  # of llama.cpp
    "context window",
)
"""What servers say of a context that leaves no room for a token."""
_OTHER_LIMIT = re.compile(r"\buse\W.{0,10}\bmax_completion_tokens\b", re.IGNORECASE)
"""What OpenAI says of max_tokens to a model that reasons."""
_WHOLE = ("stop", "eos_token", "stop_sequence", None)
"""The second and third are of text-generation-inference; None is of servers that never say."""


class Usage(NamedTuple):
    """What an answer says that it took.

    Attributes:
        made: generated tokens; None where nobody says.
        read: prompt tokens; 0 where nobody says. cached: how many of them came out of a cache.
    """

    made: int | None
    read: int
    cached: int

    @classmethod
    def of(cls, answer: Any) -> Usage:
        """Whatever the rest of the answer is."""
        sent = answer.get("usage") if isinstance(answer, dict) else None
        usage = sent if isinstance(sent, dict) else {}
        read = told_count(usage, "prompt_tokens") or 0
        cached = told_count(usage.get("prompt_tokens_details"), "cached_tokens") or 0
        return cls(_made(usage, read), read, min(cached, read))

    @property
    def was_billed(self) -> bool:
        """Whether it took anything."""
        return bool(self.made or self.read)

    def charged(self, request: StepRequest, listed: int = 0) -> int:
        """Prompt tokens to pay for: as the server counts or lists them, else all that was reserved for them."""
        return self.read or listed or request.sampling.max_prompt_tokens or 0


def _made(usage: Mapping[str, Any], read: int) -> int | None:
    """Generated tokens, with thoughts that are counted beside them: the sum of all says so (xAI)."""
    made = told_count(usage, "completion_tokens")
    thought = told_count(usage.get("completion_tokens_details"), "reasoning_tokens") or 0
    if made is None or not thought or (told_count(usage, "total_tokens") or 0) < read + made + thought:
        return made
    return made + thought


def text_of(answer: Any, chat: bool, usage: Usage) -> tuple[str | None, dict[str, Any]]:
    """The text of the first choice, and the choice.

    A server may give no text: for a model that has said nothing but its thoughts, has called a tool, or was stopped.
    That is an answer where it ended, or was billed.

    Raises:
        ValueError: there is none.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise ValueError(f"expected an answer with a text, got {answer!r:.80}")
    said = choice.get("message") if chat else choice
    if not isinstance(said, dict):
        raise ValueError(f"expected an answer to a chat, got {answer!r:.80}")
    text = said.get("content" if chat else "text")
    is_answer = isinstance(text, str) or (text is None and (choice.get("finish_reason") == "stop" or usage.was_billed))
    if not is_answer:
        raise ValueError(f"expected an answer with a text, got {answer!r:.80}")
    return text, choice


def says_nothing(text: str | None, choice: Mapping[str, Any]) -> bool:
    """Whether a count of no tokens can be true. It is also what proxies put where they do not count."""
    return not text and choice.get("finish_reason") in ("stop", "eos_token", "content_filter")


def says_no_room(refusal: str) -> bool:
    """Whether a context was refused that leaves no room for a token."""
    return any(words in refusal for words in _NO_ROOM)


def wants_other_limit(refusal: str) -> bool:
    """Whether ``max_tokens`` was refused, and ``max_completion_tokens`` would be taken."""
    return _OTHER_LIMIT.search(refusal) is not None


def ending(
    said: str | None, choice: Mapping[str, Any], delimiters: Sequence[str], stop_is_returned: bool, is_full: bool
) -> tuple[str, FinishReason]:
    """The text with the delimiter that ended it, and how it ended.

    vLLM and SGLang say which stop string it was (`stop_reason`, `matched_stop`), or none for the end of the text.
    Where nobody says, a text with nothing in it is the end. So it is where a server gives no finish_reason, or one of
    its own, for a text that is not `is_full`, which is as long as it may be.
    """
    text, reason = said or "", choice.get("finish_reason")
    if reason in DROPPED:
        return text, "limit"
    if any(text.endswith(end) for end in delimiters):
        return text, "delimiter"  # it was returned: a text that is cut before its first delimiter does not end so
    if reason in _AT_LIMIT:
        return text, "limit"
    if reason != "stop" and (is_full or said is None):
        return text, "limit"
    named = _said(choice)
    if isinstance(named, str) and named in delimiters:
        return text + named, "delimiter"
    if reason == "stop_sequence":
        return text + delimiters[0], "delimiter"
    if named != "unsaid" or reason == "eos_token" or stop_is_returned or not text.strip():
        return text, "end"
    return text + delimiters[0], "delimiter"


def is_known(reason: Any) -> bool:
    """Whether a finish_reason says how a text ended."""
    return reason in _AT_LIMIT or reason in DROPPED or reason in _WHOLE


def _said(choice: Mapping[str, Any]) -> Any:
    """The stop string that the server names, None for the end of the text, "unsaid" where it does not say."""
    for name in ("stop_reason", "matched_stop"):
        if name in choice:
            value: str | int | None = choice[name]
            return value if isinstance(value, str) else None  # a number is the id of a token that ends the text
    return "unsaid"


def log_probabilities(choice: Mapping[str, Any], wanted: bool) -> list[float]:
    """Of the tokens, where the server gives them.

    Raises:
        ValueError: they were asked for, and are of a form that nobody knows.
    """
    found = choice.get("logprobs")
    if found is None:
        return []
    try:
        content = found.get("content")
        values: Any = [token["logprob"] for token in content] if content else found.get("token_logprobs")
        numbers = [float(value) for value in values or () if value is not None]
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError):
        if not wanted:
            return []
        expected = "expected the logarithms of tokens' probabilities as logprobs"
        raise ValueError(f"{expected}, got {found!r:.80}") from None
    return numbers if wanted or not any(map(math.isnan, numbers)) else []


def listed_ids(holder: Mapping[str, Any], name: str) -> tuple[tuple[int, ...], int]:
    """The token ids that a server lists, and how many it lists. Where one of them cannot be an id, there are none."""
    listed = holder.get(name)
    if not isinstance(listed, list):
        return (), 0
    are_ids = all(type(token) is int and 0 <= token <= _LARGEST_ID for token in listed)
    return tuple(listed) if are_ids else (), len(listed)
