"""``RecoveredShard``: the result of a recovery, with which a shard starts.

Phase: between ``bridge.recovery``, which reads the log, and ``actors.shard.shard``, which handles commands.
"""

from __future__ import annotations

import msgspec

from repertory.actors.shard.answers import AnswerTable
from repertory.actors.shard.cells import Cells
from repertory.actors.shard.changelog import ShardRecord
from repertory.actors.shard.changelog_digest import ChangelogDigest
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.effects import Effects
from repertory.actors.shard.restart_budget import RestartBudget
from repertory.actors.shard.seen_causes import SeenCauses
from repertory.actors.shard.snapshot_window import SnapshotWindow
from repertory.actors.shard.stash import Stash
from repertory.actors.shard.timers import Timers
from repertory.actors.shard.turn_result import Incident


class RecoveredShard(msgspec.Struct, frozen=True):
    """The committed state of one shard. The shard that is made from it owns its parts.

    ``record``: the progress of the shard, also after turns that were written without a transaction. ``end_offset``: the
    end of the commands at the takeover. ``has_group_offset``: whether the group has an offset; without one, progress
    cannot be seen from outside. ``seen``: the messages of other shards; None if the log was only ever written exactly
    once. ``recorded_ms``: when (epoch, by its writer's clock) the shard record was written; 0 if there is none.
    ``incidents``: what the recovery met that an operator should see.
    """

    record: ShardRecord
    cells: Cells
    window: SnapshotWindow
    stash: Stash
    budget: RestartBudget
    digest: ChangelogDigest
    asks: AnswerTable
    timers: Timers
    effects: Effects
    end_offset: int = 0
    has_group_offset: bool = True
    seen: SeenCauses | None = None
    recorded_ms: int = 0
    incidents: tuple[Incident, ...] = ()


def new_shard(config: ShardConfig, record: ShardRecord) -> RecoveredShard:
    """Return a shard without entities that continues from a record."""
    return RecoveredShard(
        record,
        Cells(),
        SnapshotWindow(
            config.limits.snapshot_window_records,
            record.tail_start,
            record.tail_offset,
            config.limits.snapshot_window_bytes_max,
        ),
        Stash(),
        RestartBudget(config.policy.within_s),
        ChangelogDigest(),
        AnswerTable(config.limits, record.answers_horizon_ms, record.auto_horizon_ms),
        Timers(config.limits),
        Effects(config.limits, ordered=config.behaviour.orders_effects),
    )
