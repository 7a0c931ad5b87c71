"""What a system has still to do: commands unread or stashed until a restart, timers that are due, commits in flight."""

from __future__ import annotations

from repertory.actors.shard.changelog import ShardId
from repertory.actors.shard.effect_builds import lacking
from repertory.actors.shard.shard import Shard
from repertory.bridge import topics
from repertory.bridge.assigned_shard import ShardPhase
from repertory.bridge.log.port import Reader
from repertory.bridge.region import ShardRegion
from repertory.bridge.system.committed import stashed_commands
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.bridge.system.open_effects import effects_on
from repertory.bridge.system.open_timers import owed_records

_STASHED = "commands that are stashed until a restart"
_EFFECTS = "effects that run or are due"
_TIMERS = "timers that are due"


def work_left(reader: Reader, system: SystemDefinition, region: ShardRegion, now_ms: int) -> str | None:
    """Describe one thing that is still to be done; None if there is nothing. ``region``: the shards of this process."""
    for hosted in system.hosted.values():
        topic = topics.commands_topic(system.name, hosted.behaviour.name)
        for partition in range(hosted.partitions):
            committed = reader.committed(system.name, topic, partition) or 0
            if any(True for _ in reader.read(topic, partition, committed)):
                return f"commands of {topic}/{partition} from {committed} on"
            assigned = region.named(str(ShardId(hosted.behaviour.name, partition)))
            if assigned is not None and assigned.shard is not None:
                left = _left_by_owner(assigned.shard, now_ms)
            else:
                left = _left_by_log(reader, system, hosted, partition, now_ms)
            if left is not None:
                return f"{left} on {topic}/{partition}"
    for assigned in region:
        if assigned.phase is ShardPhase.COMMITTING:
            return f"shard {assigned.name} has a commit in flight"
    return None


def _left_by_owner(shard: Shard, now_ms: int) -> str | None:
    """Describe what a shard of this process has still to do besides its unread commands."""
    if shard.stash.next_due_ms() is not None:
        return _STASHED
    effects = shard.effects
    if effects.running or effects.has_finished() or _is_due(effects.next_due_ms(), now_ms):
        return _EFFECTS
    if _is_due(shard.timers.next_due_ms(), now_ms):
        return _TIMERS
    return _EFFECTS if _is_due(shard.next_due_ms(), now_ms) else None  # Their records say something else of this build.


def _left_by_log(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, now_ms: int
) -> str | None:
    """Describe the same of a shard that this process does not own, as far as its records show it."""
    stashed = stashed_commands(reader, system, hosted.behaviour, partition)
    parked = {command.key for _, command in stashed if command.parked}
    if any(command.key not in parked for _, command in stashed):
        return _STASHED
    effects = [each.record for each in effects_on(reader, system, hosted, partition)]
    due = [each for each in effects if each.due_ms <= now_ms and not each.parked]
    if any(not each.not_in_build or lacking(each, hosted.behaviour) is None for each in due):
        return _EFFECTS
    owed = owed_records(reader, system, hosted, partition).values()
    return _TIMERS if any(each.due_ms <= now_ms and not each.fired for each in owed) else None


def _is_due(due_ms: int | None, now_ms: int) -> bool:
    return due_ms is not None and due_ms <= now_ms
