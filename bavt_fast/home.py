"""Where a search lies: in an engine of its own, driven by hand, or in that of a run while the run has it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from bavt_fast._core import Engine, Question, untracked
from bavt_fast.budget import Budget
from bavt_fast.waves import Beside

__all__ = ["ALL", "Clock", "Housed"]

Clock = Callable[[], float]
ALL = 2**32 - 1  # asks in flight in one tree, where nobody limits them


class Housed(Beside):
    """The part of a `Search` that drivers move: its native question, and the clock that times it.

    Attributes:
        budget: the hard limits.
    """

    budget: Budget

    def _settle(self, native: Question, clock: Clock) -> None:
        self._native = native
        self._clock = self._own_clock = clock  # the one that it is timed by; a run has its own
        self._lock = untracked(threading.RLock())
        self._home: tuple[Engine, int] | None = None  # the engine it lies in, and its slot there
        self._driven = False  # whether that is a driver's

    def _at_home(self) -> tuple[Engine, int]:
        if self._home is None:
            engine = Engine(ALL)
            self._home = engine, engine.add(self._native)
        return self._home

    def _own_home(self) -> tuple[Engine, int]:
        if self._driven:
            raise ValueError(f"search: expected one that no run has, got {self!r}, whose run asks and tells")
        return self._at_home()

    def seconds_left(self) -> float | None:
        """Time to the deadline, by the last reading of the clock; None without one."""
        limit_s = self.budget.seconds
        return None if limit_s is None else max(0.0, limit_s - self._native.account.elapsed_s)

    def move_to(self, engine: Engine) -> int:
        """Puts the search into a driver's engine; its slot there.

        Raises:
            ValueError: a driver has it already, or it has admitted states that nobody would grow.
        """
        with self._lock:
            if self._driven:
                raise ValueError(f"searches: expected each search in one run and once, got {self!r} again")
            native = self._native
            if native.in_flight and native.stop_reason is None and native.in_flight > len(native.open_asks()):
                raise ValueError(f"searches: expected none with admitted states, got {self!r}; grow or cancel them")
            self.leave()
            self._home = engine, engine.add(self._native)
            self._driven = True
            return self._home[1]

    def is_in(self, engine: Engine) -> bool:
        """Whether it lies there."""
        return self._home is not None and self._home[0] is engine

    def in_other_run(self, engine: Engine) -> bool:
        """Whether another run than that of this engine has it."""
        return self._driven and not self.is_in(engine)

    def leave(self) -> None:
        """Takes it out of the engine that it lies in."""
        with self._lock:
            home, self._home, self._driven = self._home, None, False  # first: Ctrl-C may break in before the next line
            if home is not None:
                home[0].remove(home[1])
            self.time_by(self._own_clock)

    def time_by(self, clock: Clock) -> None:
        """Goes on by another clock, which may count from another moment. What has passed by the one before stays."""
        if clock is self._clock:
            return
        with self._lock:
            native, began = self._native, self._native.asks > 0
            if began and native.stop_reason is None:
                native.set_time(self._clock())
            native.change_clock()
            if began:
                native.set_time(clock())
            self._clock = clock
