"""``Projector``: drives the partitions of one projection that it owns: reads events, applies them in batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from repertory.bridge.log.clock import Clock, SystemClock
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import Backend
from repertory.bridge.system.projected import ProjectionTrouble
from repertory.projections.feed import Feed
from repertory.projections.partition import PartitionProjection
from repertory.projections.progress import PlacedEvent, ProjectedPlace, WorldError, sentence_of
from repertory.projections.versions import prepare
from repertory.supervision.traceback_text import message_of

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition
    from repertory.projections.projection import BoundProjection

#: Events of one transaction at most: beyond that it takes longer, and the rate does not grow.
BATCH_EVENTS = 1_000
#: As many as take about this time at most: a batch holds locks, and all of it is done again if it fails.
_BATCH_S = 1.0
#: Events of the first batch of a partition; each that is no longer than that time may be followed by twice as many.
_FIRST_EVENTS = 10
#: How often a partition that has stopped is looked at again, and any other one, topics are asked for their ids, and
#: what failed is tried.
_AGAIN_S, _LOOK_S, _IDS_S, _TROUBLE_S = 0.5, 5.0, 5.0, 1.0
#: A round over all partitions ends after this time: a database that does not answer makes each of them wait.
_ROUND_S = 10.0

logger = logging.getLogger("repertory")


class Projector:
    """One thread. ``say`` is called with each sentence about what stops it, once until it changes."""

    def __init__(
        self,
        bound: BoundProjection,
        system: SystemDefinition,
        backend: Backend,
        clock: Clock | None = None,
        say: Callable[[str, str], None] = lambda where, what: logger.warning("%s: %s", where, what),
    ) -> None:
        self.bound, self._system, self._backend = bound, system, backend
        self._clock, self._say = clock or SystemClock(), say
        self.database = bound.database(backend)
        self._reader = backend.reader()
        #: The most events of one batch.
        self.batch_events = BATCH_EVENTS
        self.feeds: dict[str, Feed] = {}
        self.partitions: dict[ProjectedPlace, PartitionProjection] = {}
        #: How many events of each partition the next transaction takes.
        self._limits: dict[ProjectedPlace, int] = {}
        self._is_prepared = self.is_dropped = False
        self._due_s = self._ids_due_s = self._again_s = self._look_s = self._deaf_until_s = 0.0
        self._ids: dict[str, str] = {}
        #: What was said last of each partition, and of the whole.
        self._said: dict[str, str] = {}
        self._doing = ""

    def own(self, place: ProjectedPlace) -> None:
        """Begin to work on a partition."""
        if place not in self.partitions:
            store = self.bound.progress_of(self.database, place)
            self.partitions[place] = PartitionProjection(store, self.bound.on_error)
            self.feeds.setdefault(place.topic, Feed(self.bound.system, place.entity)).own(place.partition)

    def disown(self, place: ProjectedPlace) -> None:
        """Stop to work on a partition: another projector has it."""
        if (each := self.partitions.pop(place, None)) is not None:
            self._leave(each)
        if (feed := self.feeds.get(place.topic)) is not None:
            feed.partitions.pop(place.partition, None)

    def step(self, wait_s: float = 0.0) -> bool:
        """Read and apply a batch of each partition; return whether anything happened. Waits ``wait_s`` for events.

        Raises nothing that the world or an event causes: it says it, and tries again later.
        """
        now_s = self._clock.monotonic_s()
        try:
            if now_s < self._due_s:
                return self._rest(wait_s)
            self._prepare(now_s)
            self._check_ids(now_s)
            self._look_again(now_s)
            moved = self._read(wait_s, now_s)
        except (WorldError, ProjectionTrouble, LogUnavailable, SQLAlchemyError) as error:
            self._due_s = now_s + _TROUBLE_S
            self._is_prepared &= not isinstance(error, SQLAlchemyError)  # Somebody may have dropped tables.
            self._tell(str(self.bound), sentence_of(error) if isinstance(error, SQLAlchemyError) else message_of(error))
            return False
        self._tell(str(self.bound), "")
        return moved

    def _prepare(self, now_s: float) -> None:
        if self._is_prepared and not self.database.is_lost():
            return
        self._refresh_ids(now_s)
        self._is_prepared = prepare(self.bound, self.database, self._ids)
        self.is_dropped = not self._is_prepared
        if self.is_dropped:
            raise ProjectionTrouble("it was dropped: leave it out of the code, or build it anew with rebuild")
        for each in self.partitions.values():
            each.row, each.is_dropped = None, False

    def _rest(self, wait_s: float) -> bool:
        if wait_s > 0:
            time.sleep(min(wait_s, _TROUBLE_S))
        return False

    def _read(self, wait_s: float, now_s: float) -> bool:
        """Read events and apply them."""
        ready = self._ready(now_s)
        if not ready:
            return self._rest(wait_s)
        moved = False
        for topic, feed in self.feeds.items():
            mine = {place.partition: each for place, each in ready.items() if place.topic == topic}
            rows = {partition: each.row for partition, each in mine.items() if each.row is not None}
            wrong = feed.read(self._reader, rows, self.batch_events, wait_s / len(self.feeds))
            for partition, each in mine.items():
                if self.now_s() > now_s + _ROUND_S:
                    break
                if partition in wrong:
                    moved |= each.stop(str(wrong[partition]), now_s)
                elif events := feed.partitions[partition].events:
                    self._doing = f"projecting {topic}/{partition} from {events[0].offset} on"
                    moved |= self._apply(ProjectedPlace(feed.entity, topic, partition), each, events)
                    self._doing = ""
        for place, each in self.partitions.items():
            failed = each.row is not None and each.row.failed >= 0
            self._tell(str(place), f"stopped: {each.row.error}" if failed and each.row else each.trouble)
        return moved

    def _apply(self, place: ProjectedPlace, each: PartitionProjection, events: Sequence[PlacedEvent]) -> bool:
        """Apply a batch, and learn from the time that it took how large the next one may be."""
        limit, began_s = min(self._limits.get(place, _FIRST_EVENTS), self.batch_events), self.now_s()
        moved = each.step(events[:limit], began_s)
        took_s = self.now_s() - began_s
        if took_s > _BATCH_S:
            limit = max(1, int(min(limit, len(events)) * _BATCH_S / took_s))
        elif len(events) >= limit:
            limit = min(2 * limit, self.batch_events)
        self._limits[place] = limit
        return moved

    def _ready(self, now_s: float) -> dict[ProjectedPlace, PartitionProjection]:
        """Return the partitions that have something to do, with their progress read."""
        ready = {}
        for place, each in self.partitions.items():
            if self.now_s() > now_s + _ROUND_S:
                break
            if now_s >= each.due_s and each.load(now_s) and each.row is not None and each.row.failed < 0:
                topic_id = self._ids.get(place.topic, "")
                if not each.row.topic_id and topic_id:
                    each.adopt(topic_id, now_s)
                elif topic_id not in ("", each.row.topic_id):
                    each.stop(recreated(place), now_s)
                else:
                    ready[place] = each
        self._is_prepared &= not any(each.is_dropped for each in self.partitions.values())
        return ready

    def _look_again(self, now_s: float) -> None:
        """Forget the progress of what has stopped, which an operator may have retried or skipped; less often any other.

        A partition without new events would not notice that its tables are those of a backup, or are built anew.
        """
        if now_s >= self._again_s:
            self._again_s, looks = now_s + _AGAIN_S, now_s >= self._look_s
            if looks:
                self._look_s = now_s + _LOOK_S
            for each in self.partitions.values():
                if each.row is not None and (looks or each.row.failed >= 0):
                    each.row = None

    def _refresh_ids(self, now_s: float) -> None:
        self._ids_due_s = now_s + _IDS_S
        self._ids = dict(self._reader.topic_ids(sorted({place.topic for place in self.bound.places()})))

    def _check_ids(self, now_s: float) -> None:
        if now_s >= self._ids_due_s:
            self._refresh_ids(now_s)

    def _tell(self, where: str, what: str) -> None:
        if what != self._said.get(where, ""):
            self._said[where] = what
            if what:
                self._say(where, what)

    def now_s(self) -> float:
        """Return the time of its clock."""
        return self._clock.monotonic_s()

    @property
    def under_way(self) -> str:
        """What its thread is doing, for its supervisor."""
        return self._doing

    def said(self, where: str) -> str:
        """Return what was said last of something, "" if that has passed."""
        return self._said.get(where, "")

    def _leave(self, each: PartitionProjection) -> None:
        """Give a partition back; a database that does not answer is asked once for all of them."""
        now_s = self.now_s()
        if now_s >= self._deaf_until_s:
            with suppress(SQLAlchemyError):
                self._deaf_until_s = 0.0 if each.leave(now_s) else self.now_s() + _ROUND_S

    def close(self) -> None:
        """Release the database and the log."""
        for each in self.partitions.values():
            self._leave(each)
        with suppress(WorldError):
            self.database.close()
        self._reader.close()


def recreated(place: ProjectedPlace) -> str:
    """Say that a topic is not the one that was projected."""
    return (
        f"{place.topic} was deleted and created again: if it was restored from a backup, retry this partition; else "
        "drop the projection and rebuild it"
    )


class InlineProjector:
    """Implements ``Following``: all partitions, within the process of ``system.start``."""

    def __init__(self, bound: BoundProjection, system: SystemDefinition, backend: Backend) -> None:
        self._projector = Projector(bound, system, backend)
        for place in bound.places():
            self._projector.own(place)

    def step(self) -> bool:
        """See ``Following.step``."""
        return self._projector.step()

    def behind(self, entity: str, partition: int, seq: int) -> str | None:
        """See ``Following.behind``."""
        for place, each in self._projector.partitions.items():
            if (place.entity, place.partition) != (entity, partition) or self._projector.is_dropped:
                continue
            if each.row is not None and each.row.failed >= 0:
                each.row = None  # An operator may have retried or skipped.
                each.load(self._projector.now_s())
            if each.row is None or (each.row.failed < 0 and each.row.seq < seq):
                return f"{self._projector.bound} is behind at {place}: {self._why(each)}"
        return None

    def _why(self, each: PartitionProjection) -> str:
        said = self._projector.said(str(self._projector.bound)) or each.trouble
        return said or f"event {-1 if each.row is None else each.row.seq} is next"

    def close(self) -> None:
        """See ``Following.close``."""
        self._projector.close()
