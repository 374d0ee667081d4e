"""A critic that asks a language model how good a state is, or how much its last step helped.

The paper (arXiv 2603.12634) lets the model that writes the steps judge them, and has it rate the *change* that a step
brought, since models that rate whole states are overconfident. Both ways are here: ``predicts="value"`` and
``predicts="residual"``.

The prompt is the context and then the question about it, so the prompt of a child begins with the whole context of its
parent: a generator that keeps prefixes computes the last step and the question alone.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from string import Formatter
from typing import Any, Literal

from bavt_fast._checks import as_amount, as_count, as_number, as_share
from bavt_fast.budget import Spent, as_spent, priced
from bavt_fast.critics.ratings import read_rating
from bavt_fast.protocols import GenerationError, Node, Sampling, Scores, Step, StepRequest
from bavt_fast.request_checks import check_nodes

__all__ = ["AsyncPromptedCritic", "PromptedCritic"]

VALUE_TEMPLATE = """{text}
Rate this solution. Reply with only one of these numbers:
{low} if it is wrong
{middle} if it is unclear
{high} if it is right
"""
RESIDUAL_TEMPLATE = """{text}
The last step was: {step}
Rate this step. Reply with only one of these numbers:
{low} if it is wrong
{middle} if it does not help
{high} if it is right and helps
"""
_FIELDS = frozenset(("text", "question", "steps", "step", "low", "middle", "high"))
_GREEDY = Sampling(temperature=0.0)


class PromptedCritic:
    """Asks a generator's model for a rating of each state, greedily, and reads the number in its reply.

    What is a number is said in `bavt_fast.critics.ratings`. With ``predicts="value"`` the scale becomes [0, 1], with
    "residual" [-reach, reach]. The model's tokens are charged to the question's budget.

    Args:
        generator: a `StepGenerator`, such as the one that proposes the steps. Its own prompt encoder makes the prompt
            a user's turn where the model is a chat model.
        template: the prompt, by `str.format`: ``{text}`` is the whole context with a line break at its end,
            ``{question}`` the prompt that it begins with, ``{steps}`` what follows, ``{step}`` the last step without
            white space around it, ``{low}``, ``{middle}`` and ``{high}`` the scale. None for one that small
            instruction-tuned models answer with a number.
        opening: what the reply begins with, put into the model's mouth: small models then go on with a number and not
            with the solution. "" for nothing.
        scale: the lowest and the highest number; they and the one between are of at most 9 digits on either side of the
            point, as ratings are read.
        predicts: "value" for how good the state is, "residual" for how much its last step helped.
        reach: the residual of the highest number, in (0, 1]; that of the lowest is its negative.
        default: the score where no number can be read, on the side of what the critic predicts: in [0, 1], or the
            residual. None for 0.5, or 0.
        max_tokens: of a reply.
        max_prompt_tokens: the most that the model may read for one reply, where a budget limits or prices it.
        token_cost, prompt_token_cost: prices, for a budget's ``cost``, where the generator names none.

    Attributes:
        max_score: the most that one node takes, reserved with its step.
        asked: replies so far, and those that failed.
        unread: replies in which no number could be read, and those that stayed empty (a prompt beyond the context).

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """

    def __init__(
        self,
        generator: Any,
        *,
        template: str | None = None,
        opening: str = "Rating:",
        scale: tuple[float, float] = (0, 10),
        predicts: Literal["value", "residual"] = "value",
        reach: float = 0.25,
        default: float | None = None,
        max_tokens: int = 8,
        max_prompt_tokens: int = 0,
        token_cost: float = 0.0,
        prompt_token_cost: float = 0.0,
    ) -> None:
        if predicts not in ("value", "residual"):
            raise ValueError(f"predicts: expected 'value' or 'residual', got {predicts!r}")
        self.generator = self._checked_generator(generator)
        self.predicts: Literal["value", "residual"] = predicts
        self.low, self.high = _checked_scale(scale)
        self.reach = as_share("reach", reach)
        self.default = self._checked_default(default)
        self.template = _checked_template(
            template if template is not None else VALUE_TEMPLATE if predicts == "value" else RESIDUAL_TEMPLATE
        )
        if not isinstance(opening, str):
            raise TypeError(f"opening: expected a str, got {opening!r:.80}")
        self.opening = opening
        self.max_tokens = as_count("max_tokens", max_tokens, minimum=1)
        self._prices = tuple(
            Decimal(repr(as_amount(name, price, allow_zero=True)))
            for name, price in (("token_cost", token_cost), ("prompt_token_cost", prompt_token_cost))
        )
        most_read = as_count("max_prompt_tokens", max_prompt_tokens)
        self.max_score = Spent(self.max_tokens, cost=self._price(self.max_tokens, most_read), prompt_tokens=most_read)
        self._sampling = _GREEDY._replace(max_prompt_tokens=most_read or None)
        self.asked = self.unread = 0

    def score(self, candidates: Sequence[Node]) -> Scores:
        """One call of the generator for all candidates; a failed reply is an exception in its place."""
        check_nodes("candidates", candidates)
        if not candidates:
            return Scores([], [])
        return self._scores(candidates, self.generator.propose(*self._columns(candidates)))

    def prompt(self, node: Node) -> str:
        """What the model is asked about a node."""
        question, steps = node.context()
        written = "".join([step.text for step in steps])
        text = question + written
        return self.template.format(
            text=text if text.endswith("\n") else text + "\n",
            question=question,
            steps=written,
            step="" if node.step is None else node.step.text.strip(),
            low=_said(self.low),
            middle=_said(_middle(self.low, self.high)),
            high=_said(self.high),
        )

    def _columns(self, candidates: Sequence[Node]) -> tuple[list[StepRequest], list[int], list[int]]:
        requests = [StepRequest(self._asked(node), sampling=self._sampling) for node in candidates]
        return requests, [1] * len(requests), [self.max_tokens] * len(requests)

    def _asked(self, node: Node) -> Node:
        """A context of its own: the prompt, and the opening as a step behind it, which a chat model has written."""
        asked = Node(None, self.prompt(node))
        return Node(None, None, asked, Step(self.opening, 1)) if self.opening else asked

    def _scores(self, candidates: Sequence[Node], replies: Any) -> Scores:
        is_whole = isinstance(replies, Sequence) and not isinstance(replies, (str, bytes))
        if not is_whole or len(replies) != len(candidates):
            got = len(replies) if is_whole else f"{replies!r:.80}"
            raise ValueError(f"generator: expected {len(candidates)} lists of steps, one per state, got {got}")
        rows = [self._read(reply) for reply in replies]
        self.asked += len(rows)
        return Scores([score for score, _ in rows], [spent for _, spent in rows])

    def _read(self, reply: Any) -> tuple[float | Exception, Spent]:
        """The score in a reply, and what it took."""
        if isinstance(reply, Exception):
            return self._failed(reply)
        if not isinstance(reply, Sequence) or not all(isinstance(step, Step) for step in reply):
            return TypeError(f"generator: expected a list of Step for each state, got {reply!r:.80}"), Spent()
        try:
            spent = sum(map(self._spent, reply), Spent())
        except (TypeError, ValueError) as error:
            return error, Spent()
        number = None
        if reply:
            number = read_rating(reply[0].text, self.low, self.high, cut=reply[0].is_cut)
        if number is None:
            self.unread += 1
            return self.default, spent
        share = (number - self.low) / (self.high - self.low)
        return share if self.predicts == "value" else (2.0 * share - 1.0) * self.reach, spent

    def _failed(self, error: Exception) -> tuple[Exception, Spent]:
        """Why there is no reply, and what it took all the same."""
        said = error.spent if isinstance(error, GenerationError) else None
        try:
            spent = Spent() if said is None else as_spent("GenerationError.spent", said)
        except TypeError as wrong:
            wrong.__cause__ = error
            return wrong, Spent()
        return error, replace(spent, cost=spent.cost or self._price(spent.tokens, spent.prompt_tokens))

    def _spent(self, step: Step) -> Spent:
        if not isinstance(step.text, str):
            raise TypeError(f"generator: expected a str as Step.text, got {type(step.text).__name__}")
        tokens = as_count("Step.tokens", step.tokens, minimum=1)
        read = as_count("Step.prompt_tokens", step.prompt_tokens)
        cost = self._price(tokens, read) if step.cost is None else step.cost
        return Spent(tokens, step.tool_calls or 0, step.seconds, cost, read)

    def _price(self, tokens: int, prompt_tokens: int) -> float:
        return float(priced((tokens, self._prices[0]), (prompt_tokens, self._prices[1])))

    def _checked_default(self, default: float | None) -> float:
        low, high, middle = (0.0, 1.0, 0.5) if self.predicts == "value" else (-1.0, 1.0, 0.0)
        if default is None:
            return middle
        checked = as_number("default", default)
        if not low <= checked <= high:
            raise ValueError(f"default: expected a {self.predicts} from {low:g} to {high:g}, got {default!r}")
        return checked

    def _checked_generator(self, generator: Any) -> Any:
        propose = _propose_of(generator)
        if not callable(propose):
            raise TypeError(
                f"generator: expected an object with propose(states, counts, limits), got {type(generator).__name__}"
            )
        if inspect.iscoroutinefunction(propose):
            raise TypeError("generator: expected a plain propose, got a coroutine; use AsyncPromptedCritic")
        return generator


class AsyncPromptedCritic(PromptedCritic):
    """`PromptedCritic` over a generator whose ``propose`` is a coroutine; arguments as there.

    It is called for each node by itself, for all at once.
    """

    async def score(self, candidates: Sequence[Node]) -> Scores:  # type: ignore[override]
        """As `PromptedCritic.score`; here a call that raises fails its own node alone."""
        check_nodes("candidates", candidates)
        calls = [self.generator.propose(*self._columns([node])) for node in candidates]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        return self._scores(candidates, [_only(answer) for answer in answers])

    def _checked_generator(self, generator: Any) -> Any:
        if not inspect.iscoroutinefunction(_propose_of(generator)):
            raise TypeError(
                f"generator: expected a propose that is a coroutine, got {type(generator).__name__}; use PromptedCritic"
            )
        return generator


def _propose_of(generator: Any) -> Any:
    """A generator's method, or None. Raises TypeError for a class, which was not called."""
    if inspect.isclass(generator):
        name = generator.__name__
        raise TypeError(f"generator: expected an object, got the class {name}; make one: {name}(...)")
    return getattr(generator, "propose", None)


