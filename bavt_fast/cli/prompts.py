"""What ``bavt-fast ask`` tells a model of how to answer."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["EXAMPLES", "SYSTEM", "plain_prompt"]

SYSTEM = 'Answer step by step, one short step per line. The last line is "Answer: " and the answer.'

EXAMPLES: tuple[tuple[str, str], ...] = ()


def plain_prompt(question: str, system: str, examples: Sequence[tuple[str, str]] = ()) -> str:
    """The same for a model without a chat template: instructions, examples and the question one after the other."""
    turns = [f"Question: {asked}\n{answer}\n" for asked, answer in examples]
    parts = [f"{system}\n"] * bool(system) + [*turns, f"Question: {question}\n"]
    return "\n".join(parts)
