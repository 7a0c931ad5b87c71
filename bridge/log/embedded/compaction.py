"""Compaction of the embedded log, as Kafka does it: the last record of each key stays, at its own offset.

Who writes a partition compacts it, in rounds between its own writes. A pass looks at the records from the end
to the beginning and deletes each one whose key it has met before, so a pass that a crash cuts off has only deleted
what was superseded, and nothing of it has to be remembered. A round reads without a lock: a committed record
never changes, and one that is superseded stays so. Two processes may compact the same partition.

A reader reads in batches, and what it has read of a key may be deleted before it comes to the key's tombstone. So a
tombstone stays for a day after the records before it are gone (Kafka's ``delete.retention.ms``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate, groupby

import msgspec

from repertory.bridge.log.embedded import schema
from repertory.bridge.log.embedded.store import Store
from repertory.bridge.log.record import TopicPartition

#: A pass begins once there are as many records since the last one as that one left, but so many at least. So a pass
#: looks at two records for each that was written, and a restore reads no more than twice what is live, and these.
_DIRTY_MIN = 10_000
#: Records of one round, and bytes of their values: what the write lock is held for. A turn writes half of it.
_ROUND_RECORDS, _ROUND_BYTES = 2_000, 32 << 20
_TOMBSTONES_KEPT_MS = 86_400_000
#: The offset at which a partition that is not compacted is due.
_NEVER = 1 << 63

#: Offset, key, size of the value; a tombstone has none.
_Row = tuple[int, bytes | None, int | None]


class _Cleaned(msgspec.Struct, frozen=True):
    """What the last pass over a partition left, and the partition's end now.

    Below ``offset`` there were ``kept`` records, no two of a key. ``tombstones_offset`` is that of a pass that ended at
    ``tombstones_ms``.
    """

    offset: int
    kept: int
    tombstones_offset: int
    tombstones_ms: int
    end: int

    @property
    def due(self) -> int:
        """The end at which the next pass begins."""
        return self.offset + max(_DIRTY_MIN, self.kept)


class _Pass(msgspec.Struct):
    """A pass under way: it has looked at the records from ``next_below`` up to ``before.end``."""

    before: _Cleaned
    #: Tombstones below are deleted: the records before them have been gone for long.
    tombstones_below: int
    next_below: int
    #: By key, the offset of its last record.
    latest: dict[bytes, int] = {}
    kept: int = 0

    def superseded(self, rows: Iterable[_Row]) -> list[tuple[int, int]]:
        """Look at the next records and return which are to be deleted: the first and the last offset of each run.

        Deleting a run takes a third of the time of deleting its records one by one (measured).
        """
        runs = []
        for goes, run in groupby(rows, self._goes):
            offsets = [offset for offset, _, _ in run]
            if goes:
                runs.append((offsets[-1], offsets[0]))
            else:
                self.kept += len(offsets)
        return runs

    def _goes(self, row: _Row) -> bool:
        offset, key, size_bytes = row
        if key is None:  # Kafka takes no such record.
            return False
        return self.latest.setdefault(key, offset) > offset or (size_bytes is None and offset < self.tombstones_below)


class Compactor:
    """Compacts the partitions that one port writes. One thread, that of the port."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: By partition, the offset from which on a pass may be due; the first write to one asks the log.
        self._due: dict[TopicPartition, int] = {}
        #: The partitions that wait for a pass, the first of them perhaps in one.
        self._waiting: dict[TopicPartition, None] = {}
        self._pass: _Pass | None = None
        self._writes = 0

    def wrote(self, first_offsets: Mapping[TopicPartition, int]) -> None:
        """Note what was appended: the partitions with the first offset of each."""
        for place, offset in first_offsets.items():
            if offset >= self._due.get(place, 0):
                self._waiting[place] = None
        self._writes += 1

    def step(self) -> None:
        """Work one round, and one more for each write since the last step, so that compaction keeps up with them.

        Raises LogUnavailable; the pass is begun anew then.
        """
        rounds, self._writes = self._writes + 1, 0
        while self._waiting and rounds:
            rounds -= 1
            self._round(next(iter(self._waiting)))

    def _round(self, place: TopicPartition) -> None:
        current, self._pass = self._pass or self._begin(place), None
        if current is None:
            del self._waiting[place]
            return
        found = self._store.rows(schema.BACKWARDS, (*place, current.next_below, _ROUND_RECORDS))
        sizes = accumulate(size_bytes or 0 for _, _, size_bytes in found)
        rows = found[: 1 + sum(size_bytes < _ROUND_BYTES for size_bytes in sizes)]
        runs = current.superseded(rows)
        is_over = len(rows) < _ROUND_RECORDS and len(rows) == len(found)
        if runs or is_over:
            with self._store.write() as connection:
                connection.executemany(schema.DELETE, [(*place, *run) for run in runs])
                if is_over:
                    connection.execute(schema.CLEANED, (*self._result(current), *place, current.before.end))
        if is_over:
            del self._waiting[place]
            self._due[place] = current.before.end + max(_DIRTY_MIN, current.kept)
        else:
            current.next_below = rows[-1][0]
            self._pass = current

    def _begin(self, place: TopicPartition) -> _Pass | None:
        """Return a new pass, None if none is due."""
        cleaned = self._cleaned(place)
        self._due[place] = cleaned.due if cleaned else _NEVER
        if cleaned is None or cleaned.end <= cleaned.due:
            return None
        is_old = cleaned.tombstones_ms + _TOMBSTONES_KEPT_MS <= self._store.clock.epoch_ms()
        return _Pass(cleaned, cleaned.tombstones_offset if is_old else 0, cleaned.end)

    def _result(self, done: _Pass) -> tuple[int, int, int, int]:
        """Return what is to be noted of a pass. The mark of the tombstones moves when it has had its effect."""
        end, before = done.before.end, done.before
        if done.tombstones_below or not before.tombstones_offset:
            return end, done.kept, end, self._store.clock.epoch_ms()
        return end, done.kept, before.tombstones_offset, before.tombstones_ms

    def _cleaned(self, place: TopicPartition) -> _Cleaned | None:
        """Return a partition's last pass, None if it is not compacted. An older repertory's file has no such table."""
        if not self._store.rows(schema.HAS_COMPACTION):
            return None
        rows = self._store.rows(schema.COMPACTION_OF, place)
        return _Cleaned(*rows[0]) if rows else None
