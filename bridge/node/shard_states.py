"""Which shards of a node serve no commands now, and why, from the reports of its workers."""

from __future__ import annotations

from collections.abc import Mapping

from repertory.bridge.reports import (
    NodeReport,
    ShardAborted,
    ShardAssigned,
    ShardFailed,
    ShardFenced,
    ShardLost,
    ShardRestored,
    ShardRestoring,
)
from repertory.supervision.process.reports import NodeStopped, WorkerExited, WorkerKilled

#: A reason is cut to this length, and all together to the second: the reasons of a thousand shards are in one record.
_REASON_CHARS_MAX, _REASONS_CHARS_MAX = 200, 3_000


class ShardStates:
    """The shards of one node that are assigned to a worker and do not serve. Owned by the node's status."""

    def __init__(self) -> None:
        #: Shard -> its worker and its state.
        self._down: dict[str, tuple[str, str]] = {}

    def take(self, report: NodeReport) -> bool:
        """Take in a report; return whether a state has changed."""
        before = dict(self._down)
        match report:
            case ShardAssigned(shard=shard) | ShardRestoring(shard=shard):
                self._down[shard] = report.worker, "recovering"
            case ShardAborted(shard=shard, reason=reason):
                self._down[shard] = report.worker, f"starts over: {reason}"[:_REASON_CHARS_MAX]
            case ShardFailed(shard=shard, reason=reason):
                self._down[shard] = report.worker, f"failed: {reason}"[:_REASON_CHARS_MAX]
            case ShardRestored(shard=shard):
                self._down.pop(shard, None)
            case ShardFenced(shard=shard) | ShardLost(shard=shard):
                # Of a shard that moves between two workers of the node, the reports may come in either order.
                if shard in self._down and self._down[shard][0] == report.worker:
                    del self._down[shard]
            case WorkerExited(worker=gone) | WorkerKilled(worker=gone):
                self._down = {name: (worker, state) for name, (worker, state) in self._down.items() if worker != gone}
            case NodeStopped():
                self._down.clear()
            case _:
                return False
        return self._down != before

    def shown(self) -> Mapping[str, str]:
        """Return the state of each shard that does not serve."""
        shown, left = {}, _REASONS_CHARS_MAX
        for name, (_, state) in self._down.items():
            shown[name] = state if len(state) <= left else state.partition(":")[0]
            left -= len(state)
        return shown
