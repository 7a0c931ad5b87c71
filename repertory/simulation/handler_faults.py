"""Which handlers fail, and how often. The hook before each handler (`bridge.hooked`) calls it."""

from __future__ import annotations

from collections import Counter

#: More than the attempts of any command in a run.
ALWAYS = 1_000_000


class HandlerFaults:
    """The commands whose handlers fail: what they raise and how often, by cause. Owned by one run.

    ``steady``: a command that did not fail when it was first decided never fails. This is needed at least once, where
    the outputs of a first attempt may have been sent.
    """

    def __init__(self, *, steady: bool = False) -> None:
        self._steady = steady
        #: Faults for the next commands that are handled.
        self.armed: list[tuple[type[BaseException], int]] = []
        self._left: dict[str, tuple[type[BaseException], int]] = {}
        #: How often a handler was made to fail, by cause, whether or not that was committed.
        self.raised: Counter[str] = Counter()
        #: How many processes died in the handler, by cause.
        self.deaths: Counter[str] = Counter()

    def strike(self, cause: str, _attempt: int) -> None:
        """Raise the fault of a command, if it has one."""
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
        """Stop raising, except for commands that crash their process: those must be quarantined."""
        self.armed.clear()
        self._left = {cause: (kind, left if kind is MemoryError else 0) for cause, (kind, left) in self._left.items()}
