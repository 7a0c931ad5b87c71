"""``Feed``: the events that count of the partitions of one entity, in their order, as a projection reads them.

While a log was only ever used exactly once, all committed records of the journal count, and the feed follows it. From
the first owner on that worked at least once, it follows the shard records instead, and reads the journal up to them
(``projections.counted``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from repertory.actors.headers import EPOCH
from repertory.actors.shard.changelog import SHARD_KEY, ShardRecord, first_shard_record
from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.changelog_codec import decode_shard
from repertory.bridge.journal import entity_key
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.system.projected import ProjectionTrouble
from repertory.projections.counted import EpochStarts
from repertory.projections.progress import PlacedEvent, ProgressRow, events_to_take

#: How far before the end of a state topic the latest shard record is looked for first: every transaction ends with one.
_LOOK_BACK = 32


class PartitionFeed:
    """The events of one partition, from a progress on. ``events``: those that were read and not taken yet, in order."""

    def __init__(self, system: str, entity: str, partition: int) -> None:
        self.partition = partition
        self.topic, self._state = topics.events_topic(system, entity), topics.state_topic(system, entity)
        self.events: list[PlacedEvent] = []
        self._next, self._seq = 0, -1
        #: At least once: the latest shard record, where its topic is followed from, and what is known of the owners.
        self._shard: ShardRecord | None = None
        self._state_offset = 0
        self._starts: EpochStarts | None = None

    @property
    def is_counted(self) -> bool:
        """Whether the shard records say up to where the journal counts."""
        return self._starts is not None

    @property
    def is_begun(self) -> bool:
        """Whether it knows from where it reads."""
        return self._seq >= 0

    def is_reading(self, topic: str) -> bool:
        """Return whether it goes on with the topic that it followed."""
        return self.is_begun and topic == self.position[0]

    @property
    def position(self) -> tuple[str, int]:
        """The topic that it follows, and the offset from which."""
        return (self._state, self._state_offset) if self.is_counted else (self.topic, self._next)

    def begin(self, reader: Reader, row: ProgressRow) -> None:
        """Read on from a progress, if it is not where this feed is.

        Raises ProjectionTrouble if events before it are gone or the topic is another one, LogError.
        """
        self.events = list(events_to_take(row, self.events))
        if row.seq == (self.events[0].seq if self.events else self._seq):
            return
        self.reset()
        shard, self._state_offset = latest_shard_record(reader, self._state, self.partition)
        self._starts = EpochStarts(row.next) if shard.epoch else None
        self._shard = shard
        low, end = reader.bounds(self.topic, self.partition)
        if shard.seq < row.seq and not shard.epoch:
            raise ProjectionTrouble(
                f"{self.topic}/{self.partition} has {shard.seq} events, and {row.seq} are applied: the log was "
                "restored from an older backup, or emptied; drop the projection and rebuild it"
            )
        if row.next < low == end and shard.seq > row.seq:
            raise self._gap(row.seq, shard.seq, low)
        self._next, self._seq = row.next, row.seq

    def reset(self) -> None:
        """Forget all that was read."""
        self.events, self._seq = [], -1

    def take(self, record: Record) -> None:
        """Take a record of the topic that it follows. Raises ProjectionTrouble where events are missing."""
        if record.topic == self._state:
            self._state_offset = record.offset + 1
            if record.key == SHARD_KEY and record.value is not None:
                self._shard = decode_shard(record.value)
            return
        if record.header(EPOCH) is not None:
            self.reset()  # From the next ``begin`` on, the shard records say what counts.
            return
        self._add(record)
        self._next = record.offset + 1

    def fill(self, reader: Reader, row: ProgressRow, events_max: int) -> None:
        """At least once, read what counts up to the latest shard record. Raises ProjectionTrouble, LogError."""
        shard, starts = self._shard, self._starts
        if starts is None or shard is None or self.events or row.seq >= shard.seq:
            return
        for record in reader.read(self.topic, self.partition, starts.next_offset):
            starts.see(record)
        self._seq = row.seq
        for record in reader.read(self.topic, self.partition, row.next):
            if len(self.events) >= events_max or self._seq >= shard.seq:
                return
            if record.position[0] >= self._seq and starts.counts(record, shard.seq):
                self._add(record)

    def _add(self, record: Record) -> None:
        """Keep the next event."""
        try:
            seq = record.position[0]
            if seq > self._seq:
                raise self._gap(self._seq, seq, record.offset)
            if seq < self._seq:
                raise ProjectionTrouble(
                    f"{record.place} is event {seq} where {self._seq} is next: the topic holds another journal; "
                    "restore it from a backup, or drop the projection and rebuild it"
                )
            self.events.append(PlacedEvent(seq, entity_key(record), record))
        except DecodeError as error:
            raise ProjectionTrouble(f"{record.place} is no event of this system: {error}") from error
        self._seq = seq + 1

    def _gap(self, first: int, then: int, offset: int) -> ProjectionTrouble:
        return ProjectionTrouble(
            f"events {first} to {then - 1} of {self.topic}/{self.partition} are gone: what is left begins at offset "
            f"{offset} with event {then}. Retention or a deleted topic took them, and they cannot be projected: "
            "restore the topic from a backup"
        )


class Feed:
    """The feeds of the partitions of one entity that a projector has. One thread."""

    def __init__(self, system: str, entity: str) -> None:
        self._system, self.entity = system, entity
        self.partitions: dict[int, PartitionFeed] = {}

    def own(self, partition: int) -> None:
        """Begin to feed a partition."""
        self.partitions.setdefault(partition, PartitionFeed(self._system, self.entity, partition))

    def read(
        self, reader: Reader, rows: Mapping[int, ProgressRow], events_max: int, wait_s: float
    ) -> dict[int, ProjectionTrouble]:
        """Read what has been committed of the partitions in ``rows``, which say from where.

        If nothing was, and nothing is left to be applied, waits ``wait_s`` for the first record, and for no other.
        Returns what is wrong with some of them, after which they begin anew. Raises LogError.
        """
        wrong: dict[int, ProjectionTrouble] = {}
        for partition, row in rows.items():
            self._try(wrong, partition, partial(self.partitions[partition].begin, reader, row))
        is_idle = not any(self.partitions[partition].events for partition in rows)
        if not self._follow(reader, rows, wrong, events_max, 0.0) and is_idle and wait_s > 0 and not wrong:
            self._follow(reader, rows, wrong, 1, wait_s)
            self._follow(reader, rows, wrong, events_max, 0.0)
        for partition, row in rows.items():
            if partition not in wrong:
                self._try(wrong, partition, partial(self.partitions[partition].fill, reader, row, events_max))
        return wrong

    def _follow(
        self,
        reader: Reader,
        rows: Mapping[int, ProgressRow],
        wrong: dict[int, ProjectionTrouble],
        events_max: int,
        wait_s: float,
    ) -> bool:
        """Take the records that follow, until a partition has so many events; return whether there were any."""
        by_topic: dict[str, dict[int, int]] = {}
        for partition in rows:
            feed = self.partitions[partition]
            if partition not in wrong and len(feed.events) < events_max and feed.is_begun:
                topic, offset = feed.position
                by_topic.setdefault(topic, {})[partition] = offset
        found = False
        for topic, positions in by_topic.items():
            for record in reader.follow(topic, positions, wait_s / len(by_topic)):
                found, feed = True, self.partitions[record.partition]
                self._try(wrong, record.partition, partial(feed.take, record))
                if wrong or not feed.is_reading(topic) or len(feed.events) >= events_max:
                    break
                if wait_s > 0:
                    return True
        return found

    def _try(self, wrong: dict[int, ProjectionTrouble], partition: int, act: Callable[[], None]) -> None:
        try:
            act()
        except (ProjectionTrouble, DecodeError) as trouble:
            feed = self.partitions[partition]
            wrong[partition] = ProjectionTrouble(f"{feed.topic}/{partition}: {trouble}")
            feed.reset()


def latest_shard_record(reader: Reader, topic: str, partition: int) -> tuple[ShardRecord, int]:
    """Return the latest shard record of a state topic, and the offset behind what was read.

    It is looked for from the end on: only one that nothing was committed to for long is read whole.
    """
    low, end = reader.bounds(topic, partition)
    back, next_offset = _LOOK_BACK, end
    while True:
        start, found = max(low, end - back), None
        for record in reader.read(topic, partition, start):
            if record.key == SHARD_KEY and record.value is not None:
                found = record.value
            next_offset = max(next_offset, record.offset + 1)
        if found is not None:
            return decode_shard(found), next_offset
        if start <= low:
            return first_shard_record(), next_offset
        back *= 8