def _only(answer: Any) -> Any:
    """The reply in an answer to one request."""
    if isinstance(answer, BaseException):
        if not isinstance(answer, Exception):
            raise answer
        return answer
    if isinstance(answer, Sequence) and len(answer) == 1:
        return answer[0]
    return ValueError(f"generator: expected 1 list of steps, one per state, got {answer!r:.80}")


def _checked_scale(scale: Any) -> tuple[float, float]:
    if not isinstance(scale, (tuple, list)) or len(scale) != 2:
        raise TypeError(f"scale: expected a pair of numbers such as (0, 10), got {scale!r:.80}")
    low, high = as_number("scale", scale[0]), as_number("scale", scale[1])
    as_number("scale", high - low)
    if not low < high:
        raise ValueError(f"scale: expected the lower number first, got {scale!r:.80}")
    for number in (low, _middle(low, high), high):
        if read_rating(_said(number), low, high) is None:
            raise ValueError(
                "scale: expected numbers that can be read in a reply, of at most 9 digits on either side of the point, "
                f"got {scale!r:.80}, with {_said(number)}"
            )
    return low, high


def _middle(low: float, high: float) -> float:
    return low / 2 + high / 2


def _said(number: float) -> str:
    """A number of the scale as the prompt says it."""
    return f"{number:.15g}"


def _checked_template(template: Any) -> str:
    if not isinstance(template, str):
        raise TypeError(f"template: expected a str, got {template!r:.80}")
    try:
        parsed = [(name, spec, how) for _, name, spec, how in Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"template: {error}; write {{{{ and }}}} for braces") from error
    marks = {None: "", "r": "", "s": "", "a": ""}  # of conversions, those that there are
    fields = {name + marks.get(how, f"!{how}") + (f":{spec}" if spec else "") for name, spec, how in parsed}
    unknown = fields - _FIELDS
    if unknown:
        raise ValueError(f"template: expected fields among {sorted(_FIELDS)}, got {sorted(unknown)}")
    if not fields & {"text", "steps", "step"}:
        raise ValueError("template: expected one with {text}, or {question} and {steps}, got none of them")
    return template
