"""Strategies in a running system: which shards restart after a failure, and when a level escalates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import pytest

from repertory import ActorSystem, Backoff, Command, Directive, Entity, Event, Strategy, command, event, restart
from repertory.actors.placement import partition_of
from repertory.bridge.region import RegionEscalated
from repertory.bridge.reports import ShardReport, ShardRestored
from repertory.bridge.system.running import Running


class Tick(Command):
    """Count one, or fail the shard while the test has ``failures`` left."""

    fails: bool = False


class Ticked(Event):
    """One tick was counted."""


LEFT = {"failures": 0}


class First(Entity):
    """Hosted first."""

    ticks: int = 0

    @command
    def tick(self, cmd: Tick) -> Ticked:
        """Fail as often as the test demands."""
        if cmd.fails and LEFT["failures"]:
            LEFT["failures"] -= 1
            raise RuntimeError("the shard cannot go on")
        return Ticked()

    @event
    def ticked(self, evt: Ticked) -> Self:
        """Count."""
        return self.replace(ticks=self.ticks + 1)


class Second(Entity):
    """Hosted second."""

    ticks: int = 0

    @command
    def tick(self, cmd: Tick) -> Ticked:
        """Fail as often as the test demands."""
        if cmd.fails and LEFT["failures"]:
            LEFT["failures"] -= 1
            raise RuntimeError("the shard cannot go on")
        return Ticked()

    @event
    def ticked(self, evt: Ticked) -> Self:
        """Count."""
        return self.replace(ticks=self.ticks + 1)


@contextmanager
def running(
    strategy: Strategy, failures: int, max_restarts: int = 5, default: Directive = Directive.RESTART
) -> Iterator[tuple[Running, list[str]]]:
    """Run both entities on two restored shards each; yield also a list that collects the shards restored afterwards."""
    LEFT["failures"] = failures
    quick = Backoff(first_s=0.001, max_s=0.001)
    system = ActorSystem(
        "strategic",
        shards=restart(max_restarts=max_restarts, backoff=quick, default=default),
        shard_strategy=strategy,
    )
    for entity in (First, Second):
        system.host(entity, partitions=2, supervise=restart(on={RuntimeError: Directive.ESCALATE}))
    with system.start() as run:
        while sum(assigned.shard is not None for assigned in run.loop.region) < 4:
            run.tick()
        restored: list[str] = []

        def note(report: ShardReport) -> None:
            if isinstance(report, ShardRestored):
                restored.append(report.shard)

        run.report = note
        yield run, restored


def key_on(partition: int) -> str:
    """Return a key of one of two partitions."""
    return next(f"k{n}" for n in range(100) if partition_of(f"k{n}".encode(), 2) == partition)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, {"first/1"}),
        (Strategy.REST_FOR_ONE, {"first/1", "second/0", "second/1"}),
        (Strategy.ALL_FOR_ONE, {"first/0", "first/1", "second/0", "second/1"}),
    ],
)
def test_a_failing_shard_restarts_the_siblings_of_its_strategy(strategy: Strategy, expected: set[str]) -> None:
    """Siblings are in the order of host(), then of partition; each command is still handled once."""
    with running(strategy, failures=1) as (run, restored):
        key = key_on(1)
        for number in range(20):
            run.client.tell(First.tick, key, Tick(fails=number == 10))
            run.client.tell(Second.tick, "s", Tick())
        run.settle()
        assert set(restored) == expected
        assert run.state(First, key) == First(ticks=20)
        assert run.state(Second, "s") == Second(ticks=20)


@pytest.mark.parametrize("strategy", Strategy)
def test_resume_restarts_a_shard(strategy: Strategy) -> None:
    """A shard whose state was dropped cannot resume: RESUME restarts it, like a process that has exited."""
    with running(strategy, failures=2, default=Directive.RESUME) as (run, restored):
        for number in range(20):
            run.client.tell(First.tick, key_on(1), Tick(fails=number == 10))
            run.client.tell(Second.tick, "s", Tick())
        run.settle(timeout_s=20)
        assert restored.count("first/1") == 2
        assert run.state(First, key_on(1)) == First(ticks=20)
        assert run.state(Second, "s") == Second(ticks=20)


def test_resume_spends_the_restart_budget_of_a_shard() -> None:
    """Otherwise a shard that always fails at once would restart forever."""
    with running(Strategy.ONE_FOR_ONE, failures=100, max_restarts=3, default=Directive.RESUME) as (run, restored):
        run.client.tell(First.tick, "k", Tick(fails=True))
        with pytest.raises(RegionEscalated, match="the shard cannot go on"):
            run.settle(timeout_s=20)
        assert len(restored) == 3


def test_a_budget_that_is_spent_escalates_with_the_failure_that_spent_it() -> None:
    """After more than max_restarts within within_s the worker stops with the reason."""
    with running(Strategy.ONE_FOR_ONE, failures=100, max_restarts=3) as (run, restored):
        run.client.tell(First.tick, "k", Tick(fails=True))
        with pytest.raises(RegionEscalated, match="the shard cannot go on"):
            run.settle()
        assert len(restored) == 3
        assert LEFT["failures"] == 96
        LEFT["failures"] = 0
        run.crash()
        run.settle()
        assert run.state(First, "k") == First(ticks=1)
