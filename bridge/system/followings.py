"""``Followings``: the projections of a system that runs in one process, driven between two ticks of its loop."""

from __future__ import annotations

from repertory.actors.shard.changelog import ShardId
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.region import ShardRegion
from repertory.bridge.system.committed import current_record
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
        left = work_left(reader, self._system, region, now_ms)
        return self._behind(reader, region) if left is None and self._followings else left

    def _behind(self, reader: Reader, region: ShardRegion) -> str | None:
        """Say what a projection has still to apply; None if nothing."""
        for hosted in self._system.hosted.values():
            if not self._system.projections.follow(hosted.behaviour.entity):
                continue
            for partition in range(hosted.partitions):
                assigned = region.named(str(ShardId(hosted.behaviour.name, partition)))
                if assigned is not None and assigned.shard is not None:
                    seq = assigned.shard.record.seq
                else:
                    seq = current_record(reader, self._system, hosted.behaviour, partition).seq
                for each in self._followings:
                    if (missing := each.behind(hosted.behaviour.name, partition, seq)) is not None:
                        return missing
        return None

    def close(self) -> None:
        """Release their databases."""
        for each in self._followings:
            each.close()
