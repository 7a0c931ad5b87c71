"""``Departures``: the entities that a worker gives up because only a newer build knows what is in their records.

Phase: after RUNNING, for the shards of one entity; compare ``bridge.drain``, which is for all shards of a worker that
stops. What was decided is committed, each shard is closed, and the worker withdraws from the entity's topic: the group
gives the shards to members that still want it. If there are none, the commands wait for the newer build.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from repertory.actors.message import Undecodable, Unknown
from repertory.actors.shard.mailbox import Delivery
from repertory.actors.shard.turn_result import TurnResult
from repertory.bridge.assigned_shard import AssignedShard, ShardPhase
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.port import Log
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.region import ShardRegion
from repertory.bridge.schemas import Kind
from repertory.bridge.worker_log import WorkerLog

#: Names what another build knows; see `Catalogue.known`.
Newer = Callable[[str, Kind, Iterable[Unknown]], Unknown | None]


class Departures:
    """Owned by a loop. ``commit`` and ``stop`` are the loop's: for a turn, and for a shard that is dropped."""

    def __init__(
        self,
        log: Log,
        region: ShardRegion,
        worker_log: WorkerLog,
        newer: Newer,
        *,
        commit: Callable[[AssignedShard, TurnResult], None],
        stop: Callable[[AssignedShard], None],
    ) -> None:
        self._log, self._region, self._worker_log, self._newer = log, region, worker_log, newer
        self._commit, self._stop = commit, stop
        #: The commands topics that are left, and whether the log knows that.
        self._withdrawn: dict[str, bool] = {}
        self._closed: set[TopicPartition] = set()

    def concern(self, assigned: AssignedShard) -> bool:
        """Return whether a shard is given up: it handles nothing, and is not claimed again."""
        return assigned.place.topic in self._withdrawn

    def see(self, assigned: AssignedShard, deliveries: Iterable[Delivery]) -> bool:
        """Return whether a shard is given up, maybe for these commands; those that no build knows are dead letters."""
        strange: dict[Unknown, int] = {}
        for each in deliveries:
            if isinstance(each, Undecodable) and each.unknown is not None:
                strange.setdefault(each.unknown, each.offset)
        if strange and (known := self._newer(assigned.config.id.entity, Kind.TAKEN, strange)) is not None:
            self._begin(assigned, known, f"{assigned.place.topic}/{assigned.place.partition}@{strange[known]}")
        return self.concern(assigned)

    def excuse(self, assigned: AssignedShard, error: Inconsistent) -> bool:
        """Return whether a shard that cannot be restored is given up, because another build can restore it."""
        lacks = error.lacks
        if lacks is None or self._newer(assigned.config.id.entity, lacks.kind, [lacks.unknown]) is None:
            return False
        self._begin(assigned, lacks.unknown, lacks.where)
        return True

    def _begin(self, assigned: AssignedShard, unknown: Unknown, where: str) -> None:
        if not self.concern(assigned):
            self._withdrawn[assigned.place.topic] = False
            self._worker_log.leaves(assigned.hosted.codec.commands, unknown, where)

    def step(self) -> None:
        """Close the shards whose commits are answered; withdraw from a topic once all of its shards are closed."""
        for topic, is_withdrawn in self._withdrawn.items():
            open_shards = [
                assigned
                for assigned in self._region
                if assigned.place.topic == topic and assigned.phase is not ShardPhase.STOPPED
            ]
            for assigned in open_shards:
                if assigned.phase is not ShardPhase.COMMITTING:
                    self._close(assigned)
            if not open_shards and not is_withdrawn:
                self._withdrawn[topic] = True
                self._log.withdraw([topic])

    def _close(self, assigned: AssignedShard) -> None:
        shard = assigned.shard
        if shard is not None and assigned.place not in self._closed:
            self._closed.add(assigned.place)
            if (result := shard.handover_result()) is not None:
                self._commit(assigned, result)
                return
        self._stop(assigned)
