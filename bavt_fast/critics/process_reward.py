"""Process reward models as critics: V is what the model says of the steps on the path.

Three kinds are known, which differ in where and how a step is judged:

- **Token classification** (``AutoModelForTokenClassification``, as TRL's ``PRMTrainer`` makes them): labels at the last
  token of each step; its score is the probability of the good label.
- **A step token with a two-class head** (Qwen2.5-Math-PRM; Zhang et al. 2025, arXiv 2501.07301): ``<extra_0>`` follows
  each step, and its score is the positive class after a softmax. See `ProcessRewardCritic.qwen`.
- **A causal model that is asked at a step tag** (Math-Shepherd; Wang et al. 2024, arXiv 2312.08935): "ки" follows each
  step, and its score is the probability of "+" against "-" as the next token. See `ProcessRewardCritic.shepherd`.

How the scores of a path become one value, by `aggregate`: see `bavt_fast.critics.step_layout`. A model that somebody
serves: `bavt_fast.critics.served_reward`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from bavt_fast._checks import as_count
from bavt_fast.critics.step_layout import (
    AGGREGATES,
    QWEN_SYSTEM,
    Aggregate,
    Laid,
    StepLayout,
    checked_aggregate,
    max_length_of,
    qwen_layout,
)
from bavt_fast.model_places import first_position, input_device
from bavt_fast.protocols import Node

__all__ = ["ProcessRewardCritic"]


class ProcessRewardCritic:
    """Scores states with a process reward model, a wave in few forward passes. It costs the budget nothing but time.

    Args:
        model: with logits per token, ``(rows, length, labels)``, or ``(rows, length, vocabulary)`` with `score_tokens`.
            Its device and dtype are used as they are; it is put into eval mode.
        tokenizer: its tokenizer, a fast one.
        step_tag, between, prompt, add_special_tokens: how a path is written; see `StepLayout`. The defaults suit models
            that judge steps at the line break behind them.
        good_label: the label that means a good step, by number or by name (``config.label2id``); None for the second of
            two. A single label is a logit, whose sigmoid is the score.
        score_tokens: of a causal model, the tokens that mean good and bad, as texts of one token each or as ids.
        aggregate: "last", "min" or "product" of the steps' scores.
        max_batch: paths per forward pass.
        max_length: tokens of the longest path; None for what the model's configuration and its tokenizer say.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """

    predicts: Literal["value", "residual"] = "value"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        step_tag: str = "\n",
        between: str = "",
        prompt: Callable[[str], str] | None = None,
        add_special_tokens: bool = True,
        good_label: int | str | None = None,
        score_tokens: tuple[str | int, str | int] | None = None,
        aggregate: Aggregate = "last",
        max_batch: int = 16,
        max_length: int | None = None,
    ) -> None:
        self.aggregate = checked_aggregate(aggregate)
        self.layout = StepLayout(
            tokenizer, step_tag=step_tag, between=between, prompt=prompt, add_special_tokens=add_special_tokens
        )
        self.model = _checked_model(model).eval()
        self.max_batch = as_count("max_batch", max_batch, minimum=1)
        self.max_length = (
            max_length_of(model, tokenizer, first_position(model))
            if max_length is None
            else as_count("max_length", max_length, minimum=1)
        )
        self._score_ids = None if score_tokens is None else _score_ids(tokenizer, score_tokens)
        self._good_label = None if score_tokens is not None else _good_label(model, good_label)
        self._takes = inspect.signature(model.forward).parameters.keys()

    @classmethod
    def qwen(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        system: str | None = QWEN_SYSTEM,
        **options: Any,
    ) -> ProcessRewardCritic:
        """For models of the kind of Qwen2.5-Math-PRM: the question as a user's turn, the steps as the assistant's.

        Raises:
            ValueError: the tokenizer has no chat template, or no token ``<extra_0>``.
        """
        return cls(model, tokenizer, **{**qwen_layout(tokenizer, system), **options})

    @classmethod
    def shepherd(cls, model: Any, tokenizer: Any, **options: Any) -> ProcessRewardCritic:
        """For causal models of the kind of Math-Shepherd: "question step ки", line by line."""
        layout = {
            "step_tag": " ки",
            "between": "\n",
            "prompt": lambda question: question.strip() + " ",
            "score_tokens": ("+", "-"),
        }
        return cls(model, tokenizer, **{**layout, **options})

    def score(self, candidates: Sequence[Node]) -> list[float | Exception]:
        """A value per node. A path that is too long, cannot be encoded or gets NaN is an exception in its place."""
        aggregate = AGGREGATES[self.aggregate]
        return [
            steps if isinstance(steps, Exception) else aggregate(steps)
            for steps in self.step_scores(candidates, last=self.aggregate == "last")
        ]

    def step_scores(self, candidates: Sequence[Node], *, last: bool = False) -> list[list[float] | Exception]:
        """The scores of all steps on the way to each node, in order, or of the last one alone."""
        results: list[list[float] | Exception] = []
        rows: dict[int, Laid] = {}
        for i, laid in enumerate(self.layout.lay(candidates, self.max_length)):
            if isinstance(laid, Laid):
                rows[i] = Laid(laid.ids, laid.positions[-1:] if last else laid.positions)
            results.append(laid if isinstance(laid, Exception) else [])
        for i, scores in zip(rows, self._judge(list(rows.values())), strict=True):
            results[i] = scores if all(map(math.isfinite, scores)) else _not_finite(scores, candidates[i])
        return results

    @torch.inference_mode()
    def _judge(self, rows: list[Laid]) -> list[list[float]]:
        """The scores of each row's steps; rows of like length go together, and one copy brings all to the host."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        found = []
        for start in range(0, len(order), self.max_batch):
            found.append(self._probabilities([rows[i] for i in order[start : start + self.max_batch]]))
        flat = iter(torch.cat(found).tolist() if found else [])
        by_row = {i: [next(flat) for _ in rows[i].positions] for i in order}
        return [by_row[i] for i in range(len(rows))]

    def _probabilities(self, rows: list[Laid]) -> Tensor:
        """float32 (steps of all rows,): the probability that a step is good."""
        longest = max(len(row.ids) for row in rows)
        device = input_device(self.model)
        # Padding is masked, so any id does; the row's own last one is in the vocabulary for certain.
        ids = torch.tensor([row.ids + row.ids[-1:] * (longest - len(row.ids)) for row in rows], device=device)
        mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows], device=device)
        kept = list(range(longest))
        extra: dict[str, Any] = {"use_cache": False} if "use_cache" in self._takes else {}
        if self._score_ids is not None and "logits_to_keep" in self._takes:  # a vocabulary at every token is a lot
            kept = sorted({position for row in rows for position in row.positions})
            extra["logits_to_keep"] = torch.tensor(kept, device=device)
        output = self.model(input_ids=ids, attention_mask=mask, **extra)
        logits = output.logits if hasattr(output, "logits") else output[0]
        if logits.shape[:2] != (len(rows), len(kept)):
            raise ValueError(
                f"model: expected logits per token, ({len(rows)}, {len(kept)}, labels), got {tuple(logits.shape)}; "
                "load it with AutoModelForTokenClassification"
            )
        column = {position: at for at, position in enumerate(kept)}
        places = [(row, column[position]) for row, laid in enumerate(rows) for position in laid.positions]
        row_index, token_index = torch.tensor(places, device=logits.device).T
        return self._good(logits[row_index, token_index])

    def _good(self, logits: Tensor) -> Tensor:
        """(steps, labels or vocabulary) -> (steps,)."""
        if self._score_ids is not None:
            if max(self._score_ids) >= logits.shape[-1]:
                raise ValueError(
                    f"score_tokens: expected a causal model, got {type(self.model).__name__} with {logits.shape[-1]} "
                    "numbers per token; leave them out, and give good_label for a model with labels"
                )
            return logits[:, self._score_ids].float().softmax(-1)[:, 0]
        if logits.shape[-1] == 1:
            return logits[:, 0].float().sigmoid()
        labels = logits.shape[-1]
        if self._good_label is None and labels > 2:
            raise ValueError(
                f"model: expected logits of one or two labels, got {labels}; give good_label, or score_tokens for a "
                "causal model"
            )
        label = 1 if self._good_label is None else self._good_label
        if label >= labels:
            raise ValueError(f"good_label: expected one of the model's {labels} labels, got {label}")
        return logits.float().softmax(-1)[:, label]


def _checked_model(model: Any) -> Any:
    """Raises TypeError for what is no model, such as the name of one."""
    if inspect.isclass(model) or not all(callable(getattr(model, name, None)) for name in ("eval", "forward")):
        raise TypeError(
            f"model: expected a model with logits per token, got {model!r:.80}; load it with "
            "AutoModelForTokenClassification.from_pretrained(...)"
        )
    return model


def _score_ids(tokenizer: Any, tokens: Any) -> list[int]:
    """The ids of the tokens that mean good and bad."""
    if not isinstance(tokens, (tuple, list)) or len(tokens) != 2:
        raise TypeError(f"score_tokens: expected a pair such as ('+', '-'), got {tokens!r:.80}")
    ids: list[int] = []
    for token in tokens:
        found = tokenizer(token, add_special_tokens=False)["input_ids"] if isinstance(token, str) else [token]
        if len(found) != 1:
            raise ValueError(f"score_tokens: expected texts of one token each, got {found} for {token!r}; give ids")
        ids.append(as_count("score_tokens", found[0], maximum=len(tokenizer) - 1))
    if ids[0] == ids[1]:
        raise ValueError(f"score_tokens: expected two tokens, got {tokens!r:.80}, which are the same one")
    return ids


def _good_label(model: Any, label: int | str | None) -> int | None:
    if isinstance(label, str):
        names: dict[str, int] = getattr(getattr(model, "config", None), "label2id", None) or {}
        if label not in names:
            raise ValueError(f"good_label: expected one of {sorted(names)}, got {label!r}")
        return names[label]
    return None if label is None else as_count("good_label", label)


def _not_finite(scores: list[float], node: Node) -> Exception:
    bad = next(score for score in scores if not math.isfinite(score))
    return ValueError(
        f"critic: expected finite scores, got {bad} for {node.text[-60:]!r}; where the model runs in float16, take "
        "bfloat16 or float32"
    )
