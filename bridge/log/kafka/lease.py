"""How long ago the group is known to have taken this worker for a member.

What a worker without that knowledge decides is refused at the commit; until then it only uses up time, and its claims
would shut out the rightful owner. Time passes here while the machine sleeps too.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def boottime_s() -> float:
    """Return seconds on a clock that goes on through a suspend, which ``time.monotonic()`` does not on Linux."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """Lasts a session from the last evidence on: a commit, a proof, an assignment. Read by the claims' threads too."""

    def __init__(self, session_s: float, clock: Callable[[], float] = boottime_s) -> None:
        self._session_s = session_s
        self._clock = clock
        self._shown_s = clock()

    @property
    def fresh_s(self) -> float:
        """How old evidence may be that comes in: what is older waited in a queue while the process slept."""
        return self._session_s / 3

    def now_s(self) -> float:
        """Return the time that evidence is given in."""
        return self._clock()

    def show(self, at_s: float) -> None:
        """The group took us for a member at some time after ``at_s``."""
        self._shown_s = max(self._shown_s, at_s)

    def due(self) -> bool:
        """Tell whether it is time for new evidence."""
        return self._clock() - self._shown_s > self.fresh_s

    def over(self) -> bool:
        """Tell whether the group may have given our shards to others by now."""
        return self._clock() - self._shown_s > self._session_s
