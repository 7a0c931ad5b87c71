"""Builds of a system beside each other on one log: what an older one does not know waits for a newer one."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from repertory import (
    ActorSystem,
    Command,
    Context,
    Directive,
    Entity,
    Event,
    Raw,
    Running,
    command,
    event,
    restart,
    upcast,
)
from repertory.actors import evolution
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.bridge.reports import IncidentReport, ShardFailed
from repertory.bridge.schemas import Kind, Schema, announce
from repertory.bridge.topics import commands_topic, schemas_topic
from repertory.verify import verify

KEYS = tuple(f"k-{number}" for number in range(8))
PARTITIONS = 3


class OldBuy(Command, name="Buy"):
    """Buy one thing."""

    number: int


class OldBought(Event, name="Bought"):
    """One thing was bought."""

    number: int


class OldCart(Entity, name="Cart"):
    """What the older build has."""

    numbers: tuple[int, ...] = ()

    @command
    def buy(self, cmd: OldBuy, ctx: Context) -> OldBought:
        """Buy; a number below 0 parks the key."""
        if cmd.number < 0:
            raise ValueError(f"out of stock at attempt {ctx.attempt}")
        return OldBought(number=cmd.number)

    @event
    def bought(self, evt: OldBought) -> Self:
        """Remember."""
        return self.replace(numbers=(*self.numbers, evt.number))


class Buy(Command, version=2):
    """Buy some of a thing."""

    number: int
    count: int


class Bought(Event, version=2):
    """Some of a thing was bought."""

    number: int
    count: int


class Cart(Entity, version=2):
    """What the newer build has: its commands, events and states have a version more."""

    numbers: tuple[int, ...] = ()
    total: int = 0

    @command
    def buy(self, cmd: Buy) -> Bought:
        """Buy; a number below 0 parks the key."""
        if cmd.number < 0:
            raise ValueError("out of stock")
        return Bought(number=cmd.number, count=cmd.count)

    @event
    def bought(self, evt: Bought) -> Self:
        """Remember."""
        return self.replace(numbers=(*self.numbers, evt.number), total=self.total + evt.count)


class Put(Command):
    """Put a thing on the shelf."""

    number: int


class Shelf(Entity):
    """Of both builds: no record of it is of a version that one of them lacks."""

    numbers: tuple[int, ...] = ()

    @command
    def put(self, cmd: Put) -> Self:
        """Remember."""
        return self.replace(numbers=(*self.numbers, cmd.number))


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the newer build's upcasters, and no others, for one test."""
    monkeypatch.setattr(evolution, "_steps", {})

    @upcast("Buy", to=2)
    def counted(raw: Raw) -> Raw:
        return {"count": 1, **raw}

    upcast("Bought", to=2)(counted)

    @upcast("Cart", to=2)
    def totalled(raw: Raw) -> Raw:
        return {"total": len(raw["numbers"]), **raw}


@pytest.fixture(autouse=True)
def _upcasters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the newer build's upcasters."""
    register(monkeypatch)


class Builds:
    """Workers of several builds of one system, each driven by the test."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.url, self.name = url, f"shop-{uuid.uuid4().hex[:8]}"
        self.running: list[Running] = []
        self.incidents: list[IncidentReport] = []
        self.failures: list[ShardFailed] = []
        self._stack, self._monkeypatch = ExitStack(), monkeypatch

    def system(self, *entities: type[Entity]) -> ActorSystem:
        """Return a build that hosts these entities."""
        system = ActorSystem(self.name)
        for entity in entities:
            system.host(entity, partitions=PARTITIONS, supervise=restart(on={ValueError: Directive.STOP}))
        return system

    def start(self, *entities: type[Entity]) -> Running:
        """Start a worker of a build."""
        with self._monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda: f"node-{len(self.running)}")
            if Cart not in entities:  # An older build does not have the upcasters of a newer one.
                patch.setattr(evolution, "_steps", {})
            running = self._stack.enter_context(self.system(*entities).start(self.url))
        running.report = self._report
        self.running.append(running)
        return running

    def _report(self, report: object) -> None:
        if isinstance(report, IncidentReport) and report.error == "NewerBuild":
            self.incidents.append(report)
        if isinstance(report, ShardFailed):
            self.failures.append(report)

    def stop(self, running: Running) -> None:
        """Stop one of the workers."""
        running.close()
        self.running.remove(running)

    def until(self, check: Callable[[], bool], what: str) -> None:
        """Drive all workers until something is so."""
        deadline_s = time.monotonic() + 90
        while not check():
            assert time.monotonic() < deadline_s, f"never: {what}; {self.incidents}"
            for running in self.running:
                running.tick(0.01)

    def close(self) -> None:
        """Stop all workers."""
        self._stack.close()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def builds(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builds]:
    """Yield a system without workers, on a log that several can share."""
    is_file = request.param == "sqlite"
    url = f"sqlite:{tmp_path / 'test.db'}" if is_file else str(request.getfixturevalue("kafka_url"))
    builds = Builds(url, monkeypatch)
    yield builds
    builds.close()


def buy(running: Running, numbers: range) -> None:
    """Send a command of a worker's build for each number, to the keys in turn."""
    places = [(number, KEYS[number % len(KEYS)]) for number in numbers]
    if Cart in running.system.hosted:
        running.client.tell_all((Cart.buy, key, Buy(number=number, count=2)) for number, key in places)
    else:
        older = GrownCart if GrownCart in running.system.hosted else OldCart
        running.client.tell_all((older.buy, key, OldBuy(number=number)) for number, key in places)


