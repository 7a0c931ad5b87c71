"""Recovery: a shard's state is restored from the log; a contradiction in the log stops the shard with a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import Command, Directive, Entity, Event, Raw, command, event, restart, upcast
from repertory.actors import evolution
from repertory.actors.shard.changelog import SHARD_KEY, STASH_KEY, encode_changelog_record
from repertory.actors.shard.config import Limits
from repertory.actors.wire import unknown_fields
from repertory.bridge.changelog_codec import is_stashed
from repertory.bridge.codec import Codec
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.port import Claimed
from repertory.bridge.log.record import Record
from repertory.bridge.system.system import ActorSystem
from tests.actors.domain import Account, Bag, Close, Deposit, Pay, Put, Teller, Trip
from tests.actors.shard.bench import Bench

TINY = Limits(snapshot_window_bytes_max=1, snapshot_window_records=2, batch_records_max=1)


def test_snapshots_and_the_tail_of_the_journal_are_the_state() -> None:
    """A restored shard has the entities of the lost shard, from their snapshots and the events after them."""
    bench = Bench(Account, limits=TINY)
    for key in "abcabc":
        bench.tell(Deposit(amount=3), key)
    bench.run()
    assert any(state.snapshot for state in bench.states.values()), "nothing was snapshotted"
    bench.crash()
    assert {key: cell.state for key, cell in bench.shard.cells.items()} == dict.fromkeys("abc", Account(balance=6))


def test_the_state_topic_is_the_history_of_a_stateful_entity() -> None:
    """A stateful entity is restored as its last turn left it; one that stopped is not restored."""
    bench = Bench(Teller, others=[Account])
    bench.tell(Pay(account="a", amount=1), "t-1")
    bench.tell(Pay(account="a", amount=1), "t-2")
    bench.tell(Close(), "t-1")
    bench.run()
    bench.crash()
    assert {key: cell.state for key, cell in bench.shard.cells.items()} == {"t-2": Teller(asked=1)}


def test_an_older_snapshot_is_not_a_change_in_place() -> None:
    """A snapshot that lacks a field with a default is restored, and the next command is not blamed for the change."""
    bench = Bench(Bag)
    bench.tell(Put(item="a"))
    bench.run()
    older = msgspec.msgpack.encode({"type": "Bag", "items": ["a"]})
    (state,) = [record for record in bench.topics["t.bag.state"] if record.key == b"k"]
    amend(bench, state, value=encode_changelog_record(msgspec.structs.replace(bench.states["k"], snapshot=older)))
    amend_shard_record(bench, digest=None)
    bench.crash()
    bench.tell(Put(item="b"))
    bench.run()
    assert bench.shard.cells.get("k").state == Bag(items=["a", "b"])


# --- contradictions -------------------------------------------------------------------------------------------


def amend(bench: Bench, record: Record, **changes: Any) -> None:
    """Change one record of the log."""
    records = bench.topics[record.topic]
    records[records.index(record)] = msgspec.structs.replace(record, **changes)


def amend_shard_record(bench: Bench, **changes: Any) -> None:
    last = [record for record in bench.topics[bench.codec.state] if record.key == SHARD_KEY][-1]
    amend(bench, last, value=encode_changelog_record(msgspec.structs.replace(bench.record, **changes)))


def drop(bench: Bench, topic: str, keep: Callable[[Record], bool]) -> None:
    bench.topics[topic] = [record for record in bench.topics[topic] if keep(record)]


def with_header(record: Record, name: str, value: bytes) -> tuple[tuple[str, bytes], ...]:
    return tuple((n, value if n == name else v) for n, v in record.headers)


def journal(bench: Bench) -> list[Record]:
    return bench.topics[bench.codec.events]


def state_of(bench: Bench, key: bytes) -> Record:
    return [record for record in bench.topics[bench.codec.state] if record.key == key][-1]


def stashed_of(bench: Bench) -> list[Record]:
    return [record for record in bench.topics[bench.codec.state] if is_stashed(record)]


def no_shard_record(bench: Bench) -> None:
    drop(bench, bench.codec.state, lambda record: record.key != SHARD_KEY)


def nothing_but_the_journal(bench: Bench) -> None:
    drop(bench, bench.codec.state, lambda _: False)
    bench.committed = None


def nothing_but_stashed(bench: Bench) -> None:
    drop(bench, bench.codec.state, is_stashed)
    drop(bench, bench.codec.events, lambda _: False)
    bench.committed = None


def states_without_shard_record(bench: Bench) -> None:
    no_shard_record(bench)
    bench.committed = None


def offset_moved(bench: Bench) -> None:
    assert bench.committed is not None
    bench.committed -= 1


def commands_gone(bench: Bench) -> None:
    bench.low = bench.record.next + 2


def commands_cut(bench: Bench) -> None:
    bench.ends[bench.codec.commands] = bench.record.next - 2


def state_beyond(bench: Bench) -> None:
    record = state_of(bench, b"a")
    amend(bench, record, headers=with_header(record, "seq", b"99"))


def journal_beyond(bench: Bench) -> None:
    amend_shard_record(bench, seq=bench.record.seq - 1)


def journal_gap(bench: Bench) -> None:
    gone = journal(bench)[-2].offset
    drop(bench, bench.codec.events, lambda record: record.offset != gone)


def journal_without_its_end(bench: Bench) -> None:
    gone = journal(bench)[-1].offset
    drop(bench, bench.codec.events, lambda record: record.offset != gone)


def journal_without_its_tail(bench: Bench) -> None:
    drop(bench, bench.codec.events, lambda _: False)


def journal_truncated(bench: Bench) -> None:
    kept = journal(bench)[-1].offset
    drop(bench, bench.codec.events, lambda record: record.offset >= kept)


def snapshot_lost(bench: Bench) -> None:
    drop(bench, bench.codec.state, lambda record: record.key != b"a")


def event_unknown(bench: Bench) -> None:
    amend(bench, journal(bench)[-2], value=msgspec.msgpack.encode({"type": "Vanished", "amount": 1}))


def event_with_an_unknown_field(bench: Bench) -> None:
    amend(bench, journal(bench)[-2], value=msgspec.msgpack.encode({"type": "Deposited", "amount": 1, "fee": 2}))


def event_garbled(bench: Bench) -> None:
    amend(bench, journal(bench)[-2], value=b"\xc1")


def event_without_value(bench: Bench) -> None:
    amend(bench, journal(bench)[-2], value=None)


def event_without_seq(bench: Bench) -> None:
    amend(bench, journal(bench)[-1], headers=())


def event_with_a_bad_version(bench: Bench) -> None:
    amend(bench, journal(bench)[-1], headers=with_header(journal(bench)[-1], "version", b"one"))


def event_with_a_bad_key(bench: Bench) -> None:
    amend(bench, journal(bench)[-1], key=b"\xff")


def event_without_key(bench: Bench) -> None:
    amend(bench, journal(bench)[-1], key=None)


def state_of_another_class(bench: Bench) -> None:
    record = state_of(bench, b"a")
    amend(bench, record, value=snapshot({"type": "Bag"}))


def snapshot(fields: dict[str, Any]) -> bytes:
    data = msgspec.msgpack.encode(fields)
    return msgspec.msgpack.encode(
        {"type": "State", "snapshot": data, "ended": False, "stashed": 0, "stashed_first": -1}
    )


def state_with_an_unknown_field(bench: Bench) -> None:
    amend(bench, state_of(bench, b"a"), value=snapshot({"type": "Account", "balance": 1, "limit": 5}))


def state_garbled(bench: Bench) -> None:
    amend(bench, state_of(bench, b"a"), value=b"\x81")


def state_without_seq(bench: Bench) -> None:
    amend(bench, state_of(bench, b"a"), headers=())


def state_with_a_bad_key(bench: Bench) -> None:
    amend(bench, state_of(bench, b"a"), key=b"\xff")


def shard_record_garbled(bench: Bench) -> None:
    amend(bench, state_of(bench, SHARD_KEY), value=b"")


def stashed_gone(bench: Bench) -> None:
    drop(bench, bench.codec.state, lambda record: not is_stashed(record))


def stashed_one_gone(bench: Bench) -> None:
    gone = stashed_of(bench)[-1].offset
    drop(bench, bench.codec.state, lambda record: record.offset != gone)


def stashed_beyond(bench: Bench) -> None:
    record = stashed_of(bench)[-1]
    amend(bench, record, key=STASH_KEY + b"%d" % bench.record.next)


def stashed_garbled(bench: Bench) -> None:
    amend(bench, stashed_of(bench)[-1], value=b"\xc0")


def stashed_with_a_bad_key(bench: Bench) -> None:
    amend(bench, stashed_of(bench)[-1], key=STASH_KEY + b"first")


def stashed_unknown(bench: Bench) -> None:
    record = stashed_of(bench)[-1]
    stashed = msgspec.structs.replace(bench.shard.stash.queue("w")[-1].record, value=b"\x81\xa4type\xa1?")
    amend(bench, record, value=encode_changelog_record(stashed))


def shard_record_with_numbers_of_no_shard(bench: Bench) -> None:
    amend_shard_record(bench, changelog=1 << 63)


def state_with_a_count_below_none(bench: Bench) -> None:
    amend(
        bench,
        state_of(bench, b"a"),
        value=encode_changelog_record(msgspec.structs.replace(bench.states["a"], stashed=-1)),
    )


def stashed_before_its_first_attempt(bench: Bench) -> None:
    record = stashed_of(bench)[0]
    stashed = msgspec.structs.replace(bench.shard.stash.queue("w")[0].record, attempt=0)
    amend(bench, record, value=encode_changelog_record(stashed))


def state_with_a_name_without_end(bench: Bench) -> None:
    amend(bench, state_of(bench, b"a"), value=msgspec.msgpack.encode({"type": "State", "x" * 100_000: 1}))


CONTRADICTIONS: list[tuple[Callable[[Bench], None], str]] = [
    (no_shard_record, "has no shard record, but the group has an offset"),
    (states_without_shard_record, "has no shard record, but the group has an offset (None) or states"),
    (nothing_but_the_journal, "has seq 0, the shard record says 0: a transaction is torn"),
    (nothing_but_stashed, "a transaction is torn"),
    (offset_moved, "the group's offset is 9, the shard record says 10"),
    (commands_gone, "commands 10 to 11 are missing from t.account.commands and were never handled"),
    (commands_cut, "t.account.commands ends at 8 where 10 is next: its tail is lost"),
    (state_beyond, "the state of key 'a' has seq 99, the shard record says 8"),
    (journal_beyond, "has seq 7, the shard record says 7: a transaction is torn"),
    (journal_gap, "has seq 7 where 6 is next: journal records are lost"),
    (journal_without_its_end, "the journal t.account.events ends before seq 7 where the shard record says 8"),
    (journal_without_its_tail, "the journal t.account.events ends before seq 5 where the shard record says 8"),
    (journal_truncated, "begins at t.account.events/0@14 with seq 7, after the tail's 5"),
    (snapshot_lost, "is version 4 of key 'a' where 1 is next"),
    (event_unknown, "cannot be applied: DecodeError: unknown type 'Vanished'"),
    (event_with_an_unknown_field, "cannot be applied: DecodeError: Deposited has no field 'fee'"),
    (event_garbled, "the journal record t.account.events/0@12 cannot be applied: DecodeError"),
    (event_without_value, "the journal record t.account.events/0@12 cannot be applied: DecodeError"),
    (event_without_seq, "t.account.events/0@14 cannot be decoded: its header 'seq' is None"),
    (event_with_a_bad_version, "t.account.events/0@14 cannot be decoded: its header 'version' is b'one'"),
    (event_with_a_bad_key, "t.account.events/0@14 cannot be decoded: its key is not a valid entity key"),
    (event_without_key, "t.account.events/0@14 cannot be decoded: its key is not a valid entity key"),
    (state_of_another_class, "the snapshot of key 'a' does not fit Account"),
    (
        state_with_an_unknown_field,
        "the snapshot of key 'a' does not fit Account: Object contains unknown field `limit`",
    ),
    (state_garbled, "cannot be decoded"),
    (state_without_seq, "cannot be decoded: its header 'seq' is None"),
    (state_with_a_bad_key, "cannot be decoded: its key is not a valid entity key"),
    (shard_record_garbled, "cannot be decoded"),
    (stashed_gone, "key 'w' has 0 stashed commands from -1, its state record says 2 from 8"),
    (stashed_one_gone, "key 'w' has 1 stashed commands from 8, its state record says 2 from 8"),
    (stashed_beyond, "holds the stashed command 10, the shard record says 10 is next"),
    (stashed_garbled, "cannot be decoded"),
    (stashed_with_a_bad_key, "cannot be decoded: its key b'\\x00stash/first' does not end with an offset"),
    (shard_record_with_numbers_of_no_shard, "cannot be decoded: Expected `int` <="),
    (state_with_a_count_below_none, "cannot be decoded: Expected `int` >="),
    (stashed_before_its_first_attempt, "cannot be decoded: Expected `int` >="),
    (state_with_a_name_without_end, "cannot be decoded: Object contains unknown field"),
    (stashed_unknown, "the stashed command 9 cannot be decoded by this code: unknown type '?'"),
]


def history() -> Bench:
    """Return a bench with snapshots, a tail of three journal records, and a key with two stashed commands."""
    bench = Bench(Account, limits=Limits(snapshot_window_bytes_max=1, snapshot_window_records=3, batch_records_max=1))
    for key in "abababba":
        bench.tell(Deposit(amount=1), key)
    bench.tell(Trip(times=1), "w")
    bench.tell(Deposit(amount=1), "w")
    bench.run()
    bench.restored()
    assert (bench.record.next, bench.record.seq, bench.record.tail_start) == (10, 8, 5)
    return bench


@pytest.mark.parametrize(("contradict", "sentence"), CONTRADICTIONS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_contradiction_stops_the_shard_with_a_sentence(contradict: Callable[[Bench], None], sentence: str) -> None:
    """If records are missing, damaged or unexpected, the error says which shard, what, where, and the remedy."""
    bench = history()
    contradict(bench)
    with pytest.raises(Inconsistent, match=re.escape(sentence)) as stopped:
        bench.restored()
    text = str(stopped.value)
    assert len(text) < 2_000
    assert text.startswith("shard account/0 is stopped: ")
    assert text.endswith(".")
    assert text.count("run the code that wrote it") <= 1
    assert re.search(r"; (if it was moved, set it back|restore|run the code|delete)|, and keep", text)


def test_an_event_handler_that_raises_in_a_replay_stops_the_shard() -> None:
    """An event is never skipped: if an older version accepted it and this one does not, the shard stops."""
    bench = history()
    amend(bench, journal(bench)[-2], value=msgspec.msgpack.encode({"type": "Deposited", "amount": 2**62}))

    class Refuses(Event, name="Deposited"):
        amount: int

    class Strict(Entity, name="Account"):
        balance: int = 0

        @command
        def deposit(self, cmd: Deposit) -> None:
            return None

        @command
        def trip(self, cmd: Trip) -> None:
            return None

        @event
        def deposited(self, evt: Refuses) -> Self:
            raise ArithmeticError("too much")

    other = Bench(Strict, limits=TINY)
    other.topics, other.ends, other.committed = bench.topics, bench.ends, bench.committed
    with pytest.raises(Inconsistent, match=r"@1[02] cannot be applied: ArithmeticError: too much; .* @event method"):
        other.restored()


class OldFill(Command, name="Fill"):
    """In litres."""

    amount: int


class OldTank(Entity, name="Tank"):
    """What the older build has."""

    amount: int = 0

    @command
    def fill(self, cmd: OldFill) -> Self:
        """Leak."""
        raise ValueError("a leak")


class Fill(Command, version=2):
    """In tenths of a litre: the same field means something else."""

    amount: int


class Tank(Entity):
    """What the newer build has."""

    amount: int = 0

    @command
    def fill(self, cmd: Fill) -> Self:
        """Fill up."""
        return self.replace(amount=self.amount + cmd.amount)


def test_stashed_commands_of_an_older_build_are_upcast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parked one and those behind it, also where the older bytes would fit the newer class as they are."""
    monkeypatch.setattr(evolution, "_steps", {})

    @upcast("Fill", to=2)
    def in_tenths(raw: Raw) -> Raw:
        return {"amount": raw["amount"] * 10}

    old = Bench(OldTank, policy=restart(on={ValueError: Directive.STOP}))
    for amount in (1, 2):
        old.tell(OldFill(amount=amount))
    old.run()
    new = Bench(Tank)
    new.topics, new.ends, new.committed = old.topics, old.ends, old.committed
    new.crash()
    assert [stashed.envelope.message for stashed in new.shard.stash.queue("k")] == [Fill(amount=10), Fill(amount=20)]


