"""Time as the runtime sees it; the simulator brings its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that never goes back, and the calendar's."""

    def monotonic_s(self) -> float:
        """Seconds since some moment; for timeouts and restarts."""

    def epoch_ms(self) -> int:
        """Milliseconds since 1970 (UTC); for due times that outlive the process."""


class SystemClock:
    """The machine's."""

    #: Asked behind each command: without a function of ours around it, that is half as dear.
    monotonic_s = staticmethod(time.monotonic)

    def epoch_ms(self) -> int:
        """Milliseconds since 1970 (UTC)."""
        return time.time_ns() // 1_000_000


def elapsed(clock: Clock, seconds: float) -> Callable[[], bool]:
    """Return a function that tells whether so much time has gone by since now (0.1 µs)."""
    monotonic_s = clock.monotonic_s
    until_s = monotonic_s() + seconds
    return lambda: monotonic_s() >= until_s
