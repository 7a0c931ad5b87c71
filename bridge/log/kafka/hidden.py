"""Watch for transactions that stay open for too long: read-committed consumers stop at the first record of one.

librdkafka's statistics tell of each partition that is fetched where it ends (``hi_offset``), up to where every
transaction is decided (``ls_offset``), and from where it fetches (``next_offset``). Whoever writes transactions sets
how long they may stay open; ours is ``transaction_timeout_s``.
"""

from __future__ import annotations

import msgspec

from repertory.bridge.log.record import TopicPartition

#: A transaction is aborted a little after its timeout: the coordinator looks each ten seconds by default.
GRACE_S = 15.0
#: What is still so is said again after this time.
REPEAT_S = 60.0
_FETCHED = "active"


class _Partition(msgspec.Struct):
    fetch_state: str = ""
    hi_offset: int = -1
    ls_offset: int = -1
    next_offset: int = -1

    def offset_in_flight(self) -> bool:
        """Tell whether everything was fetched that is decided, and there is more."""
        return self.fetch_state == _FETCHED and 0 <= self.ls_offset <= self.next_offset < self.hi_offset


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition] = {}


class _Statistics(msgspec.Struct):
    topics: dict[str, _Topic] = {}


_DECODER = msgspec.json.Decoder(_Statistics)


class Hidden(msgspec.Struct, frozen=True):
    """Records of a partition that nobody can read: the offsets, and for how long (seconds)."""

    where: TopicPartition
    first: int
    end: int
    seconds: float


class HiddenWatch:
    """Remembers since when each partition has stood still before an open transaction."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        self._said: dict[TopicPartition, float] = {}

    def look(self, statistics: str, now_s: float) -> list[Hidden]:
        """Take in librdkafka's statistics; return what has to be said. ``now_s`` of the monotonic clock."""
        found = {
            TopicPartition(topic, int(number)): partition
            for topic, known in _DECODER.decode(statistics).topics.items()
            for number, partition in known.partitions.items()
            if partition.offset_in_flight()
        }
        since = {where: (partition.ls_offset, now_s) for where, partition in found.items()}
        for where, (first, _) in since.items():
            before = self._since.get(where)
            if before is not None and before[0] == first:
                since[where] = before
        self._since = since
        self._said = {where: said_s for where, said_s in self._said.items() if where in since}
        hidden = []
        for where, (first, since_s) in since.items():
            due_s = self._said[where] + REPEAT_S if where in self._said else since_s + self._limit_s
            if now_s >= due_s:
                self._said[where] = now_s
                hidden.append(Hidden(where, first, found[where].hi_offset, now_s - since_s))
        return hidden
