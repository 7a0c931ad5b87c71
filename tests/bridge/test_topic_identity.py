"""A topic that was deleted and created again is not taken for the old one: its shards stop and say what to do."""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable
from typing import Self

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from repertory import ActorSystem, Command, Entity, Event, command, event
from repertory.actors.shard.changelog import ShardId
from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import LogError
from repertory.bridge.reports import ShardFailed, ShardReport
from repertory.bridge.system.accept import NotAccepted, adopt
from repertory.bridge.system.client import Client
from repertory.bridge.system.running import NotSettled, Running
from repertory.inspect.nodes import node_records
from repertory.verify import verify


class Add(Command):
    """Add a number."""

    n: int


class Added(Event):
    """A number was added."""

    n: int


class Sum(Entity):
    """Sums what was added."""

    total: int = 0

    @command
    def add(self, cmd: Add) -> Added:
        """Add a number."""
        return Added(n=cmd.n)

    @event
    def added(self, evt: Added) -> Self:
        """Sum."""
        return self.replace(total=self.total + evt.n)


@pytest.fixture
def system() -> ActorSystem:
    """A system of its own, since Kafka keeps the topics of all tests."""
    system = ActorSystem(f"ids-{uuid.uuid4().hex[:8]}")
    system.host(Sum, partitions=1)
    return system


def recreate_in(connection: sqlite3.Connection, system: ActorSystem, topic: str) -> None:
    """Delete a topic of the embedded log by hand, with the group's offsets of it; it is created at the next start."""
    for statement in ("DELETE FROM topic", "DELETE FROM partition", "DELETE FROM record", "DELETE FROM shard"):
        connection.execute(f"{statement} WHERE topic = ?", (topic,))
    connection.execute("UPDATE meta SET membership = membership + 1")
    connection.commit()


def recreate_on_kafka(url: str, system: ActorSystem, topic: str) -> None:
    """Delete a topic as ``kafka-topics.sh`` does, and create it again as a start does."""
    admin = AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})
    admin.delete_topics([topic])[topic].result(30)
    deadline_s = time.monotonic() + 60
    while topic in admin.list_topics(timeout=10).topics:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    while True:
        backend = connect(url)
        try:
            made = system.prepare(backend)
        except (KafkaException, LogError):  # The controller still deletes it.
            made = []
        finally:
            backend.close()
        if topic in made:
            return
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.fixture
def recreate(kind: str, url: str) -> Callable[[Running, str], Running]:
    """Return what stops a system, deletes a topic and creates it again, and starts the system."""

    def recreate(running: Running, topic: str) -> Running:
        system = running.system
        assert isinstance(system, ActorSystem)
        if kind == "memory":  # Memory is gone with its process: only a worker can be stopped.
            recreate_in(running._backend._memory.connection(), system, topic)  # type: ignore[attr-defined]
            system.prepare(running._backend)
            running.crash()
            return running
        running.close()
        if kind == "sqlite":
            connection = sqlite3.connect(url.removeprefix("sqlite:"))
            recreate_in(connection, system, topic)
            connection.close()
        else:
            recreate_on_kafka(url, system, topic)
        return system.start(url)

    return recreate


def send(running: Running, count: int) -> None:
    """Send commands to one key."""
    running.client.tell_all((Sum.add, "k", Add(n=1)) for _ in range(count))


def failure(running: Running) -> str:
    """Work until the shard fails for good, and return why."""
    failed: list[ShardFailed] = []

    def take(report: ShardReport) -> None:
        if isinstance(report, ShardFailed):
            failed.append(report)

    running.report = take
    deadline_s = time.monotonic() + 60
    while not failed:
        assert time.monotonic() < deadline_s, "the shard goes on as if nothing had happened"
        running.tick(0.05)
    running.report = lambda _report: None
    return failed[0].reason


