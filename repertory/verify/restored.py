"""Restore a shard from the log as its next owner does, with the code of the runtime."""

from __future__ import annotations

from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.recovered import RecoveredShard
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.port import Claimed, Reader, Replayed
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.recovery import Recovery

_BATCH_RECORDS = 1_000


def restored(
    reader: Reader, source: TopicPartition, hosted: HostedEntity, config: ShardConfig, committed: int | None
) -> RecoveredShard:
    """Restore a shard from its committed records, without owning it. Raises Inconsistent if they are contradictory."""
    start_offset, end_offset = reader.bounds(*source)
    ends = {topic: reader.bounds(topic, source.partition)[1] for topic in hosted.codec.restored_topics}
    recovery = Recovery(config, hosted.codec, Claimed(source, committed, start_offset, end_offset, ends))
    while (wanted := recovery.wanted) is not None:
        batch = []
        for record in reader.read(wanted.topic, source.partition, wanted.from_offset):
            if record.offset >= wanted.to_offset:
                break
            batch.append(record)
            if len(batch) == _BATCH_RECORDS:
                recovery.feed(Replayed(source, wanted.topic, batch, complete=False))
                batch = []
        recovery.feed(Replayed(source, wanted.topic, batch, complete=True))
    return recovery.recovered()
