"""Which handlers fail, and how often: what the hook before each of them (`bridge.hooked`) asks."""

from __future__ import annotations

from collections import Counter

#: More often than any run lets a command be tried.
ALWAYS = 1_000_000


class HandlerFaults:
    """Commands whose handlers fail: by cause, what they raise and how often. Owned by one run.

    ``steady``: none fails that did not fail when it was first decided. At least once, what it sent may have left.
    """

    def __init__(self, *, steady: bool = False) -> None:
        self._steady = steady
        #: Armed for the next commands that are handled.
        self.armed: list[tuple[type[BaseException], int]] = []
        self._left: dict[str, tuple[type[BaseException], int]] = {}
        #: How often a handler was made to fail, by cause; whether that was committed is another question.
        self.raised: Counter[str] = Counter()
        #: How many processes died within the handler, by cause.
        self.deaths: Counter[str] = Counter()

    def strike(self, cause: str, _attempt: int) -> None:
        """Raise what is due for a command."""
        if self.armed and cause not in self._left:
            self._left[cause] = self.armed.pop()
        elif self._steady:
            self._left.setdefault(cause, (Exception, 0))
        kind, left = self._left.get(cause, (Exception, 0))
        if left:
            self._left[cause] = kind, left - 1
            self.raised[cause] += 1
            raise kind(f"simulated failure of {cause}")

    def lift(self) -> None:
        """Raise no more. What kills goes on killing: it has to be quarantined."""
        self.armed.clear()
        self._left = {cause: (kind, left if kind is MemoryError else 0) for cause, (kind, left) in self._left.items()}
