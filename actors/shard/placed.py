"""Refuses a command or a query whose key belongs to another shard."""

from __future__ import annotations

from repertory.actors.message import Envelope
from repertory.actors.placement import partition_of
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.turn import Turn


def is_misplaced(config: ShardConfig, envelope: Envelope, turn: Turn) -> bool:
    """Dead-letter a message for a new entity if its key belongs on another partition; return whether it does."""
    key = envelope.key
    if (partition := partition_of(key.encode(), config.partitions)) == config.id.partition:
        return False
    reason = (
        f"key {key!r} belongs on partition {partition}: its producer needs Java's default partitioner (in "
        "librdkafka partitioner=murmur2_random)"
    )
    turn.dead_letter(envelope, "WrongPartition", reason)
    return True
