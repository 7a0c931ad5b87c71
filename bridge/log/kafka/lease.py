"""How long a worker may believe that it is a member of the group.

The group refuses the commits of a worker that is no longer a member, so its decisions only waste time; but its claims
would fence the rightful owner. The lease keeps running while the machine sleeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def boottime_s() -> float:
    """Return seconds of a clock that keeps running while the machine sleeps; ``time.monotonic()`` stops on Linux."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Lasts for a session after the last evidence of membership: a commit, a proof, an assignment.

    Renewed by the log's thread; the claims' threads read it.
    """

    def __init__(self, session_s: float, clock: Callable[[], float] = boottime_s) -> None:
        self._session_s = session_s
        self._clock = clock
        self._renewed_s = clock()

    @property
    def fresh_s(self) -> float:
        """The maximum age of evidence when it is received: older evidence waited in a queue while the process slept."""
        return self._session_s / 3

    def now_s(self) -> float:
        """Return the time on the clock that evidence is dated by."""
        return self._clock()

    def renew(self, at_s: float) -> None:
        """The group confirmed our membership at some time after ``at_s``."""
        self._renewed_s = max(self._renewed_s, at_s)

    def is_due(self) -> bool:
        """Return whether it is time to get new evidence."""
        return self._clock() - self._renewed_s > self.fresh_s

    def is_expired(self) -> bool:
        """Return whether the group may have assigned our shards to others by now."""
        return self._clock() - self._renewed_s > self._session_s

    def is_half_over(self) -> bool:
        """Return whether there was no evidence for half a session."""
        return self._clock() - self._renewed_s > self._session_s / 2
