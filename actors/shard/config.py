"""What a shard is given to play: its entity, policy, place and bounds, fixed from its start to its end."""

from __future__ import annotations

from collections.abc import MutableSequence

import msgspec

from repertory.actors.context import Directory
from repertory.actors.entity import Behaviour
from repertory.actors.shard.changelog import ShardId
from repertory.supervision.policy import Policy

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly-once", "at-least-once"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one shard; see ``bridge.system.settings.Settings`` for the meaning and reason of each."""

    batch_records_max: int = 1_000
    turn_bytes_max: int = 16_000_000
    mailbox_records_max: int = 4_000
    mailbox_bytes_max: int = 64_000_000
    snapshot_window_records: int = 20_000
    stash_per_key_max: int = 1_000
    stash_per_shard_max: int = 10_000
    output_bytes_max: int = 1_000_000
    deaths_max: int = 3
    dead_letter_overflow: bool = False
    delivery: str = EXACTLY_ONCE
    seen_causes_max: int = 10_000


class ShardConfig(msgspec.Struct, frozen=True):
    """What a shard is given to play: fixed from its start to its end."""

    id: ShardId
    #: The commands topic, for causes, and its partition count, to tell a key that is on the wrong partition.
    topic: str
    partitions: int
    behaviour: Behaviour
    policy: Policy
    directory: Directory
    limits: Limits
    #: The shard's number within its system, and where the command under way is marked (``bridge.node.in_flight``).
    number: int = 0
    in_flight: MutableSequence[int] = msgspec.field(default_factory=lambda: [0, 0, 0])
    #: The run of a node whose memory holds the mark, as shard records name it; empty where no mark outlives a process.
    owner: str = ""
