"""What a user's test reads from a running system: parked keys, dead letters, and published records, on each log."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Self

import pytest

from repertory import (
    ActorSystem,
    Command,
    Context,
    DeadLetter,
    Directive,
    Entity,
    Event,
    Parked,
    PublishedRecord,
    Publishes,
    command,
    event,
    restart,
)
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.bridge.system.running import Running
from repertory.bridge.topics import commands_topic

#: A topic outside the systems of these tests, of this run of the tests: Kafka keeps it.
NEWS = f"news-{uuid.uuid4().hex[:8]}"


class Ship(Command):
    """Ship ``number`` parcels. 13 is a failure that parks the order, 0 one that dead-letters the command."""

    number: int


class Shipped(Event):
    """Parcels were shipped."""

    number: int


class Notice(Event):
    """What the outside hears; no handler names it."""

    text: str


class Parcels(Entity):
    """Ships, and publishes."""

    total: int = 0

    @command
    def ship(self, cmd: Ship, ctx: Context) -> Shipped:
        """Ship, and publish an event, bytes and a notice."""
        if cmd.number == 13:
            raise ValueError("13 parcels are impossible")
        if cmd.number == 0:
            raise KeyError("nothing")
        ctx.publish(NEWS, Shipped(number=cmd.number), key=ctx.key)
        ctx.publish(NEWS, b"\xff%d" % cmd.number)
        ctx.publish(NEWS, Notice(text=f"{cmd.number} left"), key=ctx.key)
        return Shipped(number=cmd.number)

    @event
    def shipped(self, evt: Shipped) -> Self:
        """Count."""
        return self.replace(total=self.total + evt.number)


@pytest.fixture
def running(url: str) -> Iterator[Running]:
    """Run a system of its own, since Kafka keeps the topics of all tests."""
    system = ActorSystem(f"reads-{uuid.uuid4().hex[:8]}", publishes={NEWS: Publishes(partitions=2)})
    policy = restart(on={ValueError: Directive.STOP, KeyError: Directive.RESUME})
    system.host(Parcels, partitions=2, supervise=policy)
    backend = connect(url)
    with Running(system, backend) as running:
        yield running


def test_parked_keys_are_values(running: Running) -> None:
    """A parked key has its command, its failure, and what waits behind it."""
    for number in (1, 13, 2, 3):
        running.client.tell(Parcels.ship, "o-1", Ship(number=number))
    running.settle()
    (found,) = running.parked()
    assert isinstance(found, Parked)
    assert (found.entity, found.key, found.offset, found.behind) == ("parcels", "o-1", 1, 2)
    assert (found.error, found.reason) == ("ValueError", "13 parcels are impossible")
    assert found.message == Ship(number=13)
    assert not found.askers
    assert not running.dead_letters()


def test_dead_letters_are_values(running: Running) -> None:
    """A dead letter has its command, its source and its failure; bytes that are no command have no message."""
    topic = commands_topic(running.system.name, "parcels")
    running.client.tell(Parcels.ship, "o-1", Ship(number=0))
    running.settle()
    running.client._core.appender.append([Output(topic, 0, b"\xff", b"\xc1")])
    running.settle()
    by_key = {letter.key: letter for letter in running.dead_letters()}
    found = by_key.pop("o-1")
    assert isinstance(found, DeadLetter)
    assert (found.error, found.reason, found.attempts) == ("KeyError", "'nothing'", 1)
    assert (found.source_topic, found.source_offset) == (topic, 0)
    assert found.message == Ship(number=0)
    assert by_key.pop("\\xff").message is None
    assert not by_key
    assert not running.parked()


def test_published_records_are_in_the_order_of_their_partitions(running: Running) -> None:
    """Messages of the system are decoded, those that it does not know if their types are given; the rest is bytes."""
    for number in (1, 2):
        running.client.tell(Parcels.ship, "o-1", Ship(number=number))
    running.settle()
    records = [record for record in running.published(NEWS, Notice) if _cause(record, running)]
    assert all(isinstance(record, PublishedRecord) for record in records)
    assert [(record.partition, record.offset) for record in records] == sorted(
        (record.partition, record.offset) for record in records
    )
    keyed = [record.value for record in records if record.key == "o-1"]
    assert keyed == [Shipped(number=1), Notice(text="1 left"), Shipped(number=2), Notice(text="2 left")]
    assert sorted(record.value for record in records if record.key is None) == [b"\xff1", b"\xff2"]
    untold = [record for record in running.published(NEWS) if _cause(record, running)]
    assert {type(record.value) for record in untold} == {Shipped, bytes}


def _cause(record: PublishedRecord, running: Running) -> bool:
    """Return whether a record is of this system: Kafka keeps those of the other tests."""
    return dict(record.headers)["cause"].startswith(running.system.name.encode() + b".")


def test_a_topic_that_does_not_exist_is_named(running: Running) -> None:
    """A misspelt topic is an error, not an empty list."""
    with pytest.raises(LookupError, match=r"there is no topic 'nowse' in this log; .* publishes to "):
        running.published("nowse")
