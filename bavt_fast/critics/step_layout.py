"""A path as the text that a process reward model reads, where each step is judged, and how the scores become a value.

By `aggregate`, the scores of the steps on a path become one value:

- "last", the default: the last step's score. Models trained on how often a prefix could be finished rightly estimate
  V of the state there; Snell et al. 2024 (arXiv 2408.03314) found it to be the best for searching with them.
- "min": the worst step's (Wang et al. 2024): a path is as good as its weakest step.
- "product": the probability that all steps are right, were they independent (Lightman et al. 2023, arXiv 2305.20050).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from bavt_fast._checks import as_flag, require_function
from bavt_fast.protocols import Node
from bavt_fast.request_checks import check_nodes

__all__ = ["AGGREGATES", "Aggregate", "Laid", "StepLayout", "checked_aggregate", "max_length_of", "qwen_layout"]

Aggregate = Literal["last", "min", "product"]
AGGREGATES: dict[Aggregate, Callable[[list[float]], float]] = {
    "last": lambda scores: scores[-1],
    "min": min,
    "product": math.prod,
}
QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class Laid(NamedTuple):
    """A path in tokens: `ids`, and the position of each step's last token, in order."""

    ids: list[int]
    positions: list[int]


class StepLayout:
    """``prompt(question)``, and then every step with its tag, and `between` from one to the next.

    A path is encoded as one text, as in training. Where a step's tag ended up is read from the tokenizer's offsets, so
    a tag that also stands in the question or inside a step does no harm.

    Args:
        tokenizer: a fast tokenizer of transformers; only those tell where each token stands in the text.
        step_tag: follows each step; the step is judged at the last token of the tag, or, where the tokenizer drops it
            (as WordPiece drops white space), at the last token before it.
        between: stands between a tag and the next step.
        prompt: makes the text before the first step from the question.
        add_special_tokens: whether the tokenizer puts its BOS and the like around the text; False where `prompt` writes
            them, as chat templates do.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        step_tag: str = "\n",
        between: str = "",
        prompt: Callable[[str], str] | None = None,
        add_special_tokens: bool = True,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise TypeError(
                f"tokenizer: expected a fast tokenizer, which knows the offsets of its tokens, got "
                f"{type(tokenizer).__name__}; load it with AutoTokenizer.from_pretrained(..., use_fast=True)"
            )
        for name, value in (("step_tag", step_tag), ("between", between)):
            if not isinstance(value, str):
                raise TypeError(f"{name}: expected a str, got {value!r:.80}")
        if not step_tag:
            raise ValueError("step_tag: expected a non-empty str such as '\\n' or '<extra_0>', got ''")
        require_function("prompt", prompt)
        self.tokenizer = tokenizer
        self.step_tag, self.between = step_tag, between
        self.prompt = prompt
        self.add_special_tokens = as_flag("add_special_tokens", add_special_tokens)

    def text(self, node: Node) -> tuple[str, list[int]]:
        """The text of the path to a node, and the places of its tags' last characters.

        The question is the root's text, whatever prompts the states in between have.

        Raises:
            ValueError: the node is a root, on whose way there is no step.
        """
        steps = []
        while node.parent is not None:
            if node.step is not None:
                steps.append(node.step.text.strip("\r\n").rstrip())
            node = node.parent
        if not steps:
            raise ValueError(f"critic: expected a state with a step behind it, got the question {node.text[-60:]!r}")
        text = node.text if self.prompt is None else self.prompt(node.text)
        if not isinstance(text, str):
            raise TypeError(f"prompt: expected a str from the function, got {text!r:.80}")
        places = []
        for number, step in enumerate(reversed(steps)):
            text += (self.between if number else "") + step + self.step_tag
            places.append(len(text) - 1)
        return text, places

    def lay(self, nodes: Sequence[Node], max_length: int | None = None) -> list[Laid | Exception]:
        """Paths in tokens; an exception in the place of one that cannot be encoded, or has more than `max_length`."""
        check_nodes("candidates", nodes)
        laid = self._lay(nodes)
        for i, path in enumerate(laid):
            if isinstance(path, Laid) and max_length is not None and len(path.ids) > max_length:
                laid[i] = ValueError(
                    f"critic: expected a path of at most {max_length} tokens, got {len(path.ids)} for "
                    f"{nodes[i].text[-60:]!r}; limit the depth of the search, or take a model of a longer context"
                )
        return laid

    def _lay(self, nodes: Sequence[Node]) -> list[Laid | Exception]:
        texts: list[tuple[str, list[int]] | Exception] = [_tried(self.text, node) for node in nodes]
        good = [text for text in texts if not isinstance(text, Exception)]
        laid = iter(self._encode(good))
        return [text if isinstance(text, Exception) else next(laid) for text in texts]

    def _encode(self, texts: list[tuple[str, list[int]]]) -> list[Laid | Exception]:
        if not texts:
            return []
        try:
            encoded = self.tokenizer(
                [text.encode(errors="replace").decode() for text, _ in texts],  # half a character is a question mark
                add_special_tokens=self.add_special_tokens,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                padding=False,
                truncation=False,
                verbose=False,
            )
        except Exception as error:  # one text may be at fault, such as one with words that the tokenizer has not
            if len(texts) == 1:
                return [error]
            return [self._encode([text])[0] for text in texts]
        columns = zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        return [_laid(text, places, ids, offsets) for (text, places), ids, offsets in columns]


def _laid(text: str, places: list[int], ids: list[int], offsets: list[tuple[int, int]]) -> Laid | Exception:
    written = [(start, at) for at, (start, end) in enumerate(offsets) if end > start]  # special tokens stand nowhere
    starts = [start for start, _ in written]
    last = [bisect_right(starts, place) - 1 for place in places]
    if min(last) < 0:
        return ValueError(f"critic: expected a token at the end of every step, got none in {text[-60:]!r}")
    return Laid(ids, [written[i][1] for i in last])


def _tried(text: Callable[[Node], tuple[str, list[int]]], node: Node) -> tuple[str, list[int]] | Exception:
    try:
        return text(node)
    except Exception as error:
        return error


def max_length_of(model: Any, tokenizer: Any, first_position: int = 0) -> int | None:
    """The most tokens that a model reads at once, by its configuration and its tokenizer; None for no limit known. Its
    positions are counted from `first_position`."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    named = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    positions = [n - first_position for n in named if isinstance(n, int)]
    known = [*positions, getattr(tokenizer, "model_max_length", None)]
    return min((n for n in known if isinstance(n, int) and 0 < n < 10**9), default=None)


def checked_aggregate(aggregate: Any) -> Aggregate:
    """Raises ValueError for a name that is none of them."""
    if not isinstance(aggregate, str) or aggregate not in AGGREGATES:
        raise ValueError(f"aggregate: expected 'last', 'min' or 'product', got {aggregate!r:.80}")
    checked: Aggregate = aggregate
    return checked


def qwen_layout(tokenizer: Any, system: str | None) -> dict[str, Any]:
    """How models of the kind of Qwen2.5-Math-PRM read: the question as a user's turn, ``<extra_0>`` behind each step.

    Raises:
        ValueError: the tokenizer has no chat template, or no token ``<extra_0>``.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError("tokenizer: expected one with a chat template; load the one of the reward model")
    if len(tokenizer("<extra_0>", add_special_tokens=False)["input_ids"]) != 1:
        raise ValueError("tokenizer: expected one with the token <extra_0>; load the one of the reward model")

    def prompt(question: str) -> str:
        turns = [] if system is None else [{"role": "system", "content": system}]
        turns.append({"role": "user", "content": question.strip()})
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text

    return {"step_tag": "<extra_0>", "prompt": prompt, "add_special_tokens": False}
