"""Watch for transactions that stay open for too long: read-committed consumers stop at the first record of one.

librdkafka's statistics contain, for each partition that it fetches, the end (``hi_offset``), the last stable offset
(``ls_offset``: every transaction below it is complete), and the next offset to fetch (``next_offset``). Each producer
sets how long its transactions may stay open; for ours that is ``transaction_timeout_s``.
"""

from __future__ import annotations

import msgspec

from repertory.bridge.log.record import TopicPartition

#: A transaction is aborted a little after its timeout: the coordinator checks every ten seconds by default.
GRACE_S = 15.0
#: A range that is still hidden is reported again after this time.
REPEAT_S = 60.0
_FETCHED = "active"


class _Partition(msgspec.Struct):
    fetch_state: str = ""
    hi_offset: int = -1
    ls_offset: int = -1
    next_offset: int = -1

    def waits_for_transaction(self) -> bool:
        """Return whether everything below the last stable offset was fetched, and the partition goes on after it."""
        return self.fetch_state == _FETCHED and 0 <= self.ls_offset <= self.next_offset < self.hi_offset


class _Topic(msgspec.Struct):
    partitions: dict[str, _Partition] = {}


class _Statistics(msgspec.Struct):
    topics: dict[str, _Topic] = {}


_DECODER = msgspec.json.Decoder(_Statistics)


class Hidden(msgspec.Struct, frozen=True):
    """Records of a partition that no committed reader can read: their offsets, and for how long (seconds)."""

    where: TopicPartition
    first: int
    end: int
    seconds: float


class HiddenWatch:
    """Remembers since when each partition has been waiting for an open transaction."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: dict[TopicPartition, tuple[int, float]] = {}
        self._reported_s: dict[TopicPartition, float] = {}

    def observe(self, statistics: str, now_s: float) -> list[Hidden]:
        """Take librdkafka's statistics; return what has to be reported. ``now_s`` is of the monotonic clock."""
        found = {
            TopicPartition(topic, int(number)): partition
            for topic, known in _DECODER.decode(statistics).topics.items()
            for number, partition in known.partitions.items()
            if partition.waits_for_transaction()
        }
        since = {where: (partition.ls_offset, now_s) for where, partition in found.items()}
        for where, (first, _) in since.items():
            before = self._since.get(where)
            if before is not None and before[0] == first:
                since[where] = before
        self._since = since
        self._reported_s = {where: reported_s for where, reported_s in self._reported_s.items() if where in since}
        hidden = []
        for where, (first, since_s) in since.items():
            due_s = self._reported_s[where] + REPEAT_S if where in self._reported_s else since_s + self._limit_s
            if now_s >= due_s:
                self._reported_s[where] = now_s
                hidden.append(Hidden(where, first, found[where].hi_offset, now_s - since_s))
        return hidden
