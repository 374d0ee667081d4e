"""Countdown by its rules alone: brute force in exact fractions, the oracle of the tests."""

from __future__ import annotations

import itertools
from fractions import Fraction
from functools import cache

Numbers = tuple[int, ...]


def brute_force_steps(numbers: Numbers) -> set[tuple[int, str, int, int, Numbers]]:
    """Every legal step (a, operator, b, result, numbers left), from the rules and in exact fractions."""
    found = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = numbers[i], numbers[j]
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        results = {"+": Fraction(a + b), "-": Fraction(a - b), "*": Fraction(a * b)}
        if b != 0:
            results["/"] = Fraction(a, b)
        for operator, result in results.items():
            if result.denominator == 1 and 0 <= result <= 999:
                found.add((a, operator, b, int(result), tuple(sorted([*rest, int(result)]))))
    return found


def brute_force_steps_in_fractions(numbers: tuple[Fraction, ...]) -> set[tuple[Fraction, str, Fraction, Fraction]]:
    """Every legal step (a, operator, b, result) where numbers may be fractions."""
    found = set()
    for a, b in itertools.permutations(numbers, 2):
        results = {"+": a + b, "-": a - b, "*": a * b, **({"/": a / b} if b else {})}
        found |= {
            (a, operator, b, result)
            for operator, result in results.items()
            if result >= 0 and max(result.numerator, result.denominator) <= 999
        }
    return found


@cache
def brute_force_solvable_in_fractions(numbers: tuple[Fraction, ...], target: int) -> bool:
    """The numbers are in ascending order."""
    if len(numbers) == 1:
        return numbers[0] == target
    return any(
        brute_force_solvable_in_fractions(without(numbers, a, b, result), target)
        for a, _, b, result in brute_force_steps_in_fractions(numbers)
    )


def without(numbers: tuple[Fraction, ...], a: Fraction, b: Fraction, result: Fraction) -> tuple[Fraction, ...]:
    """What a step leaves, in ascending order."""
    left = list(numbers)
    left.remove(a)
    left.remove(b)
    return tuple(sorted([*left, result]))


@cache
def brute_force_solvable(numbers: Numbers, target: int) -> bool:
    if len(numbers) == 1:
        return numbers[0] == target
    return any(brute_force_solvable(left, target) for *_, left in brute_force_steps(numbers))


def text_of(a: int, operator: str, b: int, result: int, left: Numbers) -> str:
    return f"{a} {operator} {b} = {result} (left: {' '.join(map(str, left))})"
