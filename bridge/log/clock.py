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


def elapsed(clock: Clock, seconds: float) -> Callable[[], bool]:
    """Return a function that returns whether that many seconds have passed since now; a call takes 0.1 µs."""
    monotonic_s = clock.monotonic_s
    until_s = monotonic_s() + seconds
    return lambda: monotonic_s() >= until_s
