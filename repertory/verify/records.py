"""``Records``: reads the topics of a system, and reports how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.system.definition import SystemDefinition

#: Progress is reported after so many records.
_SEEN_RECORDS = 500


class Records:
    """Reads topics and reports its progress. ``count`` is the number of records read so far."""

    def __init__(self, reader: Reader, seen: Callable[[int], None]) -> None:
        self.reader = reader
        self._seen = seen
        self.count = 0

    def partitions(self, topic: str) -> Iterator[TopicPartition]:
        """Yield the partitions of a topic."""
        for partition in range(self.reader.partition_count(topic) or 0):
            yield TopicPartition(topic, partition)

    def read(self, topic: str, partition: int) -> Iterator[Record]:
        """Yield all committed records of a partition."""
        count = 0
        for count, record in enumerate(self.reader.read(topic, partition), 1):
            yield record
            if count % _SEEN_RECORDS == 0:
                self._seen(_SEEN_RECORDS)
        self._seen(count % _SEEN_RECORDS)
        self.count += count


def ends_of(records: Records, system: SystemDefinition) -> list[int]:
    """Return the end of each partition of a system: they differ if records were added meanwhile."""
    return [
        records.reader.bounds(*place)[1] for spec in system.topic_specs() for place in records.partitions(spec.name)
    ]


def records_total(reader: Reader, system: SystemDefinition) -> int:
    """Return an upper bound of the records that a verification reads: transaction markers and deleted records count."""
    total = 0
    commands = set(system.commands_topics())
    for spec in system.topic_specs():
        if spec.name == topics.schemas_topic(system.name):
            continue
        for partition in range(reader.partition_count(spec.name) or 0):
            low, high = reader.bounds(spec.name, partition)
            total += (high - low) * (2 if spec.name in commands else 1)
    return total
