"""The snapshot window: when each entity is snapshotted, and from where the journal must be replayed.

Rule: an entity is snapshotted just before its oldest journal record that is in no snapshot leaves the last ``size``
records. The size grows with the number of entities: with fewer records than entities, each command would write a
snapshot. So each record below ``tail_start`` is in a snapshot that was committed no later than that ``tail_start``,
which never moves back. A restore reads the snapshots and at most ``size`` records plus one turn.
"""

from __future__ import annotations

from collections import deque

#: Journal records in the window for each entity. More of them make restores longer, fewer make commands write more
#: snapshots; docs/performance.rst has both curves.
RECORDS_PER_ENTITY = 2
#: About how many journal records in the window have a known offset. A restore begins at one of them.
_PLACES = 256
#: By how many records the window becomes shorter in one turn: each may make a snapshot due, in that transaction.
_SHRINK_MAX = 1_000
#: Over how many turns the size of a record is averaged.
_RECENT_TURNS = 16


class SnapshotWindow:
    """Owned by its shard. ``seq`` numbers are the shard's, contiguous over its journal."""

    __slots__ = ("_bytes_max", "_ended", "_offsets", "_oldest", "_record_bytes", "_size_min", "size")

    def __init__(self, size: int, tail_start: int, tail_offset: int, bytes_max: int = 1) -> None:
        """``size``: the least; it grows up to ``bytes_max`` of records."""
        assert size > 0, size
        self.size = self._size_min = size
        self._bytes_max, self._record_bytes = bytes_max, 0.0
        #: Key -> seq of its oldest record that is in no snapshot, in seq order (a dict keeps insertion order).
        self._oldest: dict[str, int] = {}
        #: Key -> seq of the last record of a life whose end is recorded in the state topic, in seq order.
        self._ended: dict[str, int] = {}
        #: (seq, offset) of journal records with a known offset, ascending; the first is at or below the tail.
        self._offsets: deque[tuple[int, int]] = deque([(tail_start, tail_offset)])

    def resize(self, entities: int, records: int, size_bytes: int) -> None:
        """Fit the size to the number of entities; a turn has written ``records``, of ``size_bytes`` at most."""
        if records:
            last, mean = size_bytes / records, self._record_bytes
            self._record_bytes = last if not mean else mean + (last - mean) / _RECENT_TURNS
        most = int(self._bytes_max / max(1.0, self._record_bytes))  # Before the first record its size is not known.
        wanted = max(self._size_min, min(RECORDS_PER_ENTITY * entities, most))
        self.size = max(wanted, self.size - _SHRINK_MAX)

    def wrote(self, key: str, seq: int) -> None:
        """Note a journal record of ``key``. A key whose life had ended has a new one, and must not be forgotten."""
        if key not in self._oldest:
            self._oldest[key] = seq
            self._ended.pop(key, None)

    def snapshotted(self, key: str) -> None:
        """Note that the state record of this turn contains all of the key's records so far."""
        self._oldest.pop(key, None)
        self._ended.pop(key, None)

    def ended(self, key: str, seq: int) -> None:
        """Note that the state record of this turn records the end of the life whose last record is ``seq``."""
        self._oldest.pop(key, None)
        self._ended.pop(key, None)
        self._ended[key] = seq

    def due(self, next_seq: int) -> list[str]:
        """Return the keys to snapshot in the turn that ends before ``next_seq``, oldest first."""
        keys = []
        for key, seq in self._oldest.items():
            if seq >= next_seq - self.size:
                break
            keys.append(key)
        return keys

    def forgettable(self, tail_start: int) -> list[str]:
        """Return the ended keys whose journal records are all below the tail: a tombstone for them is safe."""
        keys = []
        for key, seq in self._ended.items():
            if seq >= tail_start:
                break  # A key behind it may be below the tail already: it is forgotten in a later turn.
            keys.append(key)
        return keys

    def forgotten(self, key: str) -> None:
        """Note that the key's tombstone is written."""
        self._ended.pop(key, None)

    def tail_start(self, next_seq: int) -> int:
        """Return the seq from which a restore must replay."""
        return next(iter(self._oldest.values()), next_seq)

    def placed(self, seq: int, offset: int) -> None:
        """Note the journal offset of the record ``seq``: the first of a committed turn, or read in a replay."""
        if seq > self._offsets[-1][0] + self.size // _PLACES:
            self._offsets.append((seq, offset))

    def tail_offset(self, tail_start: int) -> int:
        """Return a journal offset at or below that of the record ``tail_start``; a restore begins there."""
        while len(self._offsets) > 1 and self._offsets[1][0] <= tail_start:
            self._offsets.popleft()
        return self._offsets[0][1]
