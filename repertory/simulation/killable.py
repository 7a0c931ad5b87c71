"""The embedded log as one simulated process sees it, which may die within each of its transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.embedded.log import EmbeddedLog
from repertory.bridge.log.embedded.store import Connection, Groups, Store
from repertory.bridge.log.port import Member
from repertory.bridge.log.record import TopicPartition

#: Is called with the name of each point that is passed; raises where the process dies.
Passed = Callable[[str], None]

#: What is about to be written, by the last part of its topic's name; else a point is between two partitions.
_POINTS = {"state": "K18", "dead-letters": "K19"}


class KillableStore(Store):
    """A process's part in the store that all share. Whoever dies within a transaction leaves nothing of it, as SQLite's
    journal sees to; who dies behind the COMMIT leaves all of it and has never heard so.
    """

    def __init__(self, shared: Store, passed: Passed) -> None:
        super().__init__("", shared.settings, shared.clock)
        self._shared, self._passed = shared, passed

    def connection(self) -> Connection:
        """See ``Store``: the one that all share."""
        return self._shared.connection()

    def append(self, connection: Connection, groups: Groups) -> dict[TopicPartition, int]:
        """See ``Store``: one partition after the other."""
        first_offsets: dict[TopicPartition, int] = {}
        for place, columns in groups.items():
            if first_offsets:
                self._passed("K6")
            if point := _POINTS.get(place.topic.rpartition(".")[2]):
                self._passed(point)
            first_offsets |= super().append(connection, {place: columns})
        return first_offsets

    def _begin(self) -> Connection:
        connection = super()._begin()
        try:
            self._passed("K5")
        except BaseException:
            self._roll_back(connection)
            raise
        return connection

    def _commit(self, connection: Connection) -> None:
        self._passed("K8")
        super()._commit(connection)
        self._passed("K11")


class KillableBackend(EmbeddedBackend):
    """The log in memory of one run."""

    def log_of(self, member: Member, subscriptions: Sequence[str], passed: Passed) -> EmbeddedLog:
        """Return the member that a process is."""
        return EmbeddedLog(KillableStore(self._memory, passed), member, subscriptions)
