"""SGLang's own endpoint, ``/generate``, in the terms of OpenAI's ``/completions``.

A request says the same in other words, and so does an answer: the text, how it ended, the ids of the tokens, their
probabilities, a hidden state, and counts in ``meta_info``. What is made of them is the same (`OpenAIGenerator` with
``generate_endpoint=True``), and so are connections and retries.

The ids of the tokens come with every answer, so that a count is never taken on trust. ``n`` is not sent: SGLang draws
every sample of a request with the one seed that it has, so each candidate is a request of its own, whose prompt is in
the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bavt_fast.protocols import GenerationError
from bavt_fast.server_client import told_count

__all__ = ["address_of", "check_fields", "completion_of", "explained", "request_of", "usage_of"]

_AS_IN_COMPLETIONS = ("stop", "temperature", "top_p", "min_p")
_DECIDED = ("text", "input_ids", "input_embeds")
_DECIDED_IN_SAMPLING = ("max_new_tokens", "stop")
"""Fields that follow from what is asked: another limit would break the budget."""


def address_of(base_url: str | None) -> str:
    """Where the endpoint is: beside ``/v1``. Raises ValueError without a server's address."""
    if base_url is None:
        raise ValueError("generate_endpoint: expected the server's address as base_url, got None")
    return base_url.rstrip("/").removesuffix("/v1") + "/generate"


def check_fields(extra_body: Mapping[str, Any]) -> None:
    """Raises TypeError or ValueError for fields with which no budget holds, or not one answer comes."""
    sampling = extra_body.get("sampling_params", {})
    if not isinstance(sampling, Mapping):
        raise TypeError(f"extra_body: expected a dictionary as its sampling_params, got {sampling!r:.80}")
    decided = [name for name in _DECIDED if name in extra_body]
    decided += [f"sampling_params.{name}" for name in _DECIDED_IN_SAMPLING if name in sampling]
    if decided:
        raise ValueError(f"extra_body: expected no {decided[0]}, which follows from what is asked, got one")
    several = {"sampling_params.n": sampling.get("n", 1) != 1, "stream": bool(extra_body.get("stream"))}
    for name, is_set in several.items():
        if is_set:
            raise ValueError(f"extra_body: expected no {name}, since a request is for one answer, got one")


def request_of(body: Mapping[str, Any], extra_body: Mapping[str, Any]) -> dict[str, Any]:
    """The request that asks what a body of ``/completions`` asks.

    Args:
        extra_body: fields of ``/generate`` besides; its ``sampling_params`` come before ours.
    """
    sampling: dict[str, Any] = {name: body[name] for name in _AS_IN_COMPLETIONS if name in body}
    sampling |= {"max_new_tokens": body["max_tokens"], "sampling_seed": body["seed"]}
    if "top_k" in body:
        sampling["top_k"] = body["top_k"] or -1  # of the whole vocabulary
    if body.get("include_stop_str_in_output"):
        sampling["no_stop_trim"] = True
    prompt = body["prompt"]
    request: dict[str, Any] = {"text" if isinstance(prompt, str) else "input_ids": prompt}
    if body.get("logprobs"):
        request["return_logprob"] = True
    if body.get("return_token_ids"):
        request["return_prompt_token_ids"] = True
    if "return_hidden_states" in body:
        request["return_hidden_states"] = body["return_hidden_states"]
    sampling |= extra_body.get("sampling_params", {})
    return {**request, **extra_body, "sampling_params": sampling}


def completion_of(answer: Any) -> dict[str, Any]:
    """An answer as ``/completions`` gives it.

    Raises:
        ValueError: it is not the answer to one request, or the server gave the request up before a token was made.
    """
    sent, told, end = _parts_of(answer)
    if not isinstance(end, dict) or "text" not in sent:
        raise ValueError(f"expected one answer with a text and its meta_info, got {answer!r:.200}")
    if end.get("type") not in ("stop", "length") and not _made_some(sent, told):
        raise ValueError(f"expected a finished answer, got {end.get('type')!r:.80} ({end.get('message')!r:.200})")
    listed = told.get("output_token_logprobs")
    choice = {
        "text": sent["text"],
        "finish_reason": end.get("type"),
        "token_ids": sent.get("output_ids"),
        "prompt_token_ids": sent.get("prompt_token_ids"),
        "logprobs": {"token_logprobs": _first_of_each(listed)} if listed else None,
        "hidden_states": told.get("hidden_states"),
    }
    if "matched" in end:
        choice["matched_stop"] = end["matched"]
    return {"choices": [choice], **usage_of(answer)}


def usage_of(answer: Any) -> dict[str, Any]:
    """What an answer says that it took, as ``/completions`` says it; nothing where it was given up without a token."""
    sent, told, end = _parts_of(answer)
    if isinstance(end, dict) and end.get("type") == "abort" and not _made_some(sent, told):
        return {}
    usage: dict[str, Any] = {name: told.get(name) for name in ("completion_tokens", "prompt_tokens")}
    usage["prompt_tokens_details"] = {"cached_tokens": told.get("cached_tokens")}
    return {"usage": usage}


def _parts_of(answer: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The answer, its ``meta_info``, and how it ended; empty where they are not there."""
    sent = answer if isinstance(answer, dict) else {}
    told = sent.get("meta_info")
    told = told if isinstance(told, dict) else {}
    return sent, told, told.get("finish_reason")


def _made_some(sent: Mapping[str, Any], told: Mapping[str, Any]) -> bool:
    return bool(sent.get("output_ids") or told_count(told, "completion_tokens"))


def _first_of_each(listed: Any) -> Any:
    """The logarithms in SGLang's list of (logarithm, token, text); of another form what came."""
    if not isinstance(listed, list):
        return listed
    return [row[0] if isinstance(row, list) and row else row for row in listed]


def explained(error: GenerationError) -> GenerationError:
    """The error with what may help, where it is known."""
    if "BoolOrList" not in str(error):
        return error
    return GenerationError(
        f"{error}: /generate of this SGLang takes no return_hidden_states 'last'; its OpenAI endpoints do "
        "(generate_endpoint=False)",
        error.spent,
    )
