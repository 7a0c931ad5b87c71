"""The configuration of a shard: its entity, policy, partition and bounds. It never changes while the shard exists."""

from __future__ import annotations

from collections.abc import MutableSequence

import msgspec

from repertory.actors.context import Directory
from repertory.actors.entity import Behaviour
from repertory.actors.shard.changelog import Accepted, ShardId
from repertory.supervision.policy import Policy

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly-once", "at-least-once"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one shard, and of its worker's effects; ``bridge.system.settings.Settings`` explains each."""

    batch_records_max: int = 30_000
    careful_records_max: int = 1_000
    turn_bytes_max: int = 16_000_000
    mailbox_records_max: int = 200_000
    mailbox_bytes_max: int = 64_000_000
    snapshot_window_records: int = 20_000
    snapshot_window_bytes_max: int = 256_000_000
    stash_per_key_max: int = 1_000
    stash_per_shard_max: int = 10_000
    output_bytes_max: int = 1_000_000
    deaths_max: int = 3
    dead_letter_overflow: bool = False
    delivery: str = EXACTLY_ONCE
    seen_causes_max: int = 10_000
    answers_kept_s: float = 86_400.0
    answers_per_shard_max: int = 100_000
    ids_ahead_max_s: float = 300.0
    ask_timeout_max_s: float = 120.0
    timers_per_key_max: int = 1_000
    timers_per_shard_max: int = 1_000_000
    timers_per_turn_max: int = 100
    effects_running_max: int = 100
    effects_per_shard_max: int = 100_000

    @property
    def small_batch_max(self) -> int:
        """How many commands a turn handles while one of them may have been the end of a node."""
        return min(self.batch_records_max, self.careful_records_max)


class ShardConfig(msgspec.Struct, frozen=True):
    """The configuration of one shard."""

    id: ShardId
    #: The commands topic, for causes, and its partition count, to detect a key on the wrong partition.
    topic: str
    partitions: int
    behaviour: Behaviour
    policy: Policy
    directory: Directory
    limits: Limits
    #: The shard's number in its system, and the memory that names the command under way (``bridge.node.in_flight``).
    number: int = 0
    in_flight: MutableSequence[int] = msgspec.field(default_factory=lambda: [0, 0, 0])
    #: The run of the node that holds this memory, as shard records name it; empty if no memory outlives the process.
    owner: str = ""
    #: What an operator accepts about the shard, if anything (``bridge.consistency``).
    accepts: Accepted | None = None
    #: Whether the shard only recovers and handles no command.
    recovers_only: bool = False
    #: Whether others follow its events by its shard records: then it writes one soon after turns that wrote none.
    is_projected: bool = False
