"""``View`` on every log: it shows what is committed, waits for a position, and names what it cannot read."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any, Self

import msgspec
import pytest

from repertory import ActorSystem, Command, Entity, Event, Position, Running, Settings, View, ViewFailed, command, event
from repertory.actors.entity import resolved
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.replica import JournaledReplica, Overtaken, Unreadable
from tests.actors.domain import Account, Bag, Close, Deposit, Put, Router, Split, Teller, Trip

PARTITIONS = 2


@pytest.fixture(params=["exactly-once", "at-least-once"])
def running(url: str, request: pytest.FixtureRequest) -> Iterator[Running]:
    """Run a system of its own, with a small window: some states are in snapshots, some in the journal's tail."""
    settings = Settings(delivery=request.param, snapshot_window_records=4, snapshot_window_bytes_max=1)
    system = ActorSystem(f"view-{uuid.uuid4().hex[:8]}", settings=settings)
    for entity in (Account, Bag, Teller, Router):
        system.host(entity, partitions=PARTITIONS)
    with Running(system, connect(url, settings)) as running:
        yield running


def position(running: Running, entity: type[Entity], key: str) -> Position:
    """Return how far the shard of a key is in memory, once it has settled."""
    running.settle()
    name, partition = resolved(entity).name, partition_of(key.encode(), PARTITIONS)
    assigned = running.loop.region.named(f"{name}/{partition}")
    assert assigned is not None and assigned.shard is not None
    return Position(name, partition, assigned.shard.record.seq)


def test_a_view_shows_what_was_committed_before_and_after_it_began(running: Running) -> None:
    """Restored from snapshots and the tail of the journal, then fed by the journal; each wait ends at its position."""
    for number in range(20):
        running.client.tell(Account.deposit, f"k{number % 5}", Deposit(amount=number))
    running.client.tell(Account.deposit, "gone", Deposit(amount=1))
    running.client.tell(Account.close, "gone", Close())
    running.settle()
    with running.client.view(Account) as view:
        for number in range(5):
            key = f"k{number}"
            assert view.get(key, at_least=position(running, Account, key)) == running.state(Account, key)
        assert view.get("gone", at_least=position(running, Account, "gone")) is None
        assert view.get("never") is None
        for amount in (100, 200):
            running.client.tell(Account.split, "k1", Split(amounts=(amount, 1)))
            found = view.get("k1", at_least=position(running, Account, "k1"))
            assert found == running.state(Account, "k1")
        running.client.tell(Account.close, "k1", Close())
        assert view.get("k1", at_least=position(running, Account, "k1")) is None
        running.client.tell(Account.deposit, "k1", Deposit(amount=3))
        assert view.get("k1", at_least=position(running, Account, "k1")) == Account(balance=3)


def test_a_view_of_a_stateful_entity_follows_its_states(running: Running) -> None:
    """Its positions count state records. A state that could be changed in place is the caller's own."""
    after = next(key for key in "abcdefgh" if partition_of(key.encode(), PARTITIONS) == partition_of(b"t", PARTITIONS))
    running.client.tell(Bag.put, "b", Put(item="pen"))
    running.settle()
    with running.client.view(Bag) as view:
        found = view.get("b", at_least=position(running, Bag, "b"))
        assert found == Bag(items=["pen"])
        found.items.append("mine")
        running.client.tell(Bag.put, "b", Put(item="ink"))
        assert view.get("b", at_least=position(running, Bag, "b")) == Bag(items=["pen", "ink"])
    with running.client.view(Teller) as tellers:
        running.client.tell(Teller.trip, "t", Trip(times=0))
        assert tellers.get("t", at_least=position(running, Teller, "t")) == Teller(asked=100)
        # The end of a stateful entity has no seq: the position of the next command of the shard is behind it.
        running.client.tell(Teller.close, "t", Close())
        running.client.tell(Teller.trip, after, Trip(times=0))
        assert tellers.get("t", at_least=position(running, Teller, after)) is None


