"""Sources on every log: each record becomes its commands exactly once and in order, or a dead letter, or a stop."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from repertory import ActorSystem, Route, Running, SourceRecord, SourceStatus, route
from repertory.actors.placement import partition_of
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.errors import TopicMismatch
from repertory.bridge.log.port import Appender, TopicSpec
from repertory.bridge.log.record import Output
from repertory.bridge.sources.position import RETRY, SKIP, SourceRequest, encode_source
from repertory.bridge.system.source_status import sources_left
from repertory.bridge.system.sourcing import SourceRelays, read_positions
from repertory.verify import verify
from tests.apps import fed
from tests.apps.fed import Book, line

#: The bound of each wait, also on a busy machine.
DEADLINE_S = 60.0
PARTITIONS = 3


class World:
    """A foreign topic, a system that is fed from it, and what was written to the topic."""

    def __init__(self, url: str, delivery: str, from_: str = "earliest") -> None:
        name = uuid.uuid4().hex[:12]
        self.url, self.topic, self.delivery = url, f"lines-{name}", delivery
        self.system = fed.made(f"fed-{name}", delivery, self.topic, from_=from_)
        if url != "memory:":
            with closing(connect(url)) as backend:
                backend.ensure([TopicSpec(self.topic, PARTITIONS, {})])

    def start(self, system: ActorSystem | None = None) -> Running:
        """Run it."""
        return (system or self.system).start(self.url)


@pytest.fixture
def world(url: str, delivery: str) -> World:
    """Return a world of its own."""
    return World(url, delivery)


@pytest.fixture
def running(world: World) -> Iterator[Running]:
    """Run the system; at the end its log is whole."""
    with world.start() as running:
        yield running
        report = verify(running.reader, world.system)
        assert report.ok, [check for check in report.checks if not check.ok]


def until(running: Running, is_so: Callable[[], bool], what: str) -> None:
    """Work until something is so."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s, what
        running.tick(0.01)


def pages(running: Running, key: str) -> tuple[tuple[int, int, int], ...]:
    """Return what a book was told."""
    book = running.state(Book, key)
    return () if book is None else book.pages


def stopped(running: Running) -> dict[int, str]:
    """Return the partitions that have stopped, and why."""
    return {each.partition: each.stopped.what for each in running.sources() if each.stopped is not None}


def status(running: Running, partition: int) -> SourceStatus:
    """Return the status of a partition."""
    return next(each for each in running.sources() if each.partition == partition)


def ask(running: Running, partition: int, request: SourceRequest) -> None:
    """Append an operator's request."""
    place = status(running, partition).place
    topic = f"{running.system.name}.sources"
    with closing(connect_again(running)) as appender:
        appender.append([Output(topic, place.relay, place.request_key, encode_source(request))])


def connect_again(running: Running) -> Appender:
    """Return an appender to the log of a running system."""
    return running._backend.appender()


