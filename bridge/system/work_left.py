"""What a system has still to do: commands unread or stashed until a restart, timers that are due, commits in flight."""

from __future__ import annotations

from repertory.actors.shard.changelog import ShardId
from repertory.bridge import topics
from repertory.bridge.assigned_shard import ShardPhase
from repertory.bridge.log.port import Reader
from repertory.bridge.region import ShardRegion
from repertory.bridge.system.committed import stashed_commands
from repertory.bridge.system.definition import EntityDefinition, SystemDefinition
from repertory.bridge.system.open_effects import effects_on
from repertory.bridge.system.open_timers import owed_records


def work_left(reader: Reader, system: SystemDefinition, region: ShardRegion, now_ms: int) -> str | None:
    """Describe one thing that is still to be done; None if there is nothing. ``region``: the shards of this process."""
    for hosted in system.hosted.values():
        topic = topics.commands_topic(system.name, hosted.behaviour.name)
        for partition in range(hosted.partitions):
            committed = reader.committed(system.name, topic, partition) or 0
            if any(True for _ in reader.read(topic, partition, committed)):
                return f"commands of {topic}/{partition} from {committed} on"
            if _has_stashed(reader, system, region, hosted, partition):
                return f"commands that are stashed until a restart on {topic}/{partition}"
            if _has_effects(reader, system, region, hosted, partition, now_ms):
                return f"effects that run or are due on {topic}/{partition}"
            if _has_due(reader, system, region, hosted, partition, now_ms):
                return f"timers that are due on {topic}/{partition}"
    for assigned in region:
        if assigned.phase is ShardPhase.COMMITTING:
            return f"shard {assigned.name} has a commit in flight"
    return None


def _has_stashed(
    reader: Reader, system: SystemDefinition, region: ShardRegion, hosted: EntityDefinition, partition: int
) -> bool:
    """Tell whether commands of a shard are stashed until a restart. Its owner knows it; others read it."""
    assigned = region.named(str(ShardId(hosted.behaviour.name, partition)))
    if assigned is not None and assigned.shard is not None:
        return assigned.shard.stash.next_due_ms() is not None
    stashed = stashed_commands(reader, system, hosted.behaviour, partition)
    parked = {command.key for _, command in stashed if command.parked}
    return any(command.key not in parked for _, command in stashed)


def _has_effects(
    reader: Reader, system: SystemDefinition, region: ShardRegion, hosted: EntityDefinition, partition: int, now_ms: int
) -> bool:
    """Tell whether effects of a shard run, have ended, or are due. Its owner knows it; others read it."""
    assigned = region.named(str(ShardId(hosted.behaviour.name, partition)))
    if assigned is None or assigned.shard is None:
        found = effects_on(reader, system, hosted, partition)
        return any(each.record.due_ms <= now_ms and not each.parked for each in found)
    effects = assigned.shard.effects
    due_ms = effects.next_due_ms()
    return bool(effects.running) or effects.has_finished() or (due_ms is not None and due_ms <= now_ms)


def _has_due(
    reader: Reader, system: SystemDefinition, region: ShardRegion, hosted: EntityDefinition, partition: int, now_ms: int
) -> bool:
    """Tell whether a timer of a shard is due and has not fired. Its owner knows it; others read it."""
    assigned = region.named(str(ShardId(hosted.behaviour.name, partition)))
    if assigned is not None and assigned.shard is not None:
        due_ms = assigned.shard.timers.next_due_ms()
    else:
        owed = owed_records(reader, system, hosted, partition).values()
        due_ms = min((each.due_ms for each in owed if not each.fired), default=None)
    return due_ms is not None and due_ms <= now_ms