def test_an_absent_offset_beside_a_shard_record_is_written_again() -> None:
    """A group whose offsets expired continues from the shard record."""
    bench = history()
    bench.committed = None
    bench.crash()
    bench.tell(Deposit(amount=5), "a")
    bench.settle()
    assert bench.committed == bench.record.next > 10
    assert bench.shard.cells.get("a").state == Account(balance=9)


def test_a_shard_without_any_history_begins_at_the_earliest_command() -> None:
    """Without an offset, a shard record and other records, the shard begins at the first command still held."""
    bench = Bench(Account)
    for _ in range(3):
        bench.tell(Deposit(amount=1))
    bench.low = 1
    assert bench.restored().record.next == 1


class Line(msgspec.Struct, frozen=True):
    """A part of a state."""

    item: str = ""


class Order(Entity):
    """Has structs within its state."""

    lines: tuple[Line, ...] = ()
    by_name: dict[str, Line] = {}  # noqa: RUF012  msgspec copies such defaults
    first: Line = Line()

    @command
    def put(self, cmd: Put) -> Self:
        return self


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"lines": [{"item": "a"}, {"item": "b", "price": 1}]}, "lines.price"),
        ({"by_name": {"x": {"price": 1}}}, "by_name.x.price"),
        ({"first": {"price": 1}}, "first.price"),
    ],
)
def test_unknown_fields_are_found_within_structs_too(fields: dict[str, Any], path: str) -> None:
    """Fields that this version does not have are not dropped from a state, at any depth."""
    bench = Bench(Order)
    bench.tell(Put(item="a"))
    bench.run()
    amend(bench, state_of(bench, b"k"), value=snapshot({"type": "Order", **fields}))
    with pytest.raises(Inconsistent, match=f"Order has no field '{path}'"):
        bench.restored()


