"""Whether two formulas are equal, by math-verify, in a process of its own.

A comparison can run for ever or want all memory: 10^10^10 is a short answer. It may do so inside of code in C that no
signal handler breaks into, and math-verify's own time limits are signals, which work in the main thread alone. So a
child process compares, one for all threads, and the kernel ends it where a comparison exceeds its limits; the next one
starts another. It takes about a second to start, and a millisecond or more for a comparison.
"""

from __future__ import annotations

import atexit
import cmath
import functools
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from typing import Any

__all__ = ["require", "same_formula"]

MEMORY_BYTES = 2 * 2**30
"""Address space of the process that compares."""

NOTHING = 1e-7
"""Values below it may be what rounding left of zero."""

_log = logging.getLogger(__name__)


def require() -> None:
    """Raises a ModuleNotFoundError that says what to install where math-verify is not there."""
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError(
            "Mathematics: needs math-verify; install it with: pip install 'bavt_fast[mathematics]'", name="math_verify"
        )


def same_formula(reference: str, answer: str, limit_s: float) -> bool:
    """Whether two formulas in LaTeX are equal; what cannot be read, or takes longer, is not. From any thread.

    Formulas whose values differ are not compared any further, so that many can be told apart without asking of each
    pair.

    Args:
        reference: what `answer` is compared with. math-verify takes ``5`` for ``x = 5``, and the other way round.
        limit_s: seconds of processor time, so that a busy machine gives the same verdict.

    Raises:
        RuntimeError: the process does not start.
    """
    values, others = _values(reference, limit_s), _values(answer, limit_s)
    if values is None or others is None or any(map(_differ, values, others)):
        return False
    return _compared(reference, answer, limit_s)


@functools.lru_cache(maxsize=65536)
def _compared(reference: str, answer: str, limit_s: float) -> bool:
    verdict = _process.ask(limit_s, reference, answer)
    if verdict is None:
        _log.info("no verdict within %s s or %s bytes: %r and %r", limit_s, MEMORY_BYTES, reference, answer)
    return verdict is True


@functools.lru_cache(maxsize=65536)
def _values(formula: str, limit_s: float) -> tuple[complex, ...] | None:
    """A formula's values at some points, () where it has none; None where it cannot be read, or takes too long."""
    values = _process.ask(limit_s, formula)
    if values is None:
        _log.info("no value within %s s or %s bytes: %r", limit_s, MEMORY_BYTES, formula)
    return tuple(complex(*value) for value in values) if isinstance(values, list) else None


def _differ(value: complex, other: complex) -> bool:
    """Whether values are further apart than rounding takes them.

    math-verify rounds decimals to six places, of which small numbers would leave nothing.
    """
    if not (cmath.isfinite(value) and cmath.isfinite(other)):
        return False
    return abs(value - other) > 1e-5 * max(NOTHING, abs(value), abs(other))


class _Process:
    """The child, started when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, limit_s: float, *formulas: str) -> Any:
        """The child's reply (`bavt_fast.tasks.algebra_worker`); None where it gave none."""
        request = json.dumps([limit_s, *formulas]).encode() + b"\n"
        with self._lock:
            child = self._running()
            assert child.stdin is not None, "it is a pipe"
            assert child.stdout is not None, "it is a pipe"
            reply = b""
            try:
                child.stdin.write(request)
                reply = child.stdout.readline()
            except BrokenPipeError:
                pass
            finally:  # also after Ctrl-C: its reply would be taken for the next one's
                if not reply.endswith(b"\n"):
                    self._end()
            return json.loads(reply) if reply else None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is not None:
            self._end()
        return self._child or self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        # As the parent finds its modules, and no module of a script's folder is taken for one of them.
        code = "import sys; sys.path[:] = sys.argv[2:]; from bavt_fast.tasks.algebra_worker import main; main()"
        child = self._child = subprocess.Popen(
            [sys.executable, "-c", code, str(MEMORY_BYTES), *[os.path.abspath(folder) for folder in sys.path]],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},  # sympy's order follows hashes
            start_new_session=True,  # Ctrl-C is for the parent
        )
        assert child.stdout is not None, "it is a pipe"
        ready = b""
        try:
            ready = child.stdout.readline().strip()
        finally:
            if ready != b"ready":
                self._end()
        if ready != b"ready":
            raise RuntimeError(
                f"Mathematics: expected a process that compares answers, got {ready.decode() or 'one that ended'}; "
                "check that `import math_verify` works in a new Python, and that it may have two gigabytes of memory"
            )
        return child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            with child:  # closes the pipes and waits
                pass

    def close(self) -> None:
        """Ends the child, if there is one."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a forked process: the child is its parent's, and so may be the lock."""
        self._lock = threading.Lock()
        child, self._child = self._child, None
        if child is not None:
            child.returncode = 0  # not ours to wait for
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()


_process = _Process()
atexit.register(_process.close)
os.register_at_fork(after_in_child=_process.forget)
