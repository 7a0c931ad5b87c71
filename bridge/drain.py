"""The end of a worker's loop: what was decided is committed, each shard is handed over, and nothing new is taken.

Phase: the last one, after RUNNING and COMMITTING in ``bridge.loop``; the worker then leaves the group (``Log.close``).
All workers of a node drain at the same time, so the group may assign to one what another has just given up: it is not
claimed. A shard that is still being claimed or restored has decided nothing, and is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

from repertory.actors.shard.turn_result import TurnResult
from repertory.bridge.assigned_shard import UNFINISHED, AssignedShard, ShardPhase
from repertory.bridge.log.clock import Clock
from repertory.bridge.log.port import (
    Assigned,
    Fetched,
    Log,
    LogEvent,
)
from repertory.bridge.region import ShardRegion


class Drain:
    """Drains a loop's shards. ``on``, ``commit`` and ``stop`` are the loop's: for an event, a turn, a dropped shard."""

    def __init__(
        self,
        log: Log,
        region: ShardRegion,
        clock: Clock,
        *,
        on: Callable[[LogEvent], None],
        commit: Callable[[AssignedShard, TurnResult], None],
        stop: Callable[[AssignedShard], None],
        poll_timeout_s: float,
    ) -> None:
        self._log, self._region, self._clock = log, region, clock
        self._on, self._commit, self._stop, self._poll_timeout_s = on, commit, stop, poll_timeout_s

    def run(self, deadline_s: float) -> bool:
        """Wait for the commits in flight, then hand each shard over; False if the deadline passed first."""
        for assigned in self._region:
            if assigned.phase in UNFINISHED:
                self._stop(assigned)
        if not self._answered(deadline_s):
            return False
        for assigned in self._region:
            if assigned.phase is ShardPhase.RUNNING and assigned.shard and (result := assigned.shard.handover_result()):
                self._commit(assigned, result)
        return self._answered(deadline_s)

    def _answered(self, deadline_s: float) -> bool:
        """Accept nothing new until every commit is answered; False if the deadline passed first."""
        while any(assigned.phase is ShardPhase.COMMITTING for assigned in self._region):
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                return False
            for event in self._log.poll(min(left_s, self._poll_timeout_s)):
                if not isinstance(event, Fetched | Assigned):
                    self._on(event)
        return True
