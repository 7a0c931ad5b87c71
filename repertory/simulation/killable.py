"""The embedded log as one simulated process sees it, which may die within each of its transactions."""

from __future__ import annotations

from collections.abc import Sequence

from repertory.bridge import kill_points
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.embedded.log import EmbeddedLog
from repertory.bridge.log.embedded.store import Connection, Groups, Store
from repertory.bridge.log.port import Member
from repertory.bridge.log.record import TopicPartition


class KillableStore(Store):
    """A process's part in the store that all share. Whoever dies within a transaction leaves nothing of it, as SQLite's
    journal sees to; who dies behind the COMMIT leaves all of it and has never heard so.
    """

    def __init__(self, shared: Store) -> None:
        super().__init__("", shared.settings, shared.clock)
        self._shared = shared

    def connection(self) -> Connection:
        """See ``Store``: the one that all share."""
        return self._shared.connection()

    def append(self, connection: Connection, groups: Groups) -> dict[TopicPartition, int]:
        """See ``Store``: one partition after the other."""
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
    """The log in memory of one run."""

    def log_of(self, member: Member, subscriptions: Sequence[str]) -> EmbeddedLog:
        """Return the member that a process is."""
        return EmbeddedLog(KillableStore(self._memory), member, subscriptions)
