"""The process behind `bavt_fast.tasks.algebra`: ``[reference, answer, limit_s]`` a line in, a verdict a line out."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import Any

__all__ = ["main"]


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
        compare = _comparison()
        compare(r"\frac{x}{2}", "0.5x")  # the first one is slow
    except Exception as error:
        _reply(replies, f"{type(error).__name__}: {error}".replace("\n", " "))
        return
    _reply(replies, "ready")
    for request in requests:
        reference, answer, limit_s = json.loads(request)
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        try:
            verdict = compare(reference, answer)
        except MemoryError:  # what else failed on the way is not known
            return
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        _reply(replies, json.dumps(verdict))


def _reply(replies: Any, text: str) -> None:
    replies.write(text + "\n")
    replies.flush()


def _comparison() -> Any:
    """(reference, answer) -> whether they are equal."""
    logging.disable()
    from math_verify import LatexExtractionConfig, parse, verify

    settings = [LatexExtractionConfig()]

    def formulas(text: str) -> Any:
        return parse(f"${text}$", settings, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)

    def compare(reference: str, answer: str) -> bool:
        try:
            gold, target = formulas(reference), formulas(answer)
            return bool(gold and target) and verify(
                gold, target, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
            )
        except MemoryError:
            raise
        except Exception:  # the libraries below raise what they like of text that is no formula
            return False

    return compare
