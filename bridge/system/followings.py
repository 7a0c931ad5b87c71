"""``Followings``: the projections of a system that runs in one process, driven between two ticks of its loop."""

from __future__ import annotations

from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.region import ShardRegion
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.work_left import work_left


class Followings:
    """Owned by ``Running``. All projections follow all shards, as this process sees them committed."""

    def __init__(self, system: SystemDefinition, backend: Backend) -> None:
        self._system = system
        self._followings = [each.follow(system, backend) for each in system.projections]

    def step(self) -> bool:
        """Apply what has been committed, a batch at most; return whether anything happened."""
        return sum(each.step() for each in self._followings) > 0

    def left(self, reader: Reader, region: ShardRegion, now_ms: int) -> str | None:
        """Describe one thing that is still to be done, by the shards or by a projection; None if there is nothing."""
        return work_left(reader, self._system, region, now_ms) or self._behind(region)

    def _behind(self, region: ShardRegion) -> str | None:
        """Say what a projection has still to apply of the shards of a region; None if nothing."""
        for assigned in region if self._followings else ():
            shard = assigned.shard
            if shard is not None and assigned.hosted.behaviour.journaled:
                entity, partition = shard.config.id.entity, shard.config.id.partition
                for each in self._followings:
                    if (missing := each.behind(entity, partition, shard.record.seq)) is not None:
                        return missing
        return None

    def close(self) -> None:
        """Release their databases."""
        for each in self._followings:
            each.close()
