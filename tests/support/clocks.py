"""Clocks that tests give to workers."""

from __future__ import annotations

from typing import Any


class Later:
    """A clock that is ahead."""

    def __init__(self, inner: Any, ahead_ms: int) -> None:
        self._inner, self._ahead_ms = inner, ahead_ms

    def epoch_ms(self) -> int:
        """Return the time of the day."""
        return int(self._inner.epoch_ms()) + self._ahead_ms

    def monotonic_s(self) -> float:
        """Return the time that runs."""
        return float(self._inner.monotonic_s())
