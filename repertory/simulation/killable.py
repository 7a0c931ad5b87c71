"""The embedded log of one simulated process, which may be killed at any point of its transactions."""

from __future__ import annotations

from collections.abc import Sequence

from repertory.bridge import kill_points
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.embedded.log import EmbeddedLog
from repertory.bridge.log.embedded.store import Connection, Groups, Store
from repertory.bridge.log.port import Member
from repertory.bridge.log.record import TopicPartition


class KillableStore(Store):
    """The connection of one process to the shared store. A death before the COMMIT undoes the whole transaction, as
    SQLite's journal does; a death behind it undoes nothing, but the process does not learn that it committed.
    """

    def __init__(self, shared: Store) -> None:
        super().__init__("", shared.settings, shared.clock)
        self._shared = shared

    def connection(self) -> Connection:
        """See ``Store``. All processes share one connection."""
        return self._shared.connection()

    def append(self, connection: Connection, groups: Groups) -> dict[TopicPartition, int]:
        """See ``Store``. Writes one partition after another, with kill points between them."""
        first_offsets: dict[TopicPartition, int] = {}
        for place, columns in groups.items():
            if first_offsets:
                kill_points.reached("producing")
            if point := kill_points.PRODUCING.get(place.topic.rpartition(".")[2]):
                kill_points.reached(point)
            first_offsets |= super().append(connection, {place: columns})
        return first_offsets

    def _begin(self) -> Connection:
        connection = super()._begin()
        try:
            kill_points.reached("begun")
        except BaseException:
            self._roll_back(connection)
            raise
        return connection

    def _commit(self, connection: Connection) -> None:
        kill_points.reached("offset-sent")
        super()._commit(connection)
        kill_points.reached("committed")


class KillableBackend(EmbeddedBackend):
    """The in-memory log of one run."""

    def log_of(self, member: Member, subscriptions: Sequence[str]) -> EmbeddedLog:
        """Return the log of one process."""
        return EmbeddedLog(KillableStore(self._memory), member, subscriptions)
