"""``OwedReports``: tells the node what the shards of a worker owe to the future: timers and effects, by entity.

Looked at once a second and reported where it has changed, so a worker without timers and effects reports nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from repertory.actors.shard.shard import Shard
from repertory.bridge.region import ShardRegion
from repertory.bridge.reports import EntityOwes

#: Between two looks.
LOOK_S = 1.0


class OwedReports:
    """Owned by the loop of one worker, which calls :meth:`look` after each tick."""

    def __init__(self, region: ShardRegion, report: Callable[[EntityOwes], None]) -> None:
        self._region, self._report = region, report
        self._look_s = 0.0
        #: What was reported last of each entity.
        self._known: dict[str, EntityOwes] = {}

    def look(self, now_s: float, epoch_ms: Callable[[], int]) -> None:
        """Report what has changed, unless the last look was not long ago. ``now_s`` is of a monotonic clock."""
        if now_s < self._look_s:
            return
        self._look_s, now_ms = now_s + LOOK_S, epoch_ms()
        found = {name: EntityOwes(entity=name) for name in self._known}
        for assigned in self._region:
            if (shard := assigned.shard) is not None:
                name = shard.config.id.entity
                found[name] = _with(found.get(name) or EntityOwes(entity=name), shard, now_ms)
        for name, owed in found.items():
            if owed != self._known.get(name, EntityOwes(entity=name)):
                self._known[name] = owed
                self._report(owed)


def _with(owed: EntityOwes, shard: Shard, now_ms: int) -> EntityOwes:
    """Add what one more shard owes."""
    timers, effects = shard.timers, shard.effects
    if not len(timers) and not len(effects):
        return owed
    due_ms = timers.next_due_ms()
    due_s = 0.0 if due_ms is None or due_ms > now_ms else due_ms / 1_000
    return msgspec.structs.replace(
        owed, timers=owed.timers + len(timers), due_s=min(filter(None, (owed.due_s, due_s)), default=0.0),
        effects=owed.effects + len(effects), running=owed.running + len(effects.running),
        parked=owed.parked + effects.parked, not_in_build=owed.not_in_build + len(effects.held),
    )  # fmt: skip
