"""How to search: the settings that are the same for every question."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import ROUND_CEILING
from functools import cached_property
from typing import Any

from bavt_fast._checks import as_amount, as_count, as_flag, as_number, as_share
from bavt_fast._core import SearchOptions
from bavt_fast.budget import Budget, Spent, cost_units
from bavt_fast.protocols import Sampling

__all__ = ["MAX_PRICE", "Settings", "settings_of"]

MAX_PRICE = 9.2
"""The largest price of a token: 64 bits of 1e-18."""
_LARGEST = 2**63 - 2


@dataclass(frozen=True)
class Settings:
    """How to search, the same for every question.

    Args:
        policy: "power" (P(node) ∝ weight^(1/r), r the share of the budget left) or "best_first", which choose among
            all nodes; "uct", "puct" or "ucb", which walk down from the root and widen where a node has fewer than
            ``widening_scale * visits ** widening_exponent`` children.
        exploration: c of the policies that walk down. From a node with N visits and k children they go to the child
            with the highest score, by its visits n and its mean value Q: "uct" Q + c sqrt(ln N / n), "puct"
            Q + c sqrt(N) / (k (1 + n)), "ucb" the rule of `BudgetAwareUCB` with r of 1 remaining.
        candidates: steps proposed per ask. A node stays expandable, so 1 lets going deeper and trying a sibling compete
            for each token. Those of one ask do not know of each other and may be equal, surely so at temperature 0:
            their tokens are spent all the same.
        decay: a node's weight is multiplied by this with every try, in (0, 1].
        discount: the weight is V times this for every token that an answer still takes at the least
            (`Description.min_tokens`), in (0, 1]: below 1, of two states equally likely to lead to an answer the one
            nearer to it goes first.
        tried_exponent: the weight is multiplied by (1 - p) to this power too, p the probability of all steps tried from
            the node so far (`Step.log_probability`), >= 0. Above 0 a node whose likely steps were tried goes behind one
            that still has them before it; where no generator says how probable its steps are, it changes nothing.
        patience: asks of one node in a row that bring nothing new, after which it is closed.
        root_value: V of the question itself, in (0, 1]; for a critic that predicts residuals take 0.5, for above 1
            nothing can grow.
        max_step_tokens: tokens after which a step is cut short, paid for and dropped.
        max_nodes: limit on the tree's nodes; 2**24 for None.
        token_cost, prompt_token_cost: prices of a generated token and of one that is read, for a budget's ``cost``; 9.2
            at most.
        cached_token_cost: price of one that is read out of a cache (`Step.cached_tokens`), at most that of any other;
            None for the same.
        step_tool_calls: tool calls of a step: the most that it may make, and what it is charged if it does not say.
        max_step_cost: the most that a step may cost beside its tokens.
        max_prompt_tokens: the most tokens that the model may read for one step, where that is limited or priced. A
            server reads the context again for each request that a step takes (`docs/servers.md`).
        max_score: the most that the critic may take for one node.
        temperature, top_p, top_k, min_p: how to sample; None leaves it to the generator.
        record: keep the order of events too (`Search.events`), for a replay in a view and for `view.Live`.
    """

    policy: str = "power"
    exploration: float = 1.0
    candidates: int = 1
    decay: float = 0.85
    discount: float = 1.0
    tried_exponent: float = 0.0
    patience: int = 10
    root_value: float = 1.0
    max_step_tokens: int = 64
    max_nodes: int | None = None
    token_cost: float = 0.0
    prompt_token_cost: float = 0.0
    cached_token_cost: float | None = None
    step_tool_calls: int = 0
    max_step_cost: float = 0.0
    max_prompt_tokens: int = 0
    max_score: Spent = Spent()  # noqa: RUF009 (immutable)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    widening_scale: float = 1.0
    widening_exponent: float = 0.5
    record: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("candidates", "patience", "max_step_tokens"):
            count = as_count(name, getattr(self, name), minimum=1)
            put(self, name, as_count(name, count, minimum=1, maximum=_LARGEST))
        for name in ("step_tool_calls", "max_prompt_tokens"):
            put(self, name, as_count(name, getattr(self, name)))
        for name in ("token_cost", "prompt_token_cost", "max_step_cost"):
            put(self, name, as_amount(name, getattr(self, name), allow_zero=True))
        for name in ("token_cost", "prompt_token_cost"):
            if (price := getattr(self, name)) > MAX_PRICE:
                raise ValueError(
                    f"{name}: expected a number from 0 to {MAX_PRICE}, got {price}; count in another currency"
                )
        if self.cached_token_cost is not None:
            cached = as_amount("cached_token_cost", self.cached_token_cost, allow_zero=True)
            if cached > self.prompt_token_cost:
                raise ValueError(f"cached_token_cost: expected at most {self.prompt_token_cost}, got {cached}")
            put(self, "cached_token_cost", cached)
        for name in ("decay", "discount", "root_value"):
            put(self, name, as_share(name, getattr(self, name)))
        if not isinstance(self.max_score, Spent):
            raise TypeError(f"max_score: expected a Spent, got {self.max_score!r:.80}")
        put(self, "tried_exponent", as_amount("tried_exponent", self.tried_exponent, allow_zero=True))
        put(self, "widening_scale", as_amount("widening_scale", self.widening_scale))
        put(self, "widening_exponent", as_amount("widening_exponent", self.widening_exponent, allow_zero=True))
        if self.widening_exponent > 1.0:
            raise ValueError(f"widening_exponent: expected a number from 0 to 1, got {self.widening_exponent}")
        if self.max_nodes is not None:
            put(self, "max_nodes", as_count("max_nodes", self.max_nodes, minimum=1))
        put(self, "record", as_flag("record", self.record))
        put(self, "exploration", as_number("exploration", self.exploration))
        self._check_sampling()
        _ = self.native  # a bad policy is refused here and not in the middle of a search

    def _check_sampling(self) -> None:
        put = object.__setattr__
        if self.temperature is not None:
            put(self, "temperature", as_amount("temperature", self.temperature, allow_zero=True))
        if self.top_p is not None:
            put(self, "top_p", as_share("top_p", self.top_p))
        if self.top_k is not None:
            put(self, "top_k", as_count("top_k", self.top_k, minimum=1))
        if self.min_p is not None:
            put(self, "min_p", as_share("min_p", self.min_p))

    @cached_property
    def native(self) -> SearchOptions:
        """The same for the native engine."""
        return SearchOptions(
            policy=self.policy,
            exploration=self.exploration,
            decay=self.decay,
            discount=self.discount,
            tried_exponent=self.tried_exponent,
            widening_scale=self.widening_scale,
            widening_exponent=self.widening_exponent,
            candidates=self.candidates,
            patience=self.patience,
            max_nodes=self.max_nodes,
            max_step_tokens=self.max_step_tokens,
            max_step_prompt_tokens=self.max_prompt_tokens,
            step_tool_calls=self.step_tool_calls,
            max_step_cost=cost_units(self.max_step_cost),
            token_price=cost_units(self.token_cost, ROUND_CEILING, 18),
            prompt_token_price=cost_units(self.prompt_token_cost, ROUND_CEILING, 18),
            max_score=self.max_score.amounts(),
        )

    @cached_property
    def sampling(self) -> Sampling:
        """What requests carry."""
        return Sampling(self.temperature, self.top_p, self.top_k, self.min_p, self.max_prompt_tokens or None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("native", "sampling")}

    def check_budget(self, budget: Budget, name: str = "budget") -> None:
        """Refuses a limit that nothing is ever charged to: it would be no limit at all. `name` says in errors whose."""
        if not isinstance(budget, Budget):
            raise TypeError(f"{name}: expected a Budget such as Budget(tokens=500), got {budget!r:.80}")
        priced = self.token_cost or self.prompt_token_cost or self.max_step_cost or self.max_score.cost
        if budget.cost is not None and not priced:
            raise ValueError(f"{name}: cost is limited but nothing has a price; give a token_cost or max_step_cost > 0")
        if budget.cost is not None and self.prompt_token_cost and not self.max_prompt_tokens:
            raise ValueError(f"{name}: prompt tokens have a price but are not reserved; give max_prompt_tokens >= 1")
        if budget.tool_calls is not None and not (self.step_tool_calls or self.max_score.tool_calls):
            raise ValueError(f"{name}: tool_calls is limited but steps make none; give step_tool_calls >= 1")
        if budget.prompt_tokens is not None and not self.max_prompt_tokens:
            raise ValueError(f"{name}: prompt_tokens is limited but not reserved; give max_prompt_tokens >= 1")


def settings_of(given: dict[str, Any]) -> Settings:
    """Settings of fields by their names. Raises TypeError where there is no field of a name, and as `Settings`."""
    unknown = given.keys() - {field.name for field in fields(Settings)}
    if unknown:
        name = min(unknown)
        raise TypeError(f"{name}: expected no argument of this name, got {given[name]!r:.80}; see Settings")
    return Settings(**given)