def test_after_a_crash_a_view_goes_on(running: Running) -> None:
    """A new owner continues the journal; at least once, under a new epoch."""
    with running.client.view(Account) as view:
        for amount in (1, 2, 3):
            running.client.tell(Account.deposit, "a", Deposit(amount=amount))
            assert view.get("a", at_least=position(running, Account, "a")) == running.state(Account, "a")
            running.crash()
        running.client.tell(Account.deposit, "a", Deposit(amount=4))
        assert view.get("a", at_least=position(running, Account, "a")) == Account(balance=10)


def test_a_wait_ends_when_the_position_is_committed(running: Running) -> None:
    """``get`` blocks until then, and any thread may call it."""
    running.client.tell(Account.deposit, "a", Deposit(amount=1))
    before = position(running, Account, "a")
    later = msgspec.structs.replace(before, seq=before.seq + 1)
    found: list[Account | None] = []
    with running.client.view(Account) as view:
        assert view.get("a", at_least=before) == Account(balance=1)
        waiting = threading.Thread(target=lambda: found.append(view.get("a", at_least=later, timeout_s=30)))
        waiting.start()
        running.client.tell(Account.deposit, "a", Deposit(amount=1))
        running.settle()
        waiting.join()
    assert found == [Account(balance=2)]


def test_a_position_that_does_not_come_is_a_timeout_with_a_sentence(running: Running) -> None:
    """It says what was waited for and how far the view is."""
    running.client.tell(Account.deposit, "a", Deposit(amount=1))
    now = position(running, Account, "a")
    later = msgspec.structs.replace(now, seq=now.seq + 5)
    with running.client.view(Account) as view:
        view.get("a", at_least=now)
        with pytest.raises(
            TimeoutError, match=rf"^the view of account is not at {later} after 0\.01 s; .* is at {now}$"
        ):
            view.get("a", at_least=later, timeout_s=0.01)


def test_wrong_calls_are_refused(running: Running) -> None:
    """A router has no state, a position belongs to the shard of its key, and a closed view shows nothing."""
    with pytest.raises(ValueError, match="Router keeps no state, so there is nothing to view"):
        running.client.view(Router)
    with running.client.view(Account) as view:
        for wrong in (Position("bag", 0, 0), Position("account", 1 - partition_of(b"a", PARTITIONS), 0)):
            with pytest.raises(ValueError, match="is a position of another"):
                view.get("a", at_least=wrong)
        with pytest.raises(ValueError, match="NUL"):
            view.get("a\0")
    with pytest.raises(ViewFailed, match="the view of account is closed"):
        view.get("a")


class Newer(Event):
    """What only a newer build knows."""

    what: str = ""


def append(running: Running, record: Record, **changes: Any) -> None:
    """Append a changed copy of a record, as a shard of another build might."""
    output = Output(record.topic, record.partition, record.key, record.value, record.headers)
    running.client._core.appender.append([msgspec.structs.replace(output, **changes)])


def last_event(running: Running, key: str) -> Record:
    """Return the last record of a key's journal."""
    place = f"{running.system.name}.account.events", partition_of(key.encode(), PARTITIONS)
    return list(running.reader.read(*place))[-1]


@pytest.mark.parametrize("begins", ["before", "after"])
def test_a_record_of_a_newer_build_is_named(running: Running, begins: str) -> None:
    """``get`` of its shard raises; the sentence has the record and what this build lacks. Other shards go on."""
    running.client.tell(Account.deposit, "a", Deposit(amount=1))
    running.settle()
    other = next(key for key in "bcdefgh" if partition_of(key.encode(), PARTITIONS) != partition_of(b"a", PARTITIONS))
    record = last_event(running, "a")
    seq = record.number("seq")
    headers = tuple(
        (name, {"seq": b"%d" % (seq + 1), "version": b"2", "next": b"2"}.get(name, value))
        for name, value in record.headers
    )
    view: View[Account] | None = running.client.view(Account) if begins == "before" else None
    if view is not None:
        view.get("a")
    append(running, record, value=encode(Newer()), headers=headers)
    view = view or running.client.view(Account)
    with view:
        later = Position("account", record.partition, seq + 2)
        with pytest.raises(
            ViewFailed, match=r"cannot go on with shard \d: .*@\d+ cannot be read .*unknown type 'Newer'"
        ):
            view.get("a", at_least=later, timeout_s=30)
        assert view.get(other) is None


