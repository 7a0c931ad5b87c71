"""Readiness: from the reports of a node, when all its workers have joined and all their shards are recovered. Pure."""

from __future__ import annotations

from collections import Counter

from repertory.bridge.reports import (
    NodeReport,
    ShardAborted,
    ShardAssigned,
    ShardFailed,
    ShardFenced,
    ShardLost,
    ShardRestored,
    WorkerJoined,
)
from repertory.supervision.process.reports import WorkerExited

#: Otherwise (other nodes have some of the shards) the assignment counts as final when nothing has changed for this
#: long: a rebalance first takes shards away and then assigns them.
SETTLED_S = 3.0


class Readiness:
    """Owned by the reader of a node's reports. ``shards``: how many the system has, on all nodes."""

    def __init__(self, node: str, workers: int, shards: int, started_s: float) -> None:
        self._node, self._workers, self._all = node, workers, shards
        self._started_s = self._changed_s = started_s
        self._joined: set[str] = set()
        #: The shards of this node, and how far each is: None is recovering, False is down.
        self._shards: dict[tuple[str, str], bool | None] = {}
        #: Whether the node was ready once.
        self.reached = False

    def take(self, report: NodeReport) -> None:
        """Take in one report."""
        before = dict(self._shards), len(self._joined)
        match report:
            case WorkerJoined(worker=worker):
                self._joined.add(worker)
            case WorkerExited(worker=worker):
                self._joined.discard(worker)
                self._shards = {each: state for each, state in self._shards.items() if each[0] != worker}
            case ShardAssigned(worker=worker, shard=shard) | ShardAborted(worker=worker, shard=shard):
                self._shards[worker, shard] = None
            case ShardRestored(worker=worker, shard=shard):
                self._shards[worker, shard] = True
            case ShardFailed(worker=worker, shard=shard):
                self._shards[worker, shard] = False
            case ShardLost(worker=worker, shard=shard) | ShardFenced(worker=worker, shard=shard):
                self._shards.pop((worker, shard), None)
            case _:
                pass
        if before != (self._shards, len(self._joined)):
            self._changed_s = report.at_s

    def sentence(self, now_s: float) -> str | None:
        """Return the line that says that the node is ready, once; None before and afterwards."""
        if not self._workers:  # Nothing but projectors.
            self.reached = True
        if self.reached or len(self._joined) < self._workers or None in self._shards.values():
            return None
        if not self._is_balanced() and now_s < self._changed_s + SETTLED_S:
            return None
        self.reached = True
        down = sum(state is False for state in self._shards.values())
        ready = f"{_count(len(self._shards) - down, 'shard')} in {_count(self._workers, 'worker')}"
        also = f"; {_count(down, 'shard')} cannot start" if down else ""
        return f"node {self._node} is ready: {ready}, {self._changed_s - self._started_s:.1f} s{also}"

    def _is_balanced(self) -> bool:
        """Return whether all shards are here and each worker has its share, so that no rebalance is to come."""
        shares = Counter(worker for worker, _ in self._shards)
        share = self._all // max(self._workers, 1)
        return len(self._shards) == self._all and all(shares[worker] >= share for worker in self._joined)


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
