"""A model that rates, by a function of its prompt, and paths for it to rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bavt_fast.protocols import Node, Step, StepRequest


class Model:
    """Replies to each prompt by a function of it, and counts what that takes."""

    def __init__(self, reply: Any = "8\n") -> None:
        self.reply = reply
        self.calls: list[tuple[list[StepRequest], list[int], list[int]]] = []
        self.tokens = self.prompt_tokens = 0

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[Any]:
        self.calls.append((list(states), list(counts), list(limits)))
        return [self.answer(state.text) for state in states]

    def answer(self, prompt: str) -> Any:
        reply = self.reply(prompt) if callable(self.reply) else self.reply
        if isinstance(reply, str):
            reply = [Step(reply, max(1, len(reply)), prompt_tokens=len(prompt))]
        if isinstance(reply, list):
            self.tokens += sum(step.tokens for step in reply)
            self.prompt_tokens += sum(step.prompt_tokens for step in reply)
        return reply

    @property
    def prompts(self) -> list[str]:
        return [state.prompt for states, _, _ in self.calls for state in states]


def path(*steps: str, question: str = "q\n") -> Node:
    """The node at the end of a path."""
    node = Node(None, question)
    for step in steps:
        node = Node(None, None, node, Step(step, 1))
    return node
