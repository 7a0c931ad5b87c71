"""Committed records for any reader: no group, no ownership."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from confluent_kafka import KafkaException

from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.messages import describe, error_of
from repertory.bridge.log.kafka.ranges import RangeReader
from repertory.bridge.log.record import Record, TopicPartition

#: A committed transaction's markers are written within milliseconds; one that is open for longer was not committed.
MARKERS_WAIT_S = 1.0


class KafkaReader:
    """Implements ``Reader``. The first read creates a consumer, which later reads use again. One thread."""

    def __init__(self, config: KafkaConfig, admin: Admin) -> None:
        self._config = config
        self._admin = admin
        self._idle: list[RangeReader] = []  # more than one only while reads are interleaved
        #: Those that follow a topic, and go on fetching between two calls.
        self._following: dict[str, RangeReader] = {}

    def partition_count(self, topic: str) -> int | None:
        """See ``Reader.partition_count``."""
        return self._admin.partition_count(topic)

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """See ``Reader.topic_ids``."""
        try:
            return self._admin.topic_ids(topics)
        except KafkaException as failure:
            raise _unavailable(failure, "asking for the ids of topics") from None

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See ``Reader.bounds``. The end is the last stable offset."""
        where = TopicPartition(topic, partition)
        self._admin.require(where, "asking for its bounds")
        try:
            return self._admin.low(where), self._admin.stable_end(where)
        except KafkaException as failure:
            raise _unavailable(failure, f"asking for the bounds of {where}") from None

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """See ``Reader.read``. Aborted records and markers at the end do not delay it.

        Everything committed before the call is read. Its markers may be written a little after ``Committed``, so the
        read waits for transactions that look open, ``MARKERS_WAIT_S`` at most.
        """
        where = TopicPartition(topic, partition)
        self._admin.require(where, "reading it")
        try:
            low, end = self._admin.low(where), self._admin.ends([where])[where]
        except KafkaException as failure:
            raise _unavailable(failure, f"asking for the bounds of {where}") from None
        return self._read(where, max(low, from_offset), end)

    def _read(self, where: TopicPartition, start: int, end: int) -> Iterator[Record]:
        if start >= end:
            return
        reader = self._acquire()
        try:
            for records in reader.read(where, start, end, MARKERS_WAIT_S):
                yield from records
        except KafkaException as failure:
            raise _unavailable(failure, f"reading {where}") from None
        finally:
            self._release(reader)

    def follow(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """See ``Reader.follow``."""
        for partition in positions:
            self._admin.require(TopicPartition(topic, partition), "following it")
        return self._follow(topic, dict(positions), timeout_s) if positions else iter(())

    def _follow(self, topic: str, positions: dict[int, int], timeout_s: float) -> Iterator[Record]:
        reader = self._following.pop(topic, None) or self._acquire()
        try:
            yield from reader.follow(topic, positions, timeout_s)
        except KafkaException as failure:
            reader.stop()
            raise _unavailable(failure, f"following {topic}") from None
        finally:
            if topic in self._following:  # Another generator of this topic was faster to end.
                self._release(reader)
            else:
                self._following[topic] = reader

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """See ``Reader.committed``."""
        if partition < 0:  # confluent-kafka would raise ValueError; for another missing partition it returns None
            return None
        try:
            return self._admin.committed(group, TopicPartition(topic, partition))
        except KafkaException as failure:
            raise _unavailable(failure, f"asking for the offsets of {group}") from None

    def close(self) -> None:
        """See ``Reader.close``."""
        while self._idle:
            self._idle.pop().close()
        while self._following:
            self._following.popitem()[1].close()

    def _acquire(self) -> RangeReader:
        return self._idle.pop() if self._idle else RangeReader(self._config, self._admin.low)

    def _release(self, reader: RangeReader) -> None:
        reader.stop()
        self._idle.append(reader)


def _unavailable(failure: KafkaException, doing: str) -> LogUnavailable:
    return LogUnavailable(f"{doing} failed: {describe(error_of(failure))}")
