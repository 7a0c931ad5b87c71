"""What a system hosts, as its shards need it: each entity with its codec, and the entities that can be addressed."""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence

import msgspec

from repertory.actors.context import Directory
from repertory.actors.entity import Behaviour
from repertory.actors.shard.changelog import Accepted, ShardId
from repertory.actors.shard.config import Limits, ShardConfig
from repertory.bridge.codec import Codec
from repertory.supervision.policy import Policy


class HostedEntity(msgspec.Struct, frozen=True):
    """One hosted entity. ``first_number`` is that of its first shard; ``is_projected``: a projection follows it."""

    behaviour: Behaviour
    codec: Codec
    policy: Policy
    partitions: int
    first_number: int
    is_projected: bool = False


class Topology(msgspec.Struct, frozen=True):
    """The entities of a system by their commands topic, the entities that can be addressed, and each shard's limits."""

    entities: Mapping[str, HostedEntity]
    directory: Directory
    limits: Limits
    #: What an operator accepts about shards (``bridge.system.accept``); with any, all shards only recover.
    accepts: Mapping[ShardId, Accepted] = {}

    def shard_config(
        self, topic: str, partition: int, in_flight: MutableSequence[int] | None = None, owner: str = ""
    ) -> ShardConfig:
        """Return the configuration of the shard of one partition.

        ``in_flight``: memory in which the shard records the command that it is handling; ``owner``: the run of a node
        to which that memory belongs.
        """
        hosted = self.entities[topic]
        shard = ShardId(hosted.behaviour.name, partition)
        return ShardConfig(
            shard, topic, hosted.partitions, hosted.behaviour, hosted.policy,
            self.directory, self.limits, hosted.first_number + partition,
            [0, 0, 0] if in_flight is None else in_flight, owner, self.accepts.get(shard), bool(self.accepts),
            hosted.is_projected,
        )  # fmt: skip
