"""A clock that is advanced by its caller, and the exception for a broken promise."""

from __future__ import annotations

#: The calendar at the start of each run: 2023-11-14T22:13:20Z.
EPOCH_MS = 1_700_000_000_000


class Violation(Exception):
    """A promise was broken: ``rule`` is its name, ``detail`` the place and the difference."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule, self.detail = rule, detail


class VirtualClock:
    """See ``bridge.log.clock.Clock``. Owned by one run."""

    def __init__(self) -> None:
        self._now_s = 0.0
        #: The offset of the calendar, as set by a jump.
        self.skew_ms = 0

    def monotonic_s(self) -> float:
        """Seconds since the start of the run."""
        return self._now_s

    def epoch_ms(self) -> int:
        """Milliseconds since 1970 (UTC)."""
        return EPOCH_MS + round(self._now_s * 1000) + self.skew_ms

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        assert seconds >= 0, seconds
        self._now_s += seconds
