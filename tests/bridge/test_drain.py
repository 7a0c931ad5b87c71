"""A worker that is told to stop hands over what it has, and takes nothing new."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from repertory import ActorSystem, Settings
from repertory.bridge import kill_points
from repertory.bridge.assigned_shard import ShardPhase
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Backend, Member
from repertory.bridge.loop import ShardLoop
from repertory.bridge.reports import ShardHandedOver, ShardReport
from repertory.bridge.system.client import Client
from tests.actors.domain import Account, Deposit

SHARDS = 4


class Worker:
    """A worker of a system in memory, whose loop the test drives."""

    def __init__(self, system: ActorSystem, backend: Backend, slot: int) -> None:
        self.log = backend.log(Member(system.name, "node", slot), system.commands_topics())
        region = system.region(system.topology(self.log.partition_count), owner=f"node/{slot}")
        self.is_told = False
        self.reports: list[ShardReport] = []
        self.loop = ShardLoop(
            self.log,
            region,
            SystemClock(),
            poll_timeout_s=0.01,
            report=self.reports.append,
            is_stopping=lambda: self.is_told,
        )

    def phases(self) -> list[ShardPhase]:
        """Return the phases of its shards."""
        return [assigned.phase for assigned in self.loop.region]

    def until(self, phase: ShardPhase, count: int) -> None:
        """Run until so many shards are in a phase."""
        for _ in range(1_000):
            if self.phases().count(phase) == count:
                return
            self.loop.tick(0.0)
        raise AssertionError(f"never {count} shards {phase}: {self.phases()}")

    def leave(self) -> None:
        """Drain, and leave the group."""
        self.is_told = True
        assert self.loop.drain(SystemClock().monotonic_s() + 60.0)
        self.log.close()


@pytest.fixture
def system() -> ActorSystem:
    """A system of four shards."""
    system = ActorSystem("bank", settings=Settings())
    system.host(Account, partitions=SHARDS)
    return system


@pytest.fixture
def backend(system: ActorSystem) -> Iterator[Backend]:
    """A log in memory with a hundred commands."""
    backend = connect("memory:", system.settings)
    system.prepare(backend)
    Client(system, backend).tell_all((Account.deposit, f"a-{n}", Deposit(amount=1)) for n in range(100))
    yield backend
    backend.close()


def reached(worker: Worker, ticks: int) -> list[str]:
    """Return the kill points that a worker reaches in so many ticks."""
    points: list[str] = []
    with kill_points.observed_by(lambda point, _: points.append(point)):
        for _ in range(ticks):
            worker.loop.tick(0.0)
    return points


def test_a_worker_that_was_told_claims_nothing(system: ActorSystem, backend: Backend) -> None:
    """What its sibling gives up in the same stop is assigned to it, and stays unclaimed until it has left too."""
    first, second = Worker(system, backend, 0), Worker(system, backend, 1)
    first.until(ShardPhase.RUNNING, SHARDS)
    for _ in range(10):
        second.loop.tick(0.0)
        first.loop.tick(0.0)
    second.until(ShardPhase.RUNNING, SHARDS // 2)
    first.is_told = True
    second.leave()
    assert "claiming" not in reached(first, 10)
    assert sorted(first.phases(), key=str) == sorted([ShardPhase.RUNNING] * 2 + [ShardPhase.STOPPED] * 2, key=str)
    first.leave()
    third = Worker(system, backend, 2)
    third.until(ShardPhase.RUNNING, SHARDS)
    third.leave()


@pytest.mark.parametrize("phase", [ShardPhase.CLAIMING, ShardPhase.RECOVERING])
def test_a_recovery_under_way_is_dropped(system: ActorSystem, backend: Backend, phase: ShardPhase) -> None:
    """However long it would take: a shard that has decided nothing has nothing to hand over."""
    first = Worker(system, backend, 0)
    first.until(phase, SHARDS)
    points: list[str] = []
    with kill_points.observed_by(lambda point, _: points.append(point)):
        first.leave()
    assert not points
    second = Worker(system, backend, 1)
    second.until(ShardPhase.RUNNING, SHARDS)
    second.leave()


def test_a_commit_under_way_is_awaited(system: ActorSystem, backend: Backend) -> None:
    """What was decided before the stop is committed, and the shard is handed over behind it."""
    first = Worker(system, backend, 0)
    first.until(ShardPhase.COMMITTING, SHARDS)
    first.leave()
    second = Worker(system, backend, 1)
    second.until(ShardPhase.RUNNING, SHARDS)
    assert sum(isinstance(report, ShardHandedOver) for report in second.reports) == SHARDS
    second.leave()
