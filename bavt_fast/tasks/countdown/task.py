"""Countdown and the Game of 24: combine all the numbers with + - * / into the target.

A state is the numbers that are left. A step takes two of them and writes what is left in ascending order:

    Target: 24 (left: 4 5 6 10)
    10 + 4 = 14 (left: 5 6 14)

Every number on the way is an integer from 0 to 999, so that division is exact and differences are not negative. A few
Games of 24 need a fraction, such as 1 5 5 5: they are solved with ``Countdown(fractions=True)``, where a step may leave
one, in lowest terms:

    1 / 5 = 1/5 (left: 1/5 5 5)
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from bavt_fast._checks import as_count, as_flag
from bavt_fast._core import countdown_apply, countdown_describe
from bavt_fast.protocols import Description, Step

__all__ = ["Countdown", "CountdownState", "check_expression"]

MAX_VALUE = 999
MIN_NUMBERS, MAX_NUMBERS = 2, 6
OPERATORS = "+-*/"

Number = int | Fraction
"""A whole one is an int."""


def _step_of(number: str) -> re.Pattern[str]:
    """What a step looks like, of what a number looks like."""
    chosen, left = rf"({number}) ([-+*/]) ({number}) = ({number})", rf"({number}(?: {number})*)"
    return re.compile(rf"\s*{chosen} \(left: {left}\)\s*", re.ASCII)


_STEP = _step_of(r"\d{1,3}")
_STEP_IN_FRACTIONS = _step_of(r"\d{1,3}(?:/\d{1,3})?")
_QUESTION = re.compile(r"\s*(\d+(?:[\s,]+\d+)*)\s*(?:(?:->|=)\s*(\d+)\s*)?")


class CountdownState(NamedTuple):
    """The numbers left, ascending, the expression that made each of them, and the target."""

    numbers: tuple[Number, ...]
    target: int
    expressions: tuple[str, ...]


class Countdown:
    """The task of the embedded model.

    Args:
        target: what the numbers must make unless a question says otherwise (``"3 7 25 50 -> 68"``); 0 to 999.
        fractions: whether a number on the way may be a fraction, with a numerator and a denominator up to 999. The
            embedded model has no words for fractions: it never writes one.
    """

    def __init__(self, target: int = 24, fractions: bool = False) -> None:
        self.target = _checked("target", target)
        self.fractions = as_flag("fractions", fractions)

    def initial_state(self, question: str) -> CountdownState:
        """Parses ``"4 5 6 10"`` or ``"4 5 6 10 -> 24"``: 2 to 6 integers from 1 to 999."""
        if not isinstance(question, str):
            raise TypeError(f"question: expected a str such as '4 5 6 10', got {type(question).__name__}")
        match = _QUESTION.fullmatch(question)
        if match is None or not question.isascii():
            raise ValueError(f"question: expected integers, as in '4 5 6 10' or '4 5 6 10 -> 24', got {question!r:.80}")
        numbers = sorted([int(word[:9]) for word in match[1].replace(",", " ").split()])
        _checked("question", numbers[0], low=1)
        _checked("question", numbers[-1])
        if not MIN_NUMBERS <= len(numbers) <= MAX_NUMBERS:
            raise ValueError(f"question: expected {MIN_NUMBERS} to {MAX_NUMBERS} numbers, got {len(numbers)}")
        target = self.target if match[2] is None else _checked("target", int(match[2][:9]))
        return CountdownState(tuple(numbers), target, tuple(map(str, numbers)))

    def apply(self, state: CountdownState, step: Step) -> CountdownState | None:
        after = NotImplemented if self.fractions else countdown_apply(CountdownState, state, step.text)
        return apply_step(state, step.text, self.fractions) if after is NotImplemented else after

    def key(self, state: CountdownState) -> tuple[Number, ...]:
        return state.numbers

    def describe(self, state: CountdownState) -> Description:
        """The prompt shows the target and what is left, not the steps before: a step depends on nothing else.

        A number left alone is verified against the target; the answer is its expression, such as
        ``(10 - 6) * (5 + 1)``. One token per number, operator and bracket: a step that leaves m numbers is 7 + m words.
        """
        about = countdown_describe(CountdownState, state, Description)
        return describe_state(state) if about is NotImplemented else about

    def check_answer(self, question: str, answer: str | None) -> bool:
        """Whether `answer` is an expression that solves `question`. Independent of the search: see `check_expression`.

        Raises:
            TypeError, ValueError: a bad question, as `initial_state`.
        """
        state = self.initial_state(question)
        return check_expression(answer, state.numbers, state.target)


# ---- What a step and a state mean. `bavt_fast._core` does the same for states over integers, in a tenth of the time.


def apply_step(state: CountdownState, text: str, fractions: bool) -> CountdownState | None:
    """The state after a step; None for a step that is not legal."""
    match = (_STEP_IN_FRACTIONS if fractions else _STEP).fullmatch(text)
    if match is None:
        return None
    read = _read_fraction if fractions else int
    a, b, result = read(match[1]), read(match[3]), read(match[4])
    if a is None or b is None or result is None:
        return None
    numbers, expressions = list(state.numbers), list(state.expressions)
    taken = []
    for number in (a, b):
        if number not in numbers:
            return None
        at = numbers.index(number)
        del numbers[at]
        taken.append(expressions.pop(at))
    if not _equals(a, match[2], b, result):
        return None
    left = [*zip(numbers, expressions, strict=True), (result, f"({taken[0]} {match[2]} {taken[1]})")]
    left.sort()
    if [number for number, _ in left] != [read(word) for word in match[5].split()]:
        return None
    return CountdownState(tuple([number for number, _ in left]), state.target, tuple([text for _, text in left]))


def describe_state(state: CountdownState) -> Description:
    """See `Countdown.describe`."""
    numbers = state.numbers
    prompt = f"Target: {state.target} (left: {' '.join(map(str, numbers))})\n"
    if len(numbers) == 1:
        expression = state.expressions[0]
        answer = expression[1:-1] if expression.startswith("(") else expression
        return Description(True, numbers[0] == state.target, answer, prompt)
    return Description(False, None, None, prompt, _LEAST_TOKENS[len(numbers)])


_LEAST_TOKENS = [sum(7 + left for left in range(1, count)) for count in range(MAX_NUMBERS + 1)]


def check_expression(expression: str | None, numbers: Sequence[Number], target: int) -> bool:
    """Whether an arithmetic expression uses each number exactly once and equals the target, in exact arithmetic.

    Independent of the search: it parses the expression anew. False for anything that is not + - * / over integers.
    """
    if not isinstance(expression, str):  # a search that found no answer has None
        return False
    used: list[int] = []
    try:
        value = _evaluate(ast.parse(expression.strip(), mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return value == target and Counter(used) == Counter(numbers)


def _checked(name: str, value: object, low: int = 0) -> int:
    return as_count(name, value, minimum=low, maximum=MAX_VALUE)


def _read_fraction(word: str) -> Number | None:
    """A number as a step writes it; None for a fraction that is not in lowest terms."""
    above, _, below = word.partition("/")
    if not below:
        return int(above)
    if int(below) < 2 or math.gcd(int(above), int(below)) != 1:
        return None
    return Fraction(int(above), int(below))


def _equals(a: Number, operator: str, b: Number, result: Number) -> bool:
    if operator == "+":
        return a + b == result
    if operator == "-":
        return a - b == result
    if operator == "*":
        return a * b == result
    return b > 0 and a == b * result


def _evaluate(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, used), _evaluate(node.right, used)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError(f"expression: expected + - * / over integers, got {ast.dump(node):.80}")