def bought(running: Running, entity: type[Any] = Cart) -> list[int]:
    """Return the numbers that were bought; those of a key must be in order."""
    states = [running.state(entity, key) for key in KEYS]
    assert all(list(state.numbers) == sorted(state.numbers) for state in states if state), "out of order"
    return sorted(number for state in states if state for number in state.numbers)


def check(running: Running) -> None:
    """Check that nothing was dropped, and that the log is whole as this build sees it."""
    assert running.dead_letters() == []
    assert isinstance(running.system, ActorSystem)
    assert verify(running.reader, running.system).ok


def test_an_older_worker_leaves_an_entity_to_a_newer_one(builds: Builds) -> None:
    """It drops nothing, and the newer one goes on with the older's state."""
    old = builds.start(OldCart)
    buy(old, range(16))
    old.settle(90)
    new = builds.start(Cart)
    builds.until(lambda: 0 < len(new.loop.region) < PARTITIONS, "shards are shared")
    buy(old, range(16, 32))
    buy(new, range(32, 64))
    builds.until(lambda: bought(new) == list(range(64)), "all are handled")
    assert not len(old.loop.region)
    assert [(each.where, each.outcome) for each in builds.incidents] == [
        (commands_topic(builds.name, "cart"), "handed-over")
    ]
    assert "is a 'Buy@2', which this build does not know and another one does" in builds.incidents[0].reason
    assert not builds.failures
    assert sum((new.state(Cart, key) or Cart()).total for key in KEYS) == 32 + 2 * 32
    check(new)


def test_after_a_rollback_newer_commands_wait_for_the_newer_build(builds: Builds) -> None:
    """Nobody handles them meanwhile, nobody drops them, and older ones behind them wait; other entities go on."""
    new = builds.start(Cart, Shelf)
    buy(new, range(8))
    new.settle(90)
    buy(new, range(8, 16))
    builds.stop(new)
    old = builds.start(OldCart, Shelf)
    builds.until(lambda: len(builds.incidents) == 1 and len(old.loop.region) == PARTITIONS, "the cart is left")
    buy(old, range(16, 24))
    old.client.tell_all((Shelf.put, key, Put(number=1)) for key in KEYS)
    builds.until(lambda: all((old.state(Shelf, key) or Shelf()).numbers for key in KEYS), "the shelf is handled")
    again = builds.start(Cart, Shelf)
    builds.until(lambda: bought(again) == list(range(24)), "all are handled")
    assert not builds.failures
    check(again)


def test_a_command_of_a_newer_build_is_no_dead_letter(builds: Builds) -> None:
    """Also the first that the entity ever gets: the catalogue alone tells that another build knows it."""
    new = builds.start(Cart)
    buy(new, range(8))
    assert bought(new) == []
    builds.stop(new)
    old = builds.start(OldCart)
    builds.until(lambda: bool(builds.incidents or old.dead_letters()), "newer commands are met")
    assert old.dead_letters() == []
    assert builds.incidents[0].where == commands_topic(builds.name, "cart")
    assert "cart.commands/" in builds.incidents[0].reason
    again = builds.start(Cart)
    builds.until(lambda: bought(again) == list(range(8)), "all are handled")
    check(again)


def test_a_stashed_command_of_a_newer_build_waits_too(builds: Builds) -> None:
    """A key is parked with a newer command; the older worker leaves its shard instead of stopping it."""
    new = builds.start(Cart)
    new.client.tell(Cart.buy, KEYS[0], Buy(number=-1, count=1))
    builds.until(lambda: len(new.parked()) == 1, "the key is parked")
    builds.stop(new)
    old = builds.start(OldCart)
    builds.until(lambda: len(builds.incidents) == 1 and not len(old.loop.region), "the older worker has no shard")
    assert "stashed command" in builds.incidents[0].reason
    again = builds.start(Cart)
    builds.until(lambda: len(again.loop.region) == PARTITIONS, "the newer one has them")
    assert [parked.key for parked in again.parked()] == [KEYS[0]]
    assert not builds.failures


