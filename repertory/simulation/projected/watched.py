"""A projection as one simulated process has it: its transactions are noted, and its handlers can be made to fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import sqlalchemy as sa

from repertory.bridge.log.port import Backend
from repertory.projections.database import Database
from repertory.projections.db import Db
from repertory.projections.progress import PlacedEvent, ProgressChanged, ProgressRow, ProjectedPlace, WorldError
from repertory.projections.projection import BoundProjection
from repertory.projections.store import SqlProgress, SqlTransaction
from repertory.simulation.projected.database import SimulatedDatabase

#: Is called before the handler of an event, with its place, and may raise.
Handling = Callable[[ProjectedPlace, PlacedEvent], None]


class ProjectionCommit(msgspec.Struct):
    """What one transaction of a projection does. ``events_count``: how many it was to take.

    ``applied`` and ``parked`` are its events. ``why``: why it has stopped the partition or parked a key, "" if it has
    not, and ``error`` the exception behind that, if there was one.
    """

    place: ProjectedPlace
    events_count: int = 0
    applied: list[PlacedEvent] = msgspec.field(default_factory=list)
    parked: list[PlacedEvent] = msgspec.field(default_factory=list)
    failed: int = -1
    why: str = ""
    error: Exception | None = None


class Noted(msgspec.Struct, frozen=True):
    """What is known of one projection in a run, whatever process did it: its commits, in their order, and probes."""

    commits: list[ProjectionCommit]
    probes: Counter[str]


class SimulatedProjection(BoundProjection):
    """A projection in one process: its handlers are those of a new instance."""

    def __init__(
        self, of: BoundProjection, opened: SimulatedDatabase, noted: Noted, handling: Handling = lambda *_: None
    ) -> None:
        self.__dict__.update(vars(of))
        instance = of.kind()
        self.handlers = {name: each.of(instance) for name, each in of.handlers.items()}
        self.noted, self.handling, self._opened = noted, handling, opened

    def database(self, _backend: Backend) -> Database:
        """See ``BoundProjection``."""
        return self._opened

    def progress_of(self, _database: Database, place: ProjectedPlace) -> SqlProgress:
        """See ``BoundProjection``."""
        return WatchedProgress(self, self._opened, place)


class WatchedProgress(SqlProgress):
    """The progress of one partition, whose transactions are noted."""

    def __init__(self, projection: SimulatedProjection, opened: SimulatedDatabase, place: ProjectedPlace) -> None:
        handlers = projection.handlers[place.entity]
        super().__init__(opened, projection.name, projection.version, place, handlers, projection.tables)
        self._projection, self._opened = projection, opened
        self._under_way = ProjectionCommit(place)
        #: What an event or a statement has raised since the last commit.
        self._error: Exception | None = None

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        """See ``ProgressStore.transaction``."""
        probes = self._projection.noted.probes
        try:
            with super().transaction() as transaction:
                yield transaction
        except ProgressChanged:
            probes["projector lost a race"] += 1
            raise
        except WorldError as error:
            probes["projector was locked out"] += "locked" in str(error)
            raise
        except Exception as error:
            self._error = error
            probes["projector halved a batch"] += self._under_way.events_count > 1
            raise

    def within(self, connection: sa.Connection) -> SqlTransaction:
        """See ``SqlProgress``."""
        self._under_way = ProjectionCommit(self.place)
        self._opened.on_commit = self._committed
        return WatchedTransaction(connection, Db(connection, self._projection.tables), self, self._under_way)

    def handling(self, event: PlacedEvent) -> None:
        """Let the simulator make the handler of an event fail."""
        self._projection.handling(self.place, event)

    def _committed(self) -> None:
        commit, noted = self._under_way, self._projection.noted
        if commit.why:
            commit.error = self._error
            noted.probes["projector stopped a partition" if commit.failed >= 0 else "projector parked a key"] += 1
        self._error = None
        noted.commits.append(commit)


class WatchedTransaction(SqlTransaction):
    """A transaction that notes what it does."""

    def __init__(self, connection: sa.Connection, db: Db, owner: WatchedProgress, commit: ProjectionCommit) -> None:
        super().__init__(connection, db, owner)
        self._watched, self._commit = owner, commit

    def swap(self, row: ProgressRow, to: ProgressRow) -> bool:
        """See ``ProgressTransaction.swap``."""
        commit = self._commit
        commit.events_count = to.seq - row.seq
        if to.failed >= 0:
            commit.failed, commit.why = to.failed, to.error
        return super().swap(row, to)

    def park(self, event: PlacedEvent, error: str) -> None:
        """See ``ProgressTransaction.park``."""
        super().park(event, error)
        self._commit.parked.append(event)
        self._commit.why = self._commit.why or error

    def apply(self, event: PlacedEvent) -> None:
        """See ``ProgressTransaction.apply``."""
        self._watched.handling(event)
        super().apply(event)
        self._commit.applied.append(event)