@given(st.dictionaries(st.sampled_from(["balance", "b", "c"]), st.integers(0, 9)))
def test_unknown_fields_are_all_that_the_class_does_not_have(fields: dict[str, int]) -> None:
    """Exactly the names other than the class's fields and ``type`` are unknown."""
    data = msgspec.msgpack.encode({"type": "Account", **fields})
    assert unknown_fields(data, Account()) == sorted({*fields} - {"balance"})


def test_other_shards_continue_when_one_is_stopped() -> None:
    """An inconsistent shard is stopped, and its siblings handle their commands."""
    system = ActorSystem("bank")
    system.host(Account, partitions=2, supervise=restart())
    with system.start("memory:") as running:
        for number in range(20):
            running.client.tell(Account.deposit, f"k{number}", Deposit(amount=1))
        running.settle()
        torn = encode_changelog_record(msgspec.structs.replace(shard_record(running.reader), seq=0))
        store = running._log._store  # type: ignore[attr-defined]
        with store.write() as connection:
            connection.execute(
                "UPDATE record SET value = ? WHERE topic = 'bank.account.state' AND partition = 0 AND key = ?",
                (torn, SHARD_KEY),
            )
        running.crash()
        for number in range(20):
            running.client.tell(Account.deposit, f"k{number}", Deposit(amount=1))
        for _ in range(50):
            running.tick()
        ends = [running.reader.bounds("bank.account.events", partition)[1] for partition in (0, 1)]
        sent = [running.reader.bounds("bank.account.commands", partition)[1] for partition in (0, 1)]
        assert ends[1] == sent[1]
        assert ends[0] == sent[0] // 2


def shard_record(reader: Any) -> Any:
    records = [record for record in reader.read("bank.account.state", 0) if record.key == SHARD_KEY]
    return msgspec.msgpack.decode(records[-1].value, type=type(Bench(Account).shard.record))


def test_a_recovery_reads_only_what_it_needs() -> None:
    """It reads the state and stash topics from the beginning, the journal from the shard record's tail offset."""
    bench = history()
    codec: Codec = bench.codec
    ends = {topic: bench.ends[topic] for topic in codec.restored_topics}
    claimed = Claimed(bench.place, bench.committed, 0, bench.ends[codec.commands], ends)
    assert codec.restored_topics == (codec.state, codec.events)
    assert claimed.ends[codec.events] == 16
    assert bench.record.tail_offset <= 10
