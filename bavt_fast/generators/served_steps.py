"""What generators share whose model runs elsewhere: steps that take several answers, seeds, delimiters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from bavt_fast._checks import as_amount, as_count, as_share
from bavt_fast.budget import Spent
from bavt_fast.protocols import GenerationError, Node, Step, StepRequest

__all__ = [
    "as_delimiters",
    "as_sampling",
    "behind",
    "candidate_seed",
    "goes_on",
    "joined",
    "paying",
    "spent_on",
    "with_failed",
]


def as_delimiters(delimiter: str | Sequence[str]) -> tuple[str, ...]:
    """The delimiters as a tuple. Raises ValueError for none, an empty one, or more than servers take."""
    ends = (delimiter,) if isinstance(delimiter, str) else tuple(delimiter) if isinstance(delimiter, Sequence) else ()
    if not 1 <= len(ends) <= 4 or not all(isinstance(end, str) and end for end in ends):
        raise ValueError(f"delimiter: expected one to four non-empty str (a server takes four), got {delimiter!r:.80}")
    return ends


def as_sampling(
    temperature: float, top_p: float, top_k: int | None, min_p: float | None
) -> tuple[float, float, int | None, float | None]:
    """How to sample, checked. Raises TypeError or ValueError for what is no such number."""
    return (
        as_amount("temperature", temperature, allow_zero=True),
        as_share("top_p", top_p),
        None if top_k is None else as_count("top_k", top_k),
        None if min_p is None or as_amount("min_p", min_p, allow_zero=True) == 0 else as_share("min_p", min_p),
    )


def candidate_seed(seed: int, candidate: int) -> int:
    """31 bits, which every server takes."""
    digest = hashlib.blake2b(f"{seed}/{candidate}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def goes_on(step: Step, limit: int, delimiters: Sequence[str], reads: int, most_read: int | None) -> bool:
    """Whether a step that ended at a delimiter has said nothing yet, and the model may go on behind it.

    Args:
        reads: tokens that the next request reads; 0 where nobody knows.
        most_read: that may be read for the whole step; None for any number.
    """
    if step.finish_reason != "delimiter" or step.tokens >= limit:
        return False
    if most_read is not None and not 0 < reads <= most_read - step.prompt_tokens:
        return False
    text = step.text
    for end in delimiters:
        text = text.replace(end, "")
    return not text.strip()


def behind(request: StepRequest, step: Step) -> StepRequest:
    """The request that goes on behind a step which has said nothing yet, with what is left to read for it."""
    most_read = request.sampling.max_prompt_tokens
    left = None if most_read is None else most_read - step.prompt_tokens
    sampling = request.sampling._replace(max_prompt_tokens=left)
    return request._replace(node=Node(None, None, request.node, step), sampling=sampling)


def joined(first: Step, second: Step) -> Step:
    """Two answers, the second of which goes on from the first, as one step."""
    known = first.log_probability is not None and second.log_probability is not None
    return Step(
        first.text + second.text,
        first.tokens + second.tokens,
        second.finish_reason,
        first.prompt_tokens + second.prompt_tokens,
        hidden=second.hidden,
        token_ids=first.token_ids + second.token_ids if first.token_ids and second.token_ids else (),
        log_probability=(first.log_probability or 0.0) + (second.log_probability or 0.0) if known else None,
        cached_tokens=first.cached_tokens + second.cached_tokens,
    )


def spent_on(errors: Iterable[Exception]) -> Spent:
    """What failed asks took, together."""
    told = [error.spent for error in errors if isinstance(error, GenerationError)]
    return sum((spent for spent in told if spent is not None), Spent())


def paying(step: Step, spent: Spent) -> Step:
    """A step that is charged for what failed behind it too."""
    return replace(step, tokens=step.tokens + spent.tokens, prompt_tokens=step.prompt_tokens + spent.prompt_tokens)


def with_failed(steps: list[Step], errors: Sequence[Exception], spent: Spent) -> list[Step] | Exception:
    """The answer to an ask: the candidates that came, or else the first error.

    Args:
        spent: on those that failed. Beside steps it is charged as that of a step that is dropped.
    """
    if not errors or spent == Spent():
        return errors[0] if errors and not steps else steps
    if not steps:
        return GenerationError(str(errors[0]), spent)
    return [*steps, Step("", max(1, spent.tokens), "limit", spent.prompt_tokens)]
