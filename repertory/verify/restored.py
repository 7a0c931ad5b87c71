"""What the next owner of a shard would get: the product's own restore, held against what the log says."""

from __future__ import annotations

from repertory.actors.shard.config import Part
from repertory.actors.shard.shard import Shard
from repertory.bridge.log.port import Claimed, Reader, Replayed
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.recovery import Restoration
from repertory.bridge.region import Role

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