@pytest.mark.parametrize("role", ["commands", "events"])
def test_a_topic_that_is_recreated_under_a_running_shard_stops_it(
    system: ActorSystem, url: str, kind: str, role: str
) -> None:
    """Also if nothing is fetched in between, and the new topic has more records than the old one."""
    with system.start(url) as running:
        send(running, 10)
        running.settle()
        topic = f"{system.name}.sum.{role}"
        if kind == "kafka":
            recreate_on_kafka(url, system, topic)
        elif kind == "memory":
            recreate_in(running._backend._memory.connection(), system, topic)  # type: ignore[attr-defined]
            system.prepare(running._backend)
        else:
            with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:"))) as connection:
                recreate_in(connection, system, topic)
            system.prepare(running._backend)
        with contextlib.closing(connect(url)) as other, contextlib.closing(Client(system, other)) as client:
            (running.client if kind == "memory" else client).tell_all((Sum.add, "k", Add(n=1)) for _ in range(150))
        assert f"{topic} was deleted and created again" in failure(running)


@pytest.mark.parametrize("role", ["commands", "events"])
def test_a_recreated_topic_stops_its_shard(
    system: ActorSystem, url: str, role: str, recreate: Callable[[Running, str], Running]
) -> None:
    """Ten commands are handled, a topic is deleted and created again, fifteen are sent: none is skipped silently."""
    running = system.start(url)
    try:
        send(running, 10)
        running.settle()
        topic = f"{system.name}.sum.{role}"
        running = recreate(running, topic)
        send(running, 15)
        reason = failure(running)
        assert f"{topic} was deleted and created again since this shard wrote its last record" in reason
        assert "commands below 10 were handled" in reason
        assert "repertory topics … --adopt sum/0 --reason …" in reason
        with pytest.raises(NotSettled):
            running.settle(0.0)
        checked = verify(running.reader, system)
        assert not checked.ok
        assert f"{topic} was deleted and created again" in str(checked.checks)
    finally:
        running.close()


def test_a_recreated_state_topic_stops_its_shard(
    system: ActorSystem, url: str, recreate: Callable[[Running, str], Running]
) -> None:
    """It takes the shard record along, and with it all ids; but the group's offset says that there was one."""
    running = system.start(url)
    try:
        send(running, 10)
        running.settle()
        running = recreate(running, f"{system.name}.sum.state")
        send(running, 15)
        assert "has no shard record, but the group has an offset (10)" in failure(running)
    finally:
        running.close()


def test_an_operator_adopts_restored_topics(
    system: ActorSystem, url: str, kind: str, recreate: Callable[[Running, str], Running]
) -> None:
    """With a reason, which stays among the incidents; the shard continues where its record says."""
    running = system.start(url)
    send(running, 10)
    running.settle()
    running = recreate(running, f"{system.name}.sum.commands")
    send(running, 15)
    reason = failure(running)
    if kind == "memory":
        running.close()
        return
    running.close()
    with pytest.raises(ValueError, match="give a reason"):
        adopt(system, connect(url), ShardId("sum", 0), " ")
    assert adopt(system, connect(url), ShardId("sum", 0), "restored from tape 7").endswith("restored from tape 7")
    assert "was deleted" in reason
    with system.start(url) as running:
        running.settle()
        assert running.state(Sum, "k") == Sum(total=15)
        ((operator,), _) = node_records(running.reader, system)
        assert "restored from tape 7" in str(operator)
    with pytest.raises(NotAccepted, match="no topic of sum/0 was created again"):
        adopt(system, connect(url), ShardId("sum", 0), "once more")


def test_adopting_does_not_hide_what_is_lost(
    system: ActorSystem, url: str, kind: str, recreate: Callable[[Running, str], Running]
) -> None:
    """An empty journal is not that of a backup: the shard still refuses to start, and says what is missing."""
    running = system.start(url)
    send(running, 10)
    running.settle()
    running = recreate(running, f"{system.name}.sum.events")
    running.close()
    if kind != "memory":
        with pytest.raises(NotAccepted, match=r"sum/0 cannot go on: .*records are lost"):
            adopt(system, connect(url), ShardId("sum", 0), "restored")
