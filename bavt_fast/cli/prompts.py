"""What the commands tell a language model of how to answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bavt_fast.language_model import TorchModel

__all__ = ["EXAMPLES", "SYSTEM", "generator_and_prompts", "plain_prompt"]

SYSTEM = 'Answer step by step, one short step per line. The last line is "Answer: " and the answer.'

EXAMPLES = (
    (
        "Kim has 13 stamps. She buys 8 more and gives 5 away. How many stamps does she have?",
        "After buying she has 13 + 8 = 21 stamps.\nAfter giving some away she has 21 - 5 = 16 stamps.\nAnswer: 16",
    ),
    (
        "Rosa is taller than Ivan, and Ivan is taller than Lena. Who is the shortest?",
        "Rosa is taller than Ivan, so it is not Rosa.\nIvan is taller than Lena, so it is not Ivan.\nAnswer: Lena",
    ),
    (
        "A pack holds 6 eggs. How many eggs are there in 4 packs and a pack that is half full?",
        "4 packs hold 4 * 6 = 24 eggs.\nHalf a pack is 6 / 2 = 3 eggs.\nTogether that is 24 + 3 = 27 eggs.\nAnswer: 27",
    ),
)
"""Turns that stand before the question. A small model follows examples rather than instructions."""


def plain_prompt(question: str, system: str, examples: Sequence[tuple[str, str]] = ()) -> str:
    """The same for a model without a chat template: instructions, examples and the question one after the other."""
    turns = [f"Question: {asked}\n{answer}\n" for asked, answer in examples]
    parts = [f"{system}\n"] * bool(system) + [*turns, f"Question: {question}\n"]
    return "\n".join(parts)


def generator_and_prompts(
    model: TorchModel, system: str | None, chat: bool | None, **options: Any
) -> tuple[Any, Callable[[str], str]]:
    """The generator of a language model, and what makes a question into the prompt that a search begins with.

    Args:
        system: in the place of our instructions and examples; None for those.
        chat: use the chat template; None: where there is one.
        **options: of `TorchModel.generator`.
    """
    examples = EXAMPLES if system is None else ()
    asked = SYSTEM if system is None else system
    if chat is None:
        chat = getattr(model.tokenizer, "chat_template", None) is not None
    if chat:
        return model.generator(chat=True, system=asked or None, examples=examples, **options), str
    return model.generator(chat=False, **options), partial(plain_prompt, system=asked, examples=examples)