def test_parked_commands_of_an_older_build_are_upcast(builds: Builds) -> None:
    """From the stash, as from the commands topic: the newer build decides them."""
    old = builds.start(OldCart)
    buy(old, range(-1, 0))
    builds.until(lambda: len(old.parked()) == 1, "the key is parked")
    builds.stop(old)
    new = builds.start(Cart)
    builds.until(lambda: len(new.loop.region) == PARTITIONS, "the newer one has the shards")
    (parked,) = new.parked()
    assert parked.message == Buy(number=-1, count=1)
    check(new)


def test_an_upcaster_that_runs_is_named(builds: Builds) -> None:
    """By the report about a worker that makes no progress: here it asks for itself."""
    old = builds.start(OldCart)
    buy(old, range(1))
    builds.stop(old)
    said: list[str] = []
    evolution._steps.clear()

    @upcast("Buy", to=2)
    def asks(raw: Raw) -> Raw:
        said.append(builds.running[0].loop.region.under_way())
        return {"count": 1, **raw}

    new = builds.start(Cart)
    new.settle(90)
    assert any(each.startswith("upcaster ") and each.endswith("asks (Buy to version 2)") for each in said), said
    assert new.loop.region.under_way() == ""


class GrownBought(Event, name="Bought"):
    """Without a version more: the field is new."""

    number: int
    shop: str = "corner"


class GrownCart(Entity, name="Cart"):
    """One whose event has a field more."""

    numbers: tuple[int, ...] = ()

    @command
    def buy(self, cmd: OldBuy) -> GrownBought:
        """Buy."""
        return GrownBought(number=cmd.number)

    @event
    def bought(self, evt: GrownBought) -> Self:
        """Remember."""
        return self.replace(numbers=(*self.numbers, evt.number))


def test_an_event_with_a_new_field_waits_too(builds: Builds) -> None:
    """The older worker would lose the field from the state: it leaves the shard to the build that has it."""
    grown = builds.start(GrownCart)
    buy(grown, range(8))
    grown.settle(90)
    builds.stop(grown)
    old = builds.start(OldCart)
    builds.until(lambda: len(builds.incidents) == 1 and not len(old.loop.region), "the older worker has no shard")
    assert "is a 'Bought' with the field 'shop'" in builds.incidents[0].reason
    again = builds.start(GrownCart)
    buy(again, range(8, 16))
    builds.until(lambda: bought(again, GrownCart) == list(range(16)), "all are handled")
    assert not builds.failures


class Stray(Command):
    """No build has it."""


def test_a_name_that_no_build_has_is_a_dead_letter(kind: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, as before: nobody waits for it. So is one that an operator has retired."""
    builds = Builds(url, monkeypatch)
    old = builds.start(OldCart)
    stray, retired = msgspec.msgpack.encode({"type": "Stray"}), msgspec.msgpack.encode({"type": "Buy@2", "number": 1})
    backend = old._backend if kind == "memory" else connect(url)
    known = [schema for schema in builds.system(Cart).schemas().values() if schema.name == "Buy@2"]
    schemas = [msgspec.structs.replace(schema, retired=True) for schema in known]
    announce(backend, schemas_topic(builds.name), {schema.key: schema for schema in schemas})
    appender = backend.appender()
    appender.append([Output(commands_topic(builds.name, "cart"), 0, b"k", value, ()) for value in (stray, retired)])
    builds.until(lambda: len(old.dead_letters()) == 2, "both are dead letters")
    assert {letter.error for letter in old.dead_letters()} == {"DecodeError"}
    assert not builds.incidents
    appender.close()
    if kind != "memory":
        backend.close()
    builds.close()


def test_a_build_announces_itself_once(url: str, kind: str) -> None:
    """Each name with its fields, before it joins; a second start of the same build writes nothing."""
    system = ActorSystem(f"shop-{uuid.uuid4().hex[:8]}")
    system.host(Cart, partitions=1)
    backend = connect(url)
    system.prepare(backend)
    for _ in range(2):
        system.announce(backend)
    catalogue = system.catalogue(backend)
    found = {schema.name: schema for schema in catalogue.schemas()}
    assert found["Buy@2"] == Schema("cart", Kind.TAKEN, "Buy@2", {"number": True, "count": True})
    assert found["Cart@2"] == Schema("cart", Kind.STATE, "Cart@2", {"numbers": False, "total": False})
    assert found["Bought@2"].kind is Kind.EVENT
    assert found["Done"].kind is Kind.ANSWER
    reader = backend.reader()
    assert len(list(reader.read(schemas_topic(system.name), 0))) == len(found)
    reader.close()
    catalogue.close()
    backend.close()
