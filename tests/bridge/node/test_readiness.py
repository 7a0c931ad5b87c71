"""A node is ready when all its workers have joined and all their shards are recovered, and it says so once."""

from __future__ import annotations

import msgspec

from repertory.bridge.node.readiness import SETTLED_S, Readiness
from repertory.bridge.reports import (
    NodeReport,
    ShardAborted,
    ShardAssigned,
    ShardFailed,
    ShardLost,
    ShardRestored,
    WorkerJoined,
)
from repertory.supervision.process.reports import WorkerExited, WorkerReport

START_S = 100.0


class Node:
    """A node's reports in virtual time."""

    def __init__(self, workers: int, shards: int) -> None:
        self.readiness = Readiness("a", workers, shards, START_S)
        self.now_s = START_S

    def take(self, *reports: WorkerReport, worker: int = 0, after_s: float = 0.5) -> str | None:
        """Take in reports of a worker, some time later, and return what is said then."""
        self.now_s += after_s
        for report in reports:
            named: NodeReport = msgspec.structs.replace(report, worker=f"worker-{worker}", at_s=self.now_s)  # type: ignore[assignment]
            self.readiness.take(named)
        return self.readiness.sentence(self.now_s)


def assigned(*shards: str) -> list[WorkerReport]:
    return [ShardAssigned(shard=shard) for shard in shards]


def restored(*shards: str) -> list[WorkerReport]:
    return [ShardRestored(shard=shard, records=0, seconds=0.0) for shard in shards]


def lost(*shards: str) -> list[WorkerReport]:
    return [ShardLost(shard=shard, reason="rebalance") for shard in shards]


def test_a_node_is_ready_when_its_last_shard_is_recovered() -> None:
    """The time is that from the start to then; it is said once."""
    node = Node(workers=1, shards=2)
    assert node.take(WorkerJoined()) is None
    assert node.take(*assigned("t/0", "t/1"), *restored("t/0")) is None
    assert node.take(*restored("t/1")) == "node a is ready: 2 shards in 1 worker, 1.5 s"
    assert node.readiness.reached
    assert node.take(*restored("t/1"), after_s=99) is None


def test_a_node_waits_for_the_shares_of_its_workers() -> None:
    """The first worker has all shards until the second has joined; a rebalance takes them away before it gives them."""
    node = Node(workers=2, shards=4)
    everything = ("t/0", "t/1", "t/2", "t/3")
    assert node.take(WorkerJoined(), *assigned(*everything), *restored(*everything)) is None
    assert node.take(WorkerJoined(), worker=1) is None
    assert node.take(*lost("t/2", "t/3")) is None
    assert node.take(*assigned("t/2", "t/3"), worker=1) is None
    assert node.take(*restored("t/2", "t/3"), worker=1) == "node a is ready: 4 shards in 2 workers, 2.5 s"


def test_a_node_among_others_is_ready_when_its_assignment_is_final() -> None:
    """Other nodes have the other shards; the assignment is final when nothing has changed for a while."""
    node = Node(workers=2, shards=8)
    node.take(WorkerJoined(), *assigned("t/0"), *restored("t/0"))
    assert node.take(WorkerJoined(), worker=1) is None
    assert node.take(after_s=SETTLED_S - 0.1) is None
    assert node.take(after_s=0.1) == "node a is ready: 1 shard in 2 workers, 1.0 s"


def test_more_workers_than_shards_are_ready_too() -> None:
    """A worker without a share has joined all the same."""
    node = Node(workers=2, shards=1)
    node.take(WorkerJoined(), worker=1)
    node.take(WorkerJoined(), *assigned("t/0"))
    assert node.take(*restored("t/0")) == "node a is ready: 1 shard in 2 workers, 1.5 s"


def test_a_shard_that_cannot_start_is_counted_apart() -> None:
    """The node is ready, and the line says that not all of it is."""
    node = Node(workers=1, shards=2)
    node.take(WorkerJoined(), *assigned("t/0", "t/1"), *restored("t/0"))
    failed = ShardFailed(shard="t/1", error="Inconsistent", reason="gap", next="it stays stopped")
    assert node.take(failed) == "node a is ready: 1 shard in 1 worker, 1.0 s; 1 shard cannot start"


def test_what_starts_over_is_not_ready() -> None:
    """An aborted shard recovers again, and a worker that ended has to join again."""
    node = Node(workers=1, shards=1)
    node.take(WorkerJoined(), *assigned("t/0"))
    aborted = ShardAborted(shard="t/0", reason="rebalance", routine=True, next="it starts over")
    assert node.take(*restored("t/0"), aborted) is None
    assert node.take(*restored("t/0"), WorkerExited(pid=1, how="exit code 70")) is None
    assert node.take(WorkerJoined(), *assigned("t/0")) is None
    assert node.take(*restored("t/0")) is not None
