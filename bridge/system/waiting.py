"""``Waiting``: a client waits until a projection holds its own write."""

from __future__ import annotations

from repertory.actors.asks import Position
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.system.client_core import ClientCore
from repertory.bridge.system.projected import Projectable, ProjectionTrouble

_PAUSE_MIN_S, _PAUSE_MAX_S = 0.002, 0.1


class Waiting:
    """One wait, which asks the database again and again. ``pause_s``: how long to pause before it is asked next."""

    def __init__(
        self, core: ClientCore, projection: type[Projectable], position: Position | None, timeout_s: float
    ) -> None:
        """Raises LookupError if the system does not project it, ValueError for a position that it does not reach."""
        if not isinstance(position, Position):
            raise ValueError(  # noqa: TRY004  as the other calls of a client
                f"a projection is waited for by a Position, such as ask_result(…).position, not {position!r:.100}"
            )
        projected = core.system.projections.of(projection)
        self._name, self._position, self._timeout_s = projected.name, position, timeout_s
        self._progress, self._clock = projected.progress(core.log), SystemClock()
        self._until_s, self._trouble = self._clock.monotonic_s() + timeout_s, ""
        self.pause_s = _PAUSE_MIN_S

    def reached(self) -> bool:
        """Ask once. Raises TimeoutError once the time is over, ProjectionStopped at once."""
        try:
            if self._progress.has(self._position):
                return True
            self._trouble = ""
        except ProjectionTrouble as trouble:
            self._trouble = str(trouble)
        if self._clock.monotonic_s() >= self._until_s:
            why = self._trouble or self._progress.describe(self._position)
            raise TimeoutError(
                f"the projection {self._name} is not at {self._position} after {self._timeout_s:g} s: {why}"
            )
        self.pause_s = min(2 * self.pause_s, _PAUSE_MAX_S)
        return False

    def close(self) -> None:
        """Release the database."""
        self._progress.close()
