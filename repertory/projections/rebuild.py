"""``Rebuild``: builds a version beside the one that serves, and lets it serve; and drops versions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
import sqlalchemy as sa

from repertory.bridge.log.port import Backend
from repertory.bridge.system.projected import ProjectionTrouble
from repertory.projections import schema
from repertory.projections.database import Database, lock_ddl
from repertory.projections.progress import PlacedEvent, ProgressRow, ProjectedPlace, WorldError, sentence_of
from repertory.projections.projection import BoundProjection
from repertory.projections.projector import BATCH_EVENTS, Projector
from repertory.projections.store import SqlTransaction, loaded
from repertory.projections.versions import drop_views, make_views, states
from repertory.supervision.traceback_text import message_of

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition

T = TypeVar("T")

#: How many events a switch applies within its own transaction at most: under traffic the lag is never zero.
_MISSING_MAX = 10_000
_ATTEMPTS_MAX, _PAUSE_S, _WAIT_S = 20, 0.2, 0.1
#: How long a rebuild waits for a database that is away or locked.
_PATIENCE_S = 10.0

#: By entity and partition, the seq after the last event.
Ends = Mapping[tuple[str, int], int]


class Rebuild:
    """One version of a projection. One thread; close it."""

    def __init__(self, bound: BoundProjection, system: SystemDefinition, backend: Backend) -> None:
        self._bound = bound
        self._projector = Projector(bound, system, backend)
        self._reader = backend.reader()
        self._database = self._projector.database
        for place in bound.places():
            self._projector.own(place)

    def run(self, ends: Ends, report: Callable[[int], None]) -> None:
        """Build this version up to ``ends``. ``report`` is called with the number of events that were applied so far.

        Raises ValueError if it serves already, ProjectionTrouble if an event fails or the database cannot be used.
        """
        state = None
        with suppress(ProjectionTrouble):  # What is away may come back while it catches up.
            state = self._state()
        if state == schema.SERVES:
            raise ValueError(
                f"{self._bound} serves: give the class a new version=, which is built beside it, or drop it first"
            )
        if state == schema.DROPPED:
            patiently(self._database, f"{self._bound} was not built anew", lambda each: _forget(each, self._bound))
        self._catch_up(ends, report)

    def _catch_up(self, ends: Ends, report: Callable[[int], None]) -> None:
        done, until_s = -1, time.monotonic() + _PATIENCE_S
        while True:
            self._projector.step(_WAIT_S)
            rows = {place: each.row for place, each in self._projector.partitions.items()}
            if not (trouble := self._projector.said(str(self._bound))):
                until_s = time.monotonic() + _PATIENCE_S
            elif self._projector.is_dropped or time.monotonic() > until_s:
                raise ProjectionTrouble(trouble)
            for place, row in rows.items():
                if row is not None and row.failed >= 0:
                    raise ProjectionTrouble(f"{self._bound} has stopped at {place}@{row.failed}: {row.error}")
            if (now := sum(row.seq for row in rows.values() if row is not None)) != done:
                done = now
                report(done)
            if all(_has(place, row, ends) for place, row in rows.items()):
                return

    @property
    def serves(self) -> bool:
        """Whether readers see this version."""
        return self._state() == schema.SERVES

    def switch(self, ends: Ends) -> int:
        """Let this version serve: the views show its tables; return the version that served until now, 0 if none did.

        It is brought up to the version that serves within the transaction that switches, so that readers never go back.
        Raises ValueError if it serves already, ProjectionTrouble.
        """
        self._catch_up(ends, lambda _done: None)
        return patiently(self._database, f"{self._bound} was not switched to", self._switch)

    def _switch(self, connection: sa.Connection) -> int:
        bound, table = self._bound, schema.projections
        found = states(connection, bound.name)
        served = next((version for version, each in found.items() if each.state == schema.SERVES), 0)
        if bound.version not in found or found[bound.version].state == schema.DROPPED:
            raise ProjectionTrouble(f"{bound} is not built: repertory projections rebuild")
        if served == bound.version:
            raise ValueError(f"{bound} serves already")
        _lock_progress(connection, bound.name)
        self._bring_up(connection, loaded(connection, bound.name, served))
        for version, state in ((served, schema.BESIDE), (bound.version, schema.SERVES)):
            mine = table.update().where(table.c.projection == bound.name, table.c.version == version)
            connection.execute(mine.values(state=state))
        make_views(connection, bound)
        return served

    def _bring_up(self, connection: sa.Connection, served: Mapping[tuple[str, int], ProgressRow]) -> None:
        """Apply what the version that serves has already, within a transaction that holds both progresses."""
        bound, missing = self._bound, 0
        mine = loaded(connection, bound.name, bound.version)
        for place in bound.places():
            row = mine[place.topic, place.partition]
            if row.failed >= 0:
                raise ProjectionTrouble(f"{bound} has stopped at {place}@{row.failed}: {row.error}")
            old = served.get((place.topic, place.partition))
            while old is not None and row.seq < old.seq:
                missing += old.seq - row.seq
                if missing > _MISSING_MAX:
                    raise ProjectionTrouble(f"{bound} is {missing} events behind: repertory projections rebuild")
                row = self._apply(connection, place, row, old.seq)

    def _apply(self, connection: sa.Connection, place: ProjectedPlace, row: ProgressRow, end: int) -> ProgressRow:
        feed = self._projector.feeds[place.topic]
        wrong = feed.read(self._reader, {place.partition: row}, BATCH_EVENTS, _WAIT_S)
        if place.partition in wrong:
            raise wrong[place.partition]
        events = [event for event in feed.partitions[place.partition].events if event.seq < end]
        if not events:
            raise WorldError(f"{place}: the log does not show event {row.seq} yet")
        transaction = self._bound.progress_of(self._database, place).within(connection)
        last = events[-1]
        to = msgspec.structs.replace(row, next=last.offset + 1, seq=last.seq + 1, changes=row.changes + 1)
        if not transaction.swap(row, to):
            raise AssertionError(f"{place} was locked and changed")
        for event in events:
            if event.key in row.parked:
                transaction.park(event, "")
            else:
                self._apply_one(transaction, event)
        return to

    def _apply_one(self, transaction: SqlTransaction, event: PlacedEvent) -> None:
        """Apply an event, and name it if it fails: nobody bisects here."""
        try:
            transaction.apply(event)
            transaction.flush()
        except WorldError:
            raise
        except Exception as error:
            if isinstance(error, sa.exc.SQLAlchemyError) and (world := self._database.world_error(error)) is not None:
                raise world from error
            raise ProjectionTrouble(f"{event.record.place} fails: {sentence_of(error)}") from error

    def drop(self, *, serving: bool) -> None:
        """Drop the tables of this version, and its progress. Its projectors end.

        Raises ValueError if it serves, unless ``serving``: then readers find no view any more. ProjectionTrouble.
        """
        state = self._state()
        if state is None or state == schema.DROPPED:
            raise ValueError(f"{self._bound} has no tables")
        if state == schema.SERVES and not serving:
            raise ValueError(f"{self._bound} serves: switch to another version first, or pass --serving")
        patiently(self._database, f"{self._bound} was not dropped", self._drop)

    def _drop(self, connection: sa.Connection) -> None:
        bound = self._bound
        schema.make(connection)  # Somebody may have dropped those.
        _lock_progress(connection, bound.name)
        drop_views(connection, bound)
        bound.kind.metadata.drop_all(connection)
        _forget(connection, bound)
        connection.execute(
            schema.projections.insert(),
            {
                "projection": bound.name, "version": bound.version, "system": bound.system, "digest": bound.digest,
                "state": schema.DROPPED,
            },
        )  # fmt: skip

    def _state(self) -> str | None:
        try:
            with self._database.reading() as connection:
                if not sa.inspect(connection).has_table(schema.projections.name):
                    return None
                mine = states(connection, self._bound.name).get(self._bound.version)
                return None if mine is None else str(mine.state)
        except WorldError as error:
            raise ProjectionTrouble(message_of(error)) from error
        except sa.exc.SQLAlchemyError as error:
            raise ProjectionTrouble(f"{self._database.shown}: {sentence_of(error)}") from error

    def close(self) -> None:
        """Release the database and the log."""
        self._projector.close()
        self._reader.close()


def patiently(database: Database, failed: str, act: Callable[[sa.Connection], T]) -> T:
    """Run a transaction that makes or drops tables, again while others hold what it needs; one at a time.

    ``failed``: what to say if it cannot be done. Raises ProjectionTrouble, and what ``act`` raises.
    """
    for attempt in range(_ATTEMPTS_MAX):
        try:
            with database.transaction() as connection:
                lock_ddl(connection, schema.DDL_LOCK)
                return act(connection)
        except WorldError as error:
            if attempt == _ATTEMPTS_MAX - 1:
                raise ProjectionTrouble(f"{failed}: {message_of(error)}") from error
            time.sleep(_PAUSE_S)
        except sa.exc.SQLAlchemyError as error:
            raise ProjectionTrouble(f"{failed}: {sentence_of(error)}") from error
    raise AssertionError(failed)


def _lock_progress(connection: sa.Connection, name: str) -> None:
    """Keep all projectors of a projection from changing their progress until the end of the transaction."""
    rows = sa.select(schema.progress.c.version).where(schema.progress.c.projection == name)
    connection.execute(rows.order_by(*schema.progress.primary_key.columns).with_for_update()).all()


def _forget(connection: sa.Connection, bound: BoundProjection) -> None:
    """Delete all that is known of a version."""
    for table in (schema.progress, schema.parked, schema.projections):
        connection.execute(table.delete().where(table.c.projection == bound.name, table.c.version == bound.version))


def _has(place: ProjectedPlace, row: ProgressRow | None, ends: Ends) -> bool:
    return row is not None and row.seq >= ends.get((place.entity, place.partition), 0)