def test_positions_are_texts_and_back() -> None:
    """``entity/partition/seq``; anything else is refused with an example."""
    at = Position("savings-account", 3, 128)
    assert str(at) == "savings-account/3/128"
    assert Position.parse(str(at)) == at
    assert sorted([Position("a", 1, 10), Position("a", 1, 9)])[0].seq == 9
    for wrong in ("", "a/1", "a/1/-1", "a/x/1", "a/1/1/1", "A/1/1", "a/1/1\n", "a/1/" + "9" * 40):
        with pytest.raises(ValueError, match="is not a position: entity/partition/seq"):
            Position.parse(wrong)


# --- the replica of a journal ---------------------------------------------------------------------------------


class Add(Command):
    """Add."""


class Added(Event):
    """Something was added."""

    amount: int = 1


class Sum(Entity):
    """Journaled."""

    total: int = 0

    @command
    def add(self, _cmd: Add) -> Added:
        return Added()

    @event
    def added(self, evt: Added) -> Self:
        return self.replace(total=self.total + evt.amount)


sums = ActorSystem("sums")
sums.host(Sum, partitions=1)


class Journal:
    """A journal that a replica follows."""

    def __init__(self) -> None:
        self.replica = JournaledReplica(sums, sums.definition(Sum), 0)
        self.offset = 0

    def take(self, seq: int, amount: int = 1, *, epoch: int = 0, turn: bytes | None = None) -> None:
        """Give the replica one record of the key ``k``."""
        headers = [("cause", b"c"), ("seq", b"%d" % seq), ("version", b"%d" % (seq + 1))]
        headers += [("epoch", b"%d" % epoch)] if epoch else []
        headers += [("turn", turn)] if turn else []
        data = encode(Added(amount=amount))
        self.replica.take(Record(self.replica.topic, 0, self.offset, b"k", data, tuple(headers), 0))
        self.offset += 1

    @property
    def total(self) -> int:
        """The state of the key."""
        state = self.replica.entities["k"].state
        assert isinstance(state, Sum)
        return state.total


def test_a_turn_without_a_transaction_is_shown_when_it_is_complete() -> None:
    """All of its events at once; the position moves with them."""
    journal = Journal()
    journal.take(0, epoch=1, turn=b"0/2")
    assert (journal.replica.next_seq, journal.replica.entities) == (0, {})
    journal.take(1, epoch=1, turn=b"1/2")
    assert (journal.replica.next_seq, journal.total) == (2, 2)


def test_an_incomplete_turn_of_a_replaced_owner_does_not_count() -> None:
    """Its successor begins at the same seq; what the replaced owner appends afterwards is ignored."""
    journal = Journal()
    journal.take(0, epoch=1, turn=b"0/2")
    journal.take(0, 10, epoch=2, turn=b"0/1")
    journal.take(1, epoch=1, turn=b"1/2")
    journal.take(1, 20, epoch=2)
    assert (journal.replica.next_seq, journal.total) == (2, 30)


def test_a_successor_that_begins_below_what_is_shown_has_the_shard_restored() -> None:
    """A complete turn of a replaced owner was shown, and does not count."""
    journal = Journal()
    journal.take(0, epoch=1, turn=b"0/1")
    with pytest.raises(Overtaken, match="is of a newer owner"):
        journal.take(0, epoch=2, turn=b"0/1")


def test_a_gap_and_a_wrong_version_are_not_guessed() -> None:
    """A gap has the shard restored, which decides; a version that does not follow cannot be read."""
    journal = Journal()
    journal.take(0)
    with pytest.raises(Overtaken, match="has seq 2 where 1 is next"):
        journal.take(2)
    journal.replica.entities.clear()
    with pytest.raises(Unreadable, match="is version 2 of key 'k' where 1 is next"):
        journal.take(1)
