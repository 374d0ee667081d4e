"""The process behind `bavt_fast.tasks.algebra`: a request a line in, its reply a line out.

    [limit_s, reference, answer]    whether they are equal
    [limit_s, formula]              its values at two points, as [real, imaginary]; [] where it has none; false where it
                                    cannot be read

Where it takes longer than the limit, the process ends.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
import zlib
from dataclasses import replace
from functools import lru_cache
from typing import Any

__all__ = ["main"]

LONGEST_S = 1e9
"""Timers count no further than some ten times as long."""


def main() -> None:
    """Answers requests until its input ends, or a comparison takes it over a limit."""
    memory_bytes = int(sys.argv[1])
    requests, replies = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no reply
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the kernel ends the process, whatever it is at
    try:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        most = memory_bytes if most == resource.RLIM_INFINITY else min(most, memory_bytes)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        answers = _answers()
        answers(r"\frac{x}{2}", "0.5x")  # the first one is slow
    except Exception as error:
        _reply(replies, f"{type(error).__name__}: {error}".replace("\n", " "))
        return
    _reply(replies, "ready")
    for request in requests:
        limit_s, *formulas = json.loads(request)
        signal.setitimer(signal.ITIMER_PROF, min(limit_s, LONGEST_S))
        try:
            answer = answers(*formulas)
        except MemoryError:  # what else failed on the way is not known
            return
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _reply(replies, json.dumps(answer))


def _reply(replies: Any, text: str) -> None:
    replies.write(text + "\n")
    replies.flush()


def _answers() -> Any:
    """(reference, answer) -> whether they are equal; (formula) -> its values."""
    logging.disable()
    from math_verify import LatexExtractionConfig, parse, verify

    # It would take letters behind a formula for units: 5c and x + 5d for 5 and x + 5.
    own = LatexExtractionConfig()
    settings = [replace(own, normalization_config=replace(own.normalization_config, units=False))]

    @lru_cache(maxsize=4096)  # to read one takes longer than to compare it
    def formulas(text: str) -> Any:
        return parse(f"${text}$", settings, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)

    def answers(formula: str, other: str | None = None) -> Any:
        try:
            if other is None:
                return _values(formulas(formula))
            gold, target = formulas(formula), formulas(other)
            return bool(gold and target) and verify(
                gold, target, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
            )
        except MemoryError:
            raise
        except Exception:  # the libraries below raise what they like of text that is no formula
            return False

    return answers


def _values(parsed: Any) -> Any:
    """A formula's values at two points, where it is a number or a function of real variables; else [].

    Equal formulas have equal values. A percentage has none here, for it is equal to several numbers; nor has a single
    letter, which may be a text.
    """
    import sympy  # type: ignore[import-untyped]
    from sympy.core.function import AppliedUndef  # type: ignore[import-untyped]

    if not parsed:
        return False
    formula = parsed[0]
    hard = (sympy.UnevaluatedExpr, sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, AppliedUndef)
    is_function = isinstance(formula, sympy.Expr) and not isinstance(formula, sympy.MatrixExpr)
    if len(parsed) > 1 or not is_function or formula.is_Symbol or formula.has(*hard):
        return []
    values = []
    for point in (b"first ", b"second "):
        where = {x: sympy.Rational(1 + zlib.crc32(point + x.name.encode()) % 997, 499) for x in formula.free_symbols}
        try:
            value = complex(formula.evalf(15, subs=where))
        except MemoryError:
            raise
        except Exception:  # as above
            return []
        values.append([value.real, value.imag])
    return values
