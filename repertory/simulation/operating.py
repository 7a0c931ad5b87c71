"""What the simulated operator does about parked keys and effects, as the command line does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repertory.actors.control import DropEffect, DropParked, RetryEffect, RetryParked
from repertory.actors.message import Command
from repertory.actors.shard.changelog import effect_key

if TYPE_CHECKING:
    from repertory.simulation.cluster import SimulatedCluster
    from repertory.simulation.worker import SimulatedWorker


def operate(cluster: SimulatedCluster, worker: SimulatedWorker) -> str | None:
    """Retry a parked key or drop its first command, or do that to an effect, parked or not; None if there is none.

    What projections have stopped at or parked comes first, and is retried.
    """
    if (retried := cluster.projections.operate()) is not None:
        return retried
    choices = cluster.choices
    parked = [
        (assigned.place, queue[0])
        for assigned in worker.region
        if assigned.shard is not None
        for queue in map(assigned.shard.stash.queue, assigned.shard.stash)
        if queue[0].record.parked
    ]
    effects = [
        (assigned.place, record)
        for assigned in worker.region
        if assigned.shard is not None
        for record in assigned.shard.effects.records.values()
    ]
    if effects and (not parked or choices.below(2, "operate-effect")):
        effects = [found for found in effects if found[1].parked] or effects
        place, record = effects[choices.below(len(effects), "effect-chosen")]
        drops = choices.below(2, "drop")
        cause = {"offset": record.offset, "index": record.index}
        message: Command = DropEffect(**cause, reason="simulated") if drops else RetryEffect(**cause)
        cluster.clients.operate(place, record.key, message)
        if not drops:
            cluster.world.retried.add((place, effect_key(record.offset, record.index)))
        return f"{'drop' if drops else 'retry'} effect {place} {record.key!r}@{record.offset}/{record.index}"
    if not parked:
        return None
    place, first = parked[choices.below(len(parked), "parked")]
    offset, key = first.envelope.offset, first.envelope.key
    drops = choices.below(2, "drop")
    message = DropParked(offset=offset, reason="simulated") if drops else RetryParked(offset=offset)
    cluster.clients.operate(place, key, message)
    return f"{'drop' if drops else 'retry'} {place} {key!r}@{offset}"