def test_records_become_commands_in_order(world: World, running: Running) -> None:
    """Of one source partition and one key, in the order of the topic; each command once."""
    for number in range(20):
        running.produce(world.topic, line("ab" if number % 3 else "a"), partition=number % 2)
    running.settle()
    for key, expected in (("a", range(20)), ("b", [n for n in range(20) if n % 3])):
        for partition in range(2):
            wanted = [(partition, n // 2, 0 if key == "a" else 1) for n in expected if n % 2 == partition]
            assert [page for page in pages(running, key) if page[0] == partition] == wanted
    assert [each.next for each in running.sources()] == [10, 10, 0]
    assert [each.lag for each in running.sources()] == [0, 0, 0]


def test_a_restart_goes_on_where_it_was(world: World) -> None:
    """Removed and added again, crashed, or stopped in order: no record is relayed twice, and none is left out."""
    with world.start() as running:
        running.produce(world.topic, line("a"), partition=0)
        running.settle()
        if world.url == "memory:":
            running.crash()
            running.produce(world.topic, line("a"), partition=0)
            running.settle()
            assert pages(running, "a") == ((0, 0, 0), (0, 1, 0))
            return
    without = ActorSystem(world.system.name, settings=world.system.settings)
    without.host(Book, partitions=2)
    with world.start(without) as running:
        running.produce(world.topic, line("a"), partition=0)
        running.settle()
        assert pages(running, "a") == ((0, 0, 0),)
    with world.start() as running:
        running.produce(world.topic, line("a"), partition=0)
        running.settle()
        running.crash()
        running.settle()
        assert pages(running, "a") == ((0, 0, 0), (0, 1, 0), (0, 2, 0))


def test_bad_records_become_dead_letters(world: World, running: Running) -> None:
    """They are shown with their bytes and their place in the foreign topic; the records behind them are relayed."""
    running.produce(world.topic, b"\xff", key=b"k", partition=1, headers=(("trace", b"1"),))
    running.produce(world.topic, line("a", "value"), partition=1)
    running.produce(world.topic, line("a"), partition=1)
    running.settle()
    letters = running.dead_letters()
    assert [(each.source, each.record.value, each.key) for each in letters] == [
        (f"{world.topic}/1@0", b"\xff", "k"),
        (f"{world.topic}/1@1", line("a", "value"), None),
    ]
    assert ("trace", b"1") in letters[0].headers
    assert letters[1].reason == "line 1 means nothing"
    assert "from_line" in letters[1].traceback
    assert pages(running, "a") == ((1, 2, 0),)


def test_an_error_stops_its_partition_alone(
    world: World, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named, with its traceback; a crash forgets nothing; once the code is mended, it goes on by itself."""
    monkeypatch.setenv(fed.MENDED, str(tmp_path / "mended"))
    running.produce(world.topic, line("a"), partition=0)
    running.produce(world.topic, line("b", "boom"), partition=0)
    running.produce(world.topic, line("c"), partition=0)
    running.produce(world.topic, line("d"), partition=1)
    until(running, lambda: bool(stopped(running)), "it never stopped")
    running.settle()
    assert (pages(running, "a"), pages(running, "c"), pages(running, "d")) == (((0, 0, 0),), (), ((1, 0, 0),))
    running.crash()
    until(running, lambda: running.tick(0.01) or True, "")
    found = status(running, 0)
    assert found.stopped is not None
    assert (found.next, found.lag, found.stopped.offset) == (1, 2, 1)
    assert found.stopped.error == "RuntimeError"
    assert "out of order" in found.stopped.traceback
    (tmp_path / "mended").touch()
    if world.url == "memory:":
        running.advance(120)
    until(running, lambda: not stopped(running), "it never went on")
    running.settle()
    assert (pages(running, "b"), pages(running, "c")) == (((0, 1, 0),), ((0, 2, 0),))


def test_a_record_can_be_skipped_or_tried_again(
    world: World, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's request is done once, by the relay: a skip of another record than the failing one does nothing."""
    monkeypatch.setenv(fed.MENDED, str(tmp_path / "mended"))
    running.produce(world.topic, line("a", "boom"), partition=0)
    running.produce(world.topic, line("b", "boom"), partition=0)
    running.produce(world.topic, line("c"), partition=0)
    until(running, lambda: bool(stopped(running)), "it never stopped")

    def asked(request: SourceRequest) -> None:
        ask(running, 0, request)
        until(running, lambda: not read_positions(running.reader, running.system.name).requests, "it was not done")

    asked(SourceRequest(SKIP, offset=7))
    assert status(running, 0).next == 0
    asked(SourceRequest(SKIP, "it is wrong", "ann", 1, offset=0))
    until(running, lambda: status(running, 0).next == 1 and bool(stopped(running)), "the next one did not stop")
    (accepted,) = status(running, 0).accepted
    assert (accepted.first, accepted.last, accepted.reason, accepted.who) == (0, 0, "it is wrong", "ann")
    (tmp_path / "mended").touch()
    asked(SourceRequest(RETRY))
    running.settle()
    assert (pages(running, "a"), pages(running, "b"), pages(running, "c")) == ((), ((0, 1, 0),), ((0, 2, 0),))


def test_a_hundred_dead_letters_in_a_row_stop_it(world: World, running: Running) -> None:
    """Also over a crash; no later record becomes one, and a retry allows as many again."""
    for _ in range(110):
        running.produce(world.topic, line("a", "value"), partition=2)
    running.settle()
    assert stopped(running) == {2: "dead-letters"}
    assert len(running.dead_letters()) == 100
    running.crash()
    running.settle()
    assert len(running.dead_letters()) == 100
    ask(running, 2, SourceRequest(RETRY))
    until(running, lambda: len(running.dead_letters()) == 110, "it was not tried again")
    running.settle()
    assert stopped(running) == {}


def test_latest_begins_at_the_end(url: str, delivery: str) -> None:
    """What is there when the source begins is left out; what comes while nothing runs after that is not."""
    world = World(url, delivery, from_="latest")
    if url == "memory:":
        with world.start() as running:
            running.settle()
            running.produce(world.topic, line("a"), partition=0)
            running.settle()
            assert pages(running, "a") == ((0, 0, 0),)
        return
    with closing(connect(url)) as backend, closing(backend.appender()) as appender:
        appender.append([Output(world.topic, 0, None, line("a"))])
        with world.start() as running:
            running.settle()
        appender.append([Output(world.topic, 0, None, line("a"))])
    with world.start() as running:
        running.settle()
        assert pages(running, "a") == ((0, 1, 0),)


def test_a_missing_topic_is_refused_at_the_start(url: str, delivery: str) -> None:
    """The refusal names the topic, the source and the remedy; on ``memory:`` it is made, since nobody else can."""
    name = uuid.uuid4().hex[:12]
    system = fed.made(f"fed-{name}", delivery, f"lines-{name}")
    if url == "memory:":
        with system.start(url) as running:
            assert running.reader.partition_count(f"lines-{name}") == 3
        return
    with pytest.raises(TopicMismatch, match=f"the source lines of fed-{name} reads lines-{name}, and .* create it"):
        system.start(url)


def test_a_source_of_another_topic_needs_another_name(world: World) -> None:
    """Its name is what its records are known by."""
    if world.url == "memory:":
        return
    with world.start() as running:
        running.settle()
    other = World(world.url, world.delivery)
    system = fed.made(world.system.name, world.delivery, other.topic)
    with pytest.raises(TopicMismatch, match=f"has read {world.topic}, and the code says {other.topic}"):
        world.start(system)


def test_two_sources_of_one_topic_each_relay_it(url: str, delivery: str) -> None:
    """Two names are two sources."""
    world = World(url, delivery)
    world.system.source("twins", world.topic, fed.from_line)
    with world.start() as running:
        running.produce(world.topic, line("a"), partition=0)
        running.settle()
        assert pages(running, "a") == ((0, 0, 0), (0, 0, 0))


async def awaits(_record: SourceRecord) -> list[Route]:
    """Return nothing, later."""
    return []


def yields(_record: SourceRecord) -> Iterator[Route]:
    """Yield nothing."""
    yield from ()


def test_a_commands_topic_that_is_gone_is_no_fault_of_a_record() -> None:
    """Nothing becomes a dead letter: the relay tries again until the topic is back."""
    system = fed.made("fed")
    backend = EmbeddedBackend("memory:", system.settings)
    system.prepare(backend)
    relays = SourceRelays(system, backend, SystemClock(), node="here")
    with closing(backend), closing(backend.appender()) as appender, closing(backend.reader()) as reader:
        store = backend._memory
        with store.write() as connection:
            connection.execute("DELETE FROM partition WHERE topic = 'fed.book.commands'")
        appender.append([Output(fed.TOPIC, 0, None, line("a"))] * 3)
        for _ in range(100):
            relays.loop.tick(0.0)
        assert reader.bounds("fed.dead-letters", 0) == (0, 0)
        backend.ensure(system.topic_specs())
        deadline_s = time.monotonic() + DEADLINE_S
        while reader.bounds("fed.book.commands", partition_of(b"a", 2))[1] < 3:
            assert time.monotonic() < deadline_s
            relays.loop.tick(0.0)
        relays.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Bad Name", "t"), "a name has 1 to 100 lower-case letters"),
        (("lines", "t"), "is declared twice"),
        (("new", "a topic"), "a topic's name has 1 to 249 letters"),
        (("new", "fed.book.events"), "the system's own"),
        (("new", "__consumer_offsets"), "Kafka's own"),
        (("new", "t", "no function"), "give the function that takes a SourceRecord"),
        (("new", "t", awaits), "is async, or yields; make it a plain def"),
        (("new", "t", yields), "is async, or yields; make it a plain def"),
        (("new", "t", fed.from_line, {"from_": "middle"}), '"earliest" or "latest"'),
        (("new", "t", fed.from_line, {"cluster": "memory:"}), "cluster is the URL of a log"),
        (("new", "t", fed.from_line, {"kafka_config": "x"}), "kafka_config is for another cluster"),
    ],
)
def test_what_cannot_be_a_source_is_refused(arguments: tuple[Any, ...], words: str) -> None:
    """With one sentence that names it, when the system is defined."""
    name, topic, decode, more = (*arguments, *(fed.from_line, {})[len(arguments) - 2 :])
    with pytest.raises(ValueError, match=words):
        fed.made("fed").source(name, topic, decode, **more)


def test_a_route_is_checked_where_it_is_made() -> None:
    """A mistake of the code is a TypeError, a wrong key a ValueError."""
    note = fed.Note(partition=0, offset=0, index=0)
    with pytest.raises(TypeError, match="does not take Noted"):
        route(Book.note, "a", fed.Noted(partition=0, offset=0, index=0))  # type: ignore[arg-type, misc]
    with pytest.raises(TypeError, match="is not a @command method"):
        route(Book.noted, "a", note)  # type: ignore[arg-type, misc]
    with pytest.raises(ValueError, match="a key has 1 to 255 bytes"):
        route(Book.note, "", note)


def test_positions_that_are_lost_are_not_begun_anew(tmp_path: Path) -> None:
    """The topic of the positions was deleted: to begin again would relay all records a second time."""
    world = World(f"sqlite:{tmp_path / 'fed.db'}", "exactly-once")
    with world.start() as running:
        running.produce(world.topic, line("a"), partition=0)
        running.settle()
    with closing(sqlite3.connect(tmp_path / "fed.db")) as file, file:
        file.execute("DELETE FROM record WHERE topic = ?", (f"{world.system.name}.sources",))
    with world.start() as running:
        for _ in range(200):
            running.tick(0.0)
        assert pages(running, "a") == ((0, 0, 0),)
        assert running.sources()[0].next is None
        assert "is lost: restore that topic from a backup" in running.sources()[0].unreadable


def test_positions_that_are_committed_as_they_are_looked_at_are_not_lost() -> None:
    """Neither for operators, nor for ``settle``: the relay's first commit comes after its positions were read."""
    world = World("memory:", "exactly-once")
    with world.start() as running:
        running.produce(world.topic, line("a"), partition=0)
        reader, committed = running.reader, running.reader.committed

        def late(group: str, topic: str, partition: int) -> int | None:
            until(running, lambda: committed(group, topic, partition) is not None, "the first commit")
            return committed(group, topic, partition)

        reader.committed = late  # type: ignore[method-assign]
        assert [each.unreadable for each in running.sources()] == [""] * len(running.sources())
        assert sources_left(reader, world.system, running._source_logs) is None
