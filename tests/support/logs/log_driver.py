"""Drives logs for the contract suite: polls until an event arrives, so that a log may answer at any time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import uuid4

from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import (
    Aborted,
    Appender,
    Assigned,
    Backend,
    Claimed,
    Committed,
    Fenced,
    Log,
    LogEvent,
    Lost,
    Member,
    OutputsRefused,
    Reader,
    TopicSpec,
    Transaction,
)
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.system.settings import Settings

#: A rebalance of a busy broker on a busy machine takes seconds; an event that takes a minute will not arrive.
DEADLINE_S = 60.0
#: For members on Kafka that nobody stops: a machine that stands still for six seconds, the default, ends no session.
PATIENT = Settings(session_timeout_s=30.0)

Event = TypeVar("Event", bound=LogEvent)


class Driver:
    """One member: its log, the events that no test has taken yet, and the shards that are assigned to it."""

    def __init__(self, world: LogHarness, slot: int) -> None:
        self._world, self.slot = world, slot
        self.log = world.open(slot)
        self.pending: list[LogEvent] = []
        self.owned: set[TopicPartition] = set()
        #: A member that is asleep is not polled, like a process that is stopped or busy.
        self.asleep = False
        #: Whether the member is started again when its log gives up, as a supervisor does.
        self.is_supervised = False

    def _polled(self) -> Sequence[LogEvent]:
        try:
            return self.log.poll(0.01)
        except LogUnavailable as error:
            if not self.is_supervised:
                raise
            self.log.abandon()
            self.log = self._world.open(self.slot)
            return [Lost(shard, str(error)) for shard in self.owned]

    def poll(self) -> None:
        """Collect new events."""
        for event in self._polled():
            self.pending.append(event)
            match event:
                case Assigned():
                    self.owned.add(event.shard)
                case Lost() | Fenced():
                    self.owned.discard(event.shard)

    def until(self, kind: type[Event], shard: TopicPartition | None = None) -> Event:
        """Poll all members until this one has an event of a kind (for a shard); remove the event and return it."""

        def found() -> Event | None:
            for event in self.pending:
                if isinstance(event, kind) and shard in (None, event.shard):
                    self.pending.remove(event)
                    return event
            return None

        return self._world.until(found, lambda: f"{kind.__name__} for {shard}, but only {self.pending}")

    def outcome(self, shard: TopicPartition) -> LogEvent:
        """Poll all members until a shard's commit has an outcome, and return it."""

        def found() -> LogEvent | None:
            for event in self.pending:
                if isinstance(event, Committed | Aborted | OutputsRefused | Fenced) and event.shard == shard:
                    self.pending.remove(event)
                    return event
            return None

        return self._world.until(found, lambda: f"an outcome for {shard}, but only {self.pending}")

    def said(self, shard: TopicPartition) -> list[LogEvent]:
        """Return the pending events of a shard."""
        return [event for event in self.pending if event.shard == shard]

    def claimed(self, shard: TopicPartition, *topics: str) -> Claimed:
        """Wait until a shard is assigned, and claim it."""
        self._world.until(lambda: shard in self.owned or None, lambda: f"{shard} among {self.owned}")
        return self.claimed_again(shard, *topics)

    def claimed_again(self, shard: TopicPartition, *topics: str) -> Claimed:
        """Claim a shard that is owned already; its pending events are dropped."""
        self.pending = [event for event in self.pending if event.shard != shard]
        self.log.claim(shard, topics)
        return self.until(Claimed, shard)

    def close(self) -> None:
        """Leave the group."""
        self._world.drivers.remove(self)
        self.log.close()


class LogHarness:
    """One backend with new topics: ``commands``, ``events``, ``state`` of two partitions, and ``control``."""

    def __init__(self, backend: Backend, kind: str) -> None:
        self.backend, self.kind = backend, kind
        self.group = f"t{uuid4().hex[:10]}"
        self.commands, self.events, self.state = (
            f"{self.group}.account.{topic}" for topic in ("commands", "events", "state")
        )
        self.drivers: list[Driver] = []
        self._ports: list[Reader | Appender] = []
        self.appender, self.reader = backend.appender(), backend.reader()
        self._ports += (self.appender, self.reader)

    def make(self, partitions: int = 2) -> None:
        """Create the topics."""
        names = (self.commands, self.events, self.state)
        control = TopicSpec(f"{self.group}.control", 1, {})
        self.backend.ensure([control, *(TopicSpec(name, partitions, {}) for name in names)])

    def shard(self, partition: int = 0) -> TopicPartition:
        """Return the shard of a partition of the commands topic."""
        return TopicPartition(self.commands, partition)

    def shards(self) -> set[TopicPartition]:
        """Return all shards."""
        return {self.shard(partition) for partition in range(self.reader.partition_count(self.commands) or 0)}

    def open(self, slot: int) -> Log:
        """Open the log of a member."""
        return self.backend.log(Member(self.group, "here", slot), [self.commands])

    def join(self, slot: int = 0) -> Driver:
        """Open a member that shares the commands topic. It joins when it is polled."""
        driver = Driver(self, slot)
        self.drivers.append(driver)
        return driver

    def working(self, slot: int = 0, partition: int = 0) -> tuple[Driver, TopicPartition]:
        """Open a member that has claimed one shard."""
        driver, shard = self.join(slot), self.shard(partition)
        driver.claimed(shard)
        return driver, shard

    def until(self, check: Callable[[], Event | bool | None], what: Callable[[], str]) -> Event:
        """Poll all members that are awake until a check returns something, and return it."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not (found := check()):
            assert time.monotonic() < deadline_s, f"waited {DEADLINE_S:g} s for {what()}"
            for driver in self.drivers:
                if not driver.asleep:
                    driver.poll()
        return found  # type: ignore[return-value]  # callers of a check that returns a bool ignore the value

    def settled(self, *drivers: Driver) -> None:
        """Wait until every shard is owned by exactly one of the members, and the shares are even."""

        def even() -> bool:
            owned = [shard for driver in drivers for shard in driver.owned]
            counts = [len(driver.owned) for driver in drivers]
            return sorted(owned) == sorted(self.shards()) and max(counts) - min(counts) <= 1

        self.until(even, lambda: f"even shares, but {[driver.owned for driver in drivers]}")

    def append(self, *values: bytes, topic: str | None = None, partition: int = 0) -> Sequence[int]:
        """Append values as a client."""
        outputs = [Output(topic or self.commands, partition, b"key", value) for value in values]
        return self.appender.append(outputs)

    def read(self, topic: str, partition: int = 0) -> list[Record]:
        """Return all committed records of a partition."""
        return list(self.reader.read(topic, partition))

    def transaction(self, shard: TopicPartition, next_offset: int, *values: bytes) -> Transaction:
        """Return a transaction that appends values to the shard's events."""
        return Transaction(
            shard, next_offset, [Output(self.events, shard.partition, b"key", value) for value in values]
        )

    def close(self) -> None:
        """Close everything that was opened."""
        for driver in [*self.drivers]:
            driver.close()
        for port in self._ports:
            port.close()
        self.backend.close()
