"""What the workers of a run have still to do: the second phase of a run ends when there is nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from repertory.bridge.assigned_shard import ShardPhase

if TYPE_CHECKING:
    from repertory.simulation.cluster import SimulatedCluster


def left_of(cluster: SimulatedCluster) -> str | None:
    """Return a description of something that is still to be done, None if there is nothing."""
    owners: Counter[str] = Counter()
    for worker in cluster.node.workers.values():
        for assigned in worker.region:
            owners[assigned.name] += 1
            if assigned.phase is not ShardPhase.RUNNING or assigned.shard is None:
                return f"shard {assigned.name} of {worker.name} is {assigned.phase.value}"
            if assigned.shard.stash.next_due_ms() is not None:
                return f"shard {assigned.name} of {worker.name} has commands stashed for a restart"
            due_ms = assigned.shard.timers.next_due_ms()
            if due_ms is not None and due_ms <= cluster.clock.epoch_ms():
                return f"shard {assigned.name} of {worker.name} has timers that are due"
            effects = assigned.shard.effects
            if effects.running or effects.has_finished() or effects.startable(cluster.clock.epoch_ms(), 1):
                return f"shard {assigned.name} of {worker.name} has effects under way"
            if assigned.shard.stalled is not None:
                continue
            end = cluster.reader.bounds(assigned.place.topic, assigned.place.partition)[1]
            committed = cluster.reader.committed(cluster.system.name, *assigned.place) or 0
            if committed < end:
                return f"shard {assigned.name} of {worker.name} has handled {committed} of {end} commands"
    if doubled := [name for name, count in owners.items() if count > 1]:  # One of them is not informed yet.
        return f"shard {doubled[0]} has {owners[doubled[0]]} owners"
    total = sum(hosted.partitions for hosted in cluster.system.hosted.values())
    return None if len(owners) == total else f"{len(owners)} of {total} shards have an owner"
