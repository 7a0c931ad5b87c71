"""The clock of the runtime; the simulator has its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock and a wall clock."""

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary moment, never going back; for timeouts and restarts."""

    def epoch_ms(self) -> int:
        """Milliseconds since 1970 (UTC); for due times that outlive the process."""


class SystemClock:
    """The clock of the machine."""

    #: Read after each command: without a Python function around it, that takes half the time.
    monotonic_s = staticmethod(time.monotonic)

    def epoch_ms(self) -> int:
        """Milliseconds since 1970 (UTC)."""
        return time.time_ns() // 1_000_000


class MovableClock(SystemClock):
    """The clock of the machine, of which the calendar can be moved on: for timers in tests, in one process."""

    def __init__(self) -> None:
        self._ahead_ms = 0
        #: The time that the calendar shows while it is frozen.
        self._frozen_ms: int | None = None

    def epoch_ms(self) -> int:
        """Milliseconds since 1970 (UTC), and as much as the calendar was moved."""
        return super().epoch_ms() + self._ahead_ms if self._frozen_ms is None else self._frozen_ms

    def freeze(self, at_ms: int | None = None) -> None:
        """Move the calendar on to ``at_ms``, by default not at all, and stop it there."""
        self._frozen_ms = self.epoch_ms() if at_ms is None else max(at_ms, self.epoch_ms())

    def resume(self) -> None:
        """Have the calendar run again from where it was stopped."""
        if self._frozen_ms is not None:
            self._ahead_ms, self._frozen_ms = self._frozen_ms - super().epoch_ms(), None


def elapsed(clock: Clock, seconds: float) -> Callable[[], bool]:
    """Return a function that returns whether that many seconds have passed since now; a call takes 0.1 µs."""
    monotonic_s = clock.monotonic_s
    until_s = monotonic_s() + seconds
    return lambda: monotonic_s() >= until_s
