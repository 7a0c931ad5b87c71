"""What the next owner of a shard would get: the product's own restore, held against what the log says."""

from __future__ import annotations

from actors.part import Part
from actors.shard import Shard
from bridge.log import Claimed, Reader, Replayed
from bridge.record import TopicPartition
from bridge.region import Role
from bridge.restore import Restoration

_BATCH_RECORDS = 1_000


def restored(reader: Reader, source: TopicPartition, role: Role, part: Part, committed: int | None) -> Shard:
    """Restore a shard from its committed records, without taking it. Inconsistent if they contradict themselves."""
    low, high = reader.bounds(*source)
    ends = {topic: reader.bounds(topic, source.partition)[1] for topic in role.codec.restored_topics}
    restoration = Restoration(part, role.codec, Claimed(source, committed, low, high, ends))
    while (wanted := restoration.wanted) is not None:
        batch = []
        for record in reader.read(wanted.topic, source.partition, wanted.from_offset):
            if record.offset >= wanted.to_offset:
                break
            batch.append(record)
            if len(batch) == _BATCH_RECORDS:
                restoration.feed(Replayed(source, wanted.topic, batch, complete=False))
                batch = []
        restoration.feed(Replayed(source, wanted.topic, batch, complete=True))
    return restoration.shard()
