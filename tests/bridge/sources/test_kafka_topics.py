"""Foreign topics on a real Kafka that change while a source reads them, and topics of the system that refuse it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from repertory import ActorSystem, Running
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.log.record import Output
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.sourcing import read_positions
from repertory.verify import verify
from tests.apps import fed
from tests.apps.fed import Book, line

pytestmark = pytest.mark.kafka

DEADLINE_S = 90.0


class KafkaWorld:
    """A foreign topic of two partitions, and a system that is fed from it."""

    def __init__(self, url: str) -> None:
        name = uuid.uuid4().hex[:8]
        self.url, self.topic = url, f"lines-{name}"
        self.system = fed.made(f"fed-{name}", topic=self.topic)
        self.admin = AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})
        self.make()

    def make(self) -> None:
        """Create the topic."""
        with closing(connect(self.url)) as backend:
            backend.ensure([TopicSpec(self.topic, 2, {})])

    def append(self, *partitions: int) -> None:
        """Append one record to each partition."""
        with closing(connect(self.url)) as backend, closing(backend.appender()) as appender:
            appender.append([Output(self.topic, partition, None, line("a")) for partition in partitions])

    def delete(self, topic: str) -> None:
        """Delete a topic, and wait until it is gone."""
        self.admin.delete_topics([topic])[topic].result()
        until(lambda: topic not in self.admin.list_topics(timeout=10).topics)


@pytest.fixture
def world(kafka_url: str) -> KafkaWorld:
    """Return a world of its own."""
    return KafkaWorld(kafka_url)


@pytest.fixture
def running(world: KafkaWorld) -> Iterator[Running]:
    """Run the system."""
    with world.system.start(world.url) as running:
        running.settle()
        yield running


def until(is_so: Callable[[], bool], running: Running | None = None) -> None:
    """Wait, and work, until something is so."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        if running is None:
            time.sleep(0.05)
        else:
            running.tick(0.05)


def told(running: Running, key: str = "a") -> list[tuple[int, int]]:
    """Return what a book was told: partitions and offsets."""
    book = running.state(Book, key)
    return [] if book is None else [page[:2] for page in book.pages]


def written(running: Running) -> dict[int, str]:
    """Return why partitions have stopped, as their relay has noticed."""
    known = read_positions(running.reader, running.system.name).known
    return {place.partition: each.stopped.what for place, each in known.items() if each.stopped is not None}


def test_a_topic_that_is_created_again_while_it_is_read(world: KafkaWorld, running: Running) -> None:
    """Nothing of the new topic is relayed, although its offsets would fit."""
    for _ in range(3):
        running.produce(world.topic, line("a"), partition=0)
    running.settle()
    world.delete(world.topic)
    until(lambda: set(written(running).values()) == {"gone"}, running)
    world.make()
    running.reader.partition_count(world.topic)
    for _ in range(5):
        running.produce(world.topic, line("a"), partition=0)
    until(lambda: written(running) == {0: "recreated", 1: "recreated"}, running)
    assert told(running) == [(0, 0), (0, 1), (0, 2)]


def test_records_that_retention_took(world: KafkaWorld) -> None:
    """While nothing runs: the position is below what is left, and that partition stops alone."""
    with world.system.start(world.url) as running:
        running.produce(world.topic, line("a"), partition=0)
        running.settle()
    world.append(*[0] * 3)
    place = KafkaPartition(world.topic, 0, 3)
    world.admin.delete_records([place])[place].result()
    with world.system.start(world.url) as running:
        until(lambda: written(running) == {0: "lost"}, running)
        (stopped,) = [each.stopped for each in running.sources() if each.stopped is not None]
        assert f"records 1 to 2 of {world.topic}/0 were taken by retention" in stopped.reason
        running.produce(world.topic, line("b"), partition=1)
        running.settle()
        assert told(running, "b") == [(1, 0)]


def test_partitions_that_are_added_are_read(world: KafkaWorld, running: Running) -> None:
    """From their beginning, within a few seconds."""
    world.admin.create_partitions([NewPartitions(world.topic, 4)])[world.topic].result()
    until(lambda: len(running.sources()) == 4, running)
    world.append(0, 1, 2, 3)
    until(lambda: len(told(running)) == 4, running)
    assert verify(running.reader, world.system).ok


def test_what_the_log_refuses_for_good_becomes_a_dead_letter(world: KafkaWorld) -> None:
    """A command that is larger than its topic takes stops nobody: the records around it are relayed, in order."""
    system = ActorSystem(world.system.name, topic_config={"max.message.bytes": "20000"})
    system.host(Book, partitions=2)
    system.source("lines", world.topic, fed.from_line)
    world.append(*[0] * 30)
    with closing(connect(world.url)) as backend, closing(backend.appender()) as appender:
        appender.append([Output(world.topic, 0, None, line("a", size=30_000))])
    world.append(*[0] * 30)
    with system.start(world.url) as running:
        running.settle()
        assert told(running) == [(0, offset) for offset in range(61) if offset != 30]
        (letter,) = running.dead_letters()
        assert (letter.source, letter.error) == (f"{world.topic}/0@30", "repertory.actors.context.OutputRefused")
        assert letter.record.value == line("a", size=30_000)
        report = verify(running.reader, system)
        assert report.ok, [each for each in report.checks if not each.ok]


def test_a_cluster_that_is_away_holds_up_nobody_else(world: KafkaWorld) -> None:
    """The source of another cluster waits for it, the others go on; the node starts all the same."""
    system = ActorSystem(world.system.name)
    system.host(Book, partitions=2)
    system.source("lines", world.topic, fed.from_line)
    system.source("away", "elsewhere", fed.from_line, cluster="kafka://127.0.0.1:1")
    with system.configured(Settings(connect_timeout_s=1)).start(world.url) as running:
        world.append(0, 0)
        until(lambda: len(told(running)) == 2, running)
        (away,) = [each for each in running.sources() if each.name == "away"]
        assert (away.partition, away.next) == (-1, None)
        assert "elsewhere on kafka://127.0.0.1:1 cannot be asked for" in away.unreadable
