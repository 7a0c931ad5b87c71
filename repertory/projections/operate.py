"""What operators do with a projection: retry and skip events that failed. Each is one transaction of its database."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from repertory.bridge.log.port import Backend
from repertory.bridge.system.projected import ProjectionTrouble
from repertory.projections import schema
from repertory.projections.progress import (
    PlacedEvent,
    ProgressChanged,
    ProgressRow,
    ProjectedPlace,
    WorldError,
    sentence_of,
)
from repertory.projections.projection import BoundProjection
from repertory.projections.store import SqlProgress
from repertory.supervision.traceback_text import message_of

#: How often a change is tried again that met a projector or a lock. How many parked events one transaction applies.
_ATTEMPTS_MAX, _PAUSE_S, _EVENTS_MAX = 100, 0.05, 200

T = TypeVar("T")


class ParkedEventFails(ProjectionTrouble):
    """An event of a parked key still fails."""

    def __init__(self, event: PlacedEvent, error: Exception) -> None:
        super().__init__(f"{event.record.place} still fails: {sentence_of(error)}; the key stays parked")
        self.offset = event.offset


class ProjectionOperator:
    """One version of a projection. Close it."""

    def __init__(self, bound: BoundProjection, backend: Backend) -> None:
        self._bound, self._backend = bound, backend
        self._database = bound.database(backend)

    def place(self, entity: str, partition: int) -> ProjectedPlace:
        """Return a partition; LookupError if the projection does not follow it."""
        for place in self._bound.places():
            if (place.entity, place.partition) == (entity, partition):
                return place
        raise LookupError(f"{self._bound.name} does not follow a shard {entity}/{partition}")

    def retry(self, place: ProjectedPlace) -> int:
        """Let a partition that has stopped go on with the event that failed, and return its offset.

        Raises LookupError if it has not stopped.
        """

        def act(progress: SqlProgress, row: ProgressRow) -> int:
            if row.failed < 0:
                raise LookupError(f"{self._bound.name} has not stopped at {place}: it is at event {row.seq}")
            self._go_on(progress, row, msgspec.structs.replace(row, failed=-1, error="", topic_id=""))
            return row.failed

        return self._changed(place, act)

    def skip(self, place: ProjectedPlace, offset: int) -> str:
        """Go on behind the event at an offset: that at which a partition has stopped, or the first of a parked key.

        Returns the key of a parked event, else "". Raises LookupError for any other offset: nothing changes.
        """

        def act(progress: SqlProgress, row: ProgressRow) -> str:
            if row.failed == offset:
                to = msgspec.structs.replace(row, next=offset + 1, seq=row.seq + 1, failed=-1, error="")
                self._go_on(progress, row, to)
                return ""
            for key in row.parked:
                if (first := self._pointers(place, key, 1)) and first[0][0] == offset:
                    self._unpark(progress, row, place, [offset], [])
                    return key
            stands = f"it has stopped at offset {row.failed}" if row.failed >= 0 else "it has not stopped"
            raise LookupError(
                f"offset {offset} of {place} is not what {self._bound.name} fails at: {stands}, and it is the "
                "first event of no parked key. Nothing was skipped"
            )

        return self._changed(place, act)

    def retry_key(self, place: ProjectedPlace, key: str) -> int:
        """Apply the events of a parked key, in their order, and return how many there were; the key goes on.

        Raises LookupError if the key is not parked, ProjectionTrouble if one still fails: those before it are applied.
        """
        applied = 0

        def act(progress: SqlProgress, row: ProgressRow) -> tuple[int, ParkedEventFails | None]:
            if key not in row.parked and not applied:
                raise LookupError(f"{self._bound.name} has not parked the key {key!r} of {place}")
            events = self._events(place, self._pointers(place, key, _EVENTS_MAX), key)
            failed = None
            while events:
                try:
                    self._unpark(progress, row, place, [event.offset for event in events], events)
                    break
                except ParkedEventFails as failure:
                    failed, events = failure, [event for event in events if event.offset < failure.offset]
            return len(events), failed

        while True:
            count, failed = self._changed(place, act)
            if failed is not None:
                raise failed
            if not count:
                return applied
            applied += count

    # --- the database -----------------------------------------------------------------------------------------

    def _changed(self, place: ProjectedPlace, act: Callable[[SqlProgress, ProgressRow], T]) -> T:
        """Act on a progress, again if somebody else changed it meanwhile."""
        progress = self._bound.progress_of(self._database, place)
        for attempt in range(_ATTEMPTS_MAX):
            try:
                row = progress.load()
                if row is None:
                    raise LookupError(f"{self._bound} has no tables: no projector has run, or it was dropped")
                return act(progress, row)
            except (ProgressChanged, WorldError) as error:
                if attempt == _ATTEMPTS_MAX - 1:
                    raise ProjectionTrouble(f"{place} could not be changed: {message_of(error)}") from error
                time.sleep(_PAUSE_S)
            except sa.exc.SQLAlchemyError as error:
                raise ProjectionTrouble(f"{place} could not be changed: {sentence_of(error)}") from error
        raise AssertionError

    def _go_on(self, progress: SqlProgress, row: ProgressRow, to: ProgressRow) -> None:
        """Change a progress that has failed, if it still is where it was."""
        table, place = schema.progress, progress.place
        changed = (
            table.update()
            .where(
                table.c.projection == progress.name, table.c.version == progress.version, table.c.topic == place.topic,
                table.c.partition == place.partition, table.c.next == row.next, table.c.failed == row.failed,
                table.c.changes == row.changes,
            )
            .values(
                next=to.next, seq=to.seq, failed=None, error="", topic_id=to.topic_id, changes=row.changes + 1,
                trying=-1, deaths=0,
            )
        )  # fmt: skip
        with self._database.transaction() as connection:
            if connection.execute(changed).rowcount != 1:
                raise ProgressChanged

    def _unpark(
        self,
        progress: SqlProgress,
        row: ProgressRow,
        place: ProjectedPlace,
        offsets: Sequence[int],
        events: Sequence[PlacedEvent],
    ) -> None:
        """Apply events that were parked, and forget their pointers: all of them, or none."""
        if row.failed >= 0:
            raise LookupError(f"{self._bound.name} has stopped at {place}@{row.failed}: retry or skip that first")
        table = schema.parked
        with self._database.transaction() as connection:
            transaction = progress.within(connection)
            if not transaction.swap(row, msgspec.structs.replace(row, changes=row.changes + 1)):
                raise ProgressChanged
            for event in events:
                try:
                    transaction.apply(event)
                    transaction.flush()
                except WorldError:
                    raise
                except Exception as error:  # a handler is user code, and so is a statement
                    if isinstance(error, sa.exc.SQLAlchemyError) and self._database.world_error(error) is not None:
                        raise
                    raise ParkedEventFails(event, error) from error
            connection.execute(
                table.delete().where(
                    table.c.projection == progress.name, table.c.version == progress.version,
                    table.c.topic == place.topic, table.c.partition == place.partition, table.c.offset.in_(offsets),
                )
            )  # fmt: skip

    def _pointers(self, place: ProjectedPlace, key: str, count: int) -> list[tuple[int, int]]:
        table = schema.parked
        mine = (
            sa.select(table.c.offset, table.c.seq)
            .where(
                table.c.projection == self._bound.name, table.c.version == self._bound.version,
                table.c.topic == place.topic, table.c.partition == place.partition, table.c.key == key,
            )
            .order_by(table.c.seq)
            .limit(count)
        )  # fmt: skip
        with self._database.reading() as connection:
            return [(row.offset, row.seq) for row in connection.execute(mine)]

    def _events(self, place: ProjectedPlace, pointers: Sequence[tuple[int, int]], key: str) -> list[PlacedEvent]:
        """Read what pointers point to: this build decodes what was written."""
        events = []
        reader = self._backend.reader()
        try:
            for offset, seq in pointers:
                record = next(iter(reader.read(place.topic, place.partition, offset)), None)
                if record is None or record.offset != offset:
                    raise ProjectionTrouble(f"{place}@{offset} is gone from the log: skip it")
                events.append(PlacedEvent(seq, key, record))
        finally:
            reader.close()
        return events

    def close(self) -> None:
        """Release the database."""
        self._database.close()
