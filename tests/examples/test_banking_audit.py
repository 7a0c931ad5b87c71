"""The audit finds what is wrong: each kind of damage, planted in a copy of a clean log, fails the checks it should."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from actors import Event, Message
from actors.effects import ShardRecord, StateRecord, WaitingRecord
from actors.wire import encode
from bridge import ActorSystem, topics
from bridge.codec import decode_shard, decode_state, encode_book, number
from bridge.connect import connect
from bridge.record import Output, Record
from bridge.settings import Settings
from examples.banking.accounts import Account, Close, Deposited, Open, Opened, Withdrawn
from examples.banking.audit import audit, records_total
from examples.banking.load import Load
from examples.banking.transfers import (
    StartTransfer,
    Transfer,
    TransferCompleted,
    TransferDebited,
    TransferRefunded,
    TransferRefused,
)

SUM = "the balances are what was paid in"
NEGATIVE = "no balance is negative after any event"
ENDED = "every transfer ended exactly once"
MOVED = "the money moved as the transfers ended"
CAUSES = "no cause twice"
JOURNALS = "journals have no gap"
STATES = "states are the fold of the journal"
SHARDS = "shard records agree with journal and offset"
COMMANDS = "no command is left"
WAITING = "nothing waits"
DEAD = "no dead letters"
ALL = (SUM, NEGATIVE, ENDED, MOVED, CAUSES, JOURNALS, STATES, SHARDS, COMMANDS, WAITING, DEAD)

#: Few partitions and a small window: every shard has snapshots, and a tail that is in none.
system = ActorSystem("bank", settings=Settings(snapshot_window_records=40))
system.host(Account, partitions=2)
system.host(Transfer, partitions=2)

OPEN_NEVER = Open(initial=5)
WAITS = WaitingRecord(key="k", value=b"", headers=(), timestamp_ms=0)
CAUSE = ("cause", b"bank.account.commands/0/999999/0")


class Planted:
    """A copy of the clean log that can be damaged, record by record."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._backend = connect(f"sqlite:{path}")

    def failing(self) -> set[str]:
        """Audit, and return the checks that fail; each of them must name an offender."""
        with closing(self._backend.reader()) as reader:
            checks = audit(reader, system)
        assert tuple(check.name for check in checks) == ALL
        assert all("bank." in check.detail for check in checks if not check.ok if check.name != SUM)
        return {check.name for check in checks if not check.ok}

    def records(self, topic: str, message: type[Message] | None = None) -> list[Record]:
        """Return the records of a topic, in order; of a journal only those that are such a message."""
        with closing(self._backend.reader()) as reader:
            found = [r for p in range(reader.partition_count(topic) or 0) for r in reader.read(topic, p)]
        if message is None:
            return found
        tag = message.__struct_config__.tag
        return [r for r in found if r.value and msgspec.msgpack.decode(r.value).get("type") == tag]

    def in_tail(self, topic: str, message: type[Message]) -> list[Record]:
        """Return such events of entities that no state record speaks of: changing one meets no snapshot."""
        keys = {record.key for record in self.records(topic.replace(".events", ".state"))}
        return [record for record in self.records(topic, message) if record.key not in keys]

    def execute(self, statement: str, *parameters: object) -> None:
        """Change the file, as no part of the product would."""
        with closing(sqlite3.connect(self._path)) as connection, connection:
            assert connection.execute(statement, parameters).rowcount > 0

    def remove(self, record: Record) -> None:
        """Take a record out; its offset stays empty."""
        self.execute("DELETE FROM record WHERE (topic, partition, offset) = (?, ?, ?)", *place(record))

    def write(self, record: Record, value: bytes | Event) -> None:
        """Give a record another value."""
        data = value if isinstance(value, bytes) else encode(value)
        self.execute("UPDATE record SET value = ? WHERE (topic, partition, offset) = (?, ?, ?)", data, *place(record))

    def append(
        self, topic: str, partition: int, key: bytes, value: bytes | None, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        """Add a record at the end."""
        with closing(self._backend.appender()) as appender:
            appender.append([Output(topic, partition, key, value, headers)])

    def shard(self, entity: str, partition: int) -> tuple[Record, ShardRecord]:
        """Return the last shard record of a shard."""
        of_shard = [r for r in self.records(f"bank.{entity}.state") if r.key == topics.SHARD_KEY]
        record = [r for r in of_shard if r.partition == partition][-1]
        return record, decode_shard(record.value or b"")

    def write_shard(self, entity: str, partition: int, **changes: int) -> None:
        """Change the last shard record of a shard."""
        record, shard = self.shard(entity, partition)
        self.write(record, encode_book(msgspec.structs.replace(shard, **changes)))

    def state(self, entity: str) -> tuple[Record, StateRecord]:
        """Return the last snapshot of a topic, the newest of its key."""
        record = [r for r in self.records(f"bank.{entity}.state") if r.key != topics.SHARD_KEY][-1]
        return record, decode_state(record.value or b"")


def place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a log that a whole run has left behind."""
    path = tmp_path_factory.mktemp("clean") / "bank.db"
    load = Load("r", accounts=20, transfers=150, seed=7)
    with system.start(f"sqlite:{path}") as running:
        running.client.tell_all(load.openings())
        transfers = load.transfers()
        while chunk := list(islice(transfers, 10)):
            running.client.tell_all(chunk)
            running.settle()
        running.client.tell_all([(Account.open, f"late{i}", Open(initial=5)) for i in range(4)])
        running.settle()
    return path


@pytest.fixture
def planted(clean: Path, tmp_path: Path) -> Planted:
    copy = tmp_path / "bank.db"
    shutil.copy(clean, copy)
    return Planted(copy)


def test_a_clean_log_passes(planted: Planted) -> None:
    """Every check looked at something, and every record was read."""
    read: list[int] = []
    with closing(planted._backend.reader()) as reader:
        checks = audit(reader, system, read.append)
        assert sum(read) == records_total(reader, system)
    assert [check.name for check in checks if check.ok] == list(ALL)
    details = {check.name: check.detail for check in checks}
    assert "0 state records" not in details[STATES]
    assert details[SHARDS] == "4 shards"
    assert all(f"{end}" in details[ENDED] for end in ("completed", "refused", "refunded"))
    assert "0 refused" not in details[ENDED]
    assert ", 0 refunded" not in details[ENDED]


def test_an_empty_log_passes() -> None:
    """Topics without a record: nothing is wrong, nothing is there."""
    with system.start("memory:") as running:
        assert all(check.ok for check in audit(running.reader, system))


def test_compaction_is_no_damage(planted: Planted) -> None:
    """Older state and shard records of a key may be gone at any time."""
    for entity in ("account", "transfer"):
        latest: dict[tuple[int, bytes | None], Record] = {}
        for record in planted.records(f"bank.{entity}.state"):
            if older := latest.get((record.partition, record.key)):
                planted.remove(older)
            latest[record.partition, record.key] = record
    assert planted.failing() == set()


# --- the bank's money ---------------------------------------------------------------------------------------------


def test_money_created_with_an_account(planted: Planted) -> None:
    """An account that begins with more than was paid in is found although balances and events agree."""
    record = planted.in_tail("bank.account.events", Opened)[0]
    planted.write(record, Opened(initial=1_000_000))
    assert planted.failing() == {SUM}


def test_a_first_payment_that_vanished(planted: Planted) -> None:
    """A command to open that no event answers."""
    with closing(planted._backend.reader()) as reader:
        committed = reader.committed("bank", "bank.account.commands", 0)
    planted.append("bank.account.commands", 0, b"k4", encode(OPEN_NEVER))
    planted.execute(
        "UPDATE shard SET next_offset = next_offset + 1 WHERE topic = 'bank.account.commands' AND partition = 0"
    )
    planted.write_shard("account", 0, next=(committed or 0) + 1)
    assert planted.failing() == {SUM}


def test_money_created_on_the_way(planted: Planted) -> None:
    """A deposit of more than was withdrawn."""
    record = planted.records("bank.account.events", Deposited)[-1]
    event = msgspec.msgpack.decode(record.value or b"", type=Deposited)
    planted.write(record, msgspec.structs.replace(event, amount=event.amount + 1))
    assert planted.failing() == {SUM, MOVED}


def test_a_negative_balance(planted: Planted) -> None:
    """Found at the event after which it was negative."""
    record = planted.records("bank.account.events", Withdrawn)[-1]
    event = msgspec.msgpack.decode(record.value or b"", type=Withdrawn)
    planted.write(record, msgspec.structs.replace(event, amount=event.amount + 10_000_000))
    assert planted.failing() == {SUM, MOVED, NEGATIVE}


# --- transfers ----------------------------------------------------------------------------------------------------


def test_a_transfer_that_ended_twice(planted: Planted) -> None:
    """Though journal and shard record agree with each other."""
    record = planted.in_tail("bank.transfer.events", TransferCompleted)[-1]
    _, shard = planted.shard("transfer", record.partition)
    headers = (CAUSE, ("seq", b"%d" % shard.seq), ("version", b"%d" % (number(record, "version") + 1)))
    planted.append(record.topic, record.partition, record.key or b"", encode(TransferRefunded()), headers)
    planted.write_shard("transfer", record.partition, seq=shard.seq + 1)
    assert planted.failing() == {ENDED}


def test_a_transfer_that_never_ended(planted: Planted) -> None:
    """Its money may have arrived, but it does not know."""
    _, shard = planted.shard("transfer", 0)
    last = [record for record in planted.records("bank.transfer.events") if record.partition == 0][-1]
    planted.remove(last)
    planted.write_shard("transfer", 0, seq=shard.seq - 1)
    assert planted.failing() == {ENDED}


def test_a_transfer_that_never_started(planted: Planted) -> None:
    """A command below the committed offset that left no trace: it was skipped."""
    start = StartTransfer(source="a", target="b", amount=1)
    planted.append("bank.transfer.commands", 0, b"t-skipped", encode(start))
    planted.execute(
        "UPDATE shard SET next_offset = next_offset + 1 WHERE topic = 'bank.transfer.commands' AND partition = 0"
    )
    _, shard = planted.shard("transfer", 0)
    planted.write_shard("transfer", 0, next=shard.next + 1)
    assert planted.failing() == {ENDED}


def test_completed_without_deposit(planted: Planted) -> None:
    """A refused transfer that calls itself completed."""
    planted.write(planted.in_tail("bank.transfer.events", TransferRefused)[0], TransferCompleted())
    assert planted.failing() == {MOVED}


def test_refunded_without_refund(planted: Planted) -> None:
    """A completed transfer that calls itself refunded."""
    planted.write(planted.in_tail("bank.transfer.events", TransferCompleted)[0], TransferRefunded())
    assert planted.failing() == {MOVED}


def test_refused_with_a_debit(planted: Planted) -> None:
    """A refunded transfer that calls itself refused: money moved there and back that never should have."""
    planted.write(planted.in_tail("bank.transfer.events", TransferRefunded)[0], TransferRefused(reason=""))
    assert planted.failing() == {MOVED}


def test_money_moved_for_no_transfer(planted: Planted) -> None:
    """A deposit that names a transfer that never was."""
    record = planted.records("bank.account.events", Deposited)[-1]
    event = msgspec.msgpack.decode(record.value or b"", type=Deposited)
    planted.write(record, msgspec.structs.replace(event, transfer="t-nobody"))
    assert planted.failing() == {MOVED}


# --- causes and journals ------------------------------------------------------------------------------------------


def test_a_cause_that_stands_twice(planted: Planted) -> None:
    """Wherever the second one stands: here among the replies."""
    cause = planted.records("bank.account.events")[3].header("cause")
    assert cause is not None
    planted.append("bank.replies", 5, b"correlation", b"", (("cause", cause),))
    assert planted.failing() == {CAUSES}


def test_a_record_without_cause(planted: Planted) -> None:
    """What the runtime writes says why."""
    planted.append("bank.replies", 5, b"correlation", b"")
    assert planted.failing() == {CAUSES}


def test_an_event_removed(planted: Planted) -> None:
    """The journal has a gap, also where the state does not depend on the event."""
    planted.remove(planted.in_tail("bank.transfer.events", TransferDebited)[0])
    assert planted.failing() == {JOURNALS}


def test_a_deposit_removed(planted: Planted) -> None:
    """Then money is missing as well."""
    planted.remove(planted.records("bank.account.events", Deposited)[-1])
    assert planted.failing() >= {SUM, MOVED}


def test_an_event_that_was_written_twice(planted: Planted) -> None:
    """The whole record again: same cause, same seq, same version."""
    record = planted.in_tail("bank.transfer.events", TransferCompleted)[0]
    planted.append(record.topic, record.partition, record.key or b"", record.value, record.headers)
    assert planted.failing() == {CAUSES, JOURNALS, ENDED}


def test_an_event_that_cannot_be_decoded(planted: Planted) -> None:
    """It counts as a gap."""
    planted.write(planted.in_tail("bank.transfer.events", TransferDebited)[0], b"\xc1")
    assert planted.failing() == {JOURNALS}


def test_an_event_on_a_foreign_partition(planted: Planted) -> None:
    """Whoever looks for its entity does not find it."""
    _, shard = planted.shard("transfer", 0)
    foreign = next(r.key for r in planted.in_tail("bank.transfer.events", TransferCompleted) if r.partition == 1)
    headers = (CAUSE, ("seq", b"%d" % shard.seq), ("version", b"1"))
    planted.append("bank.transfer.events", 0, foreign or b"", encode(TransferDebited()), headers)
    planted.write_shard("transfer", 0, seq=shard.seq + 1)
    assert planted.failing() == {JOURNALS}


# --- states and shard records -------------------------------------------------------------------------------------


@pytest.mark.parametrize("entity", ["account", "transfer"])
def test_a_snapshot_that_says_something_else(planted: Planted, entity: str) -> None:
    """One cent is enough."""
    record, state = planted.state(entity)
    told = msgspec.msgpack.decode(state.snapshot or b"")
    amount = "balance" if entity == "account" else "amount"
    told[amount] += 1
    snapshot = msgspec.Raw(msgspec.msgpack.encode(told))
    planted.write(record, encode_book(msgspec.structs.replace(state, snapshot=snapshot)))
    assert planted.failing() == {STATES}


@pytest.mark.parametrize("value", [b"\xc1", None])
def test_a_snapshot_that_is_none(planted: Planted, value: bytes | None) -> None:
    """Undecodable, or a tombstone of an entity that lives."""
    record, _ = planted.state("account")
    planted.execute("UPDATE record SET value = ? WHERE (topic, partition, offset) = (?, ?, ?)", value, *place(record))
    assert planted.failing() == {STATES}


def test_an_end_of_an_entity_that_lives(planted: Planted) -> None:
    """Its next command would begin a new life without its money."""
    record, _ = planted.state("account")
    planted.write(record, encode_book(StateRecord(ended=True)))
    assert planted.failing() == {STATES}


def test_a_snapshot_that_is_missing(planted: Planted) -> None:
    """Nobody replays the events below the tail: without the snapshot they are lost."""
    state = [r for r in planted.records("bank.transfer.state") if r.key != topics.SHARD_KEY]
    planted.remove(state[-1])
    assert planted.failing() == {STATES}


def test_a_snapshot_without_journal(planted: Planted) -> None:
    """Of an entity that has no event."""
    record, state = planted.state("account")
    headers = (CAUSE, ("seq", b"1"), ("version", b"1"))
    planted.append(record.topic, record.partition, b"nobody", encode_book(state), headers)
    assert planted.failing() == {STATES}


@pytest.mark.parametrize("change", [{"next": 1}, {"next": -1}, {"seq": 1}, {"seq": -1}, {"tail_offset": 10_000}])
def test_a_shard_record_that_says_something_else(planted: Planted, change: dict[str, int]) -> None:
    """About the input, the journal's end, or where a restore begins."""
    _, shard = planted.shard("transfer", 0)
    planted.write_shard("transfer", 0, **{name: getattr(shard, name) + by for name, by in change.items()})
    assert planted.failing() == {SHARDS}


def test_a_shard_record_that_is_missing(planted: Planted) -> None:
    """Nobody knows where the shard stands."""
    for record in planted.records("bank.account.state"):
        if record.key == topics.SHARD_KEY and record.partition == 1:
            planted.remove(record)
    assert planted.failing() == {SHARDS}


def test_a_torn_transaction(planted: Planted) -> None:
    """Its event is there, its shard record is not."""
    record = planted.in_tail("bank.account.events", Opened)[-1]
    _, shard = planted.shard("account", record.partition)
    headers = (CAUSE, ("seq", b"%d" % shard.seq), ("version", b"2"))
    planted.append(record.topic, record.partition, record.key or b"", encode(Deposited(amount=1, transfer="")), headers)
    assert planted.failing() == {SHARDS}


# --- what is left -------------------------------------------------------------------------------------------------


def test_a_command_that_was_not_handled(planted: Planted) -> None:
    """Committed, and at the group's offset."""
    planted.append("bank.account.commands", 0, b"k", encode(Close()))
    assert planted.failing() == {COMMANDS}


def test_an_offset_that_was_moved_back(planted: Planted) -> None:
    """The last command would be handled again."""
    planted.execute(
        "UPDATE shard SET next_offset = next_offset - 1 WHERE topic = 'bank.account.commands' AND partition = 0"
    )
    assert planted.failing() == {SHARDS, COMMANDS}


def test_a_command_that_waits(planted: Planted) -> None:
    """Until its record is a tombstone."""
    planted.append("bank.account.waiting", 0, b"7", encode_book(WAITS), (CAUSE,))
    assert planted.failing() == {WAITING}
    planted.append("bank.account.waiting", 0, b"7", None, (("cause", b"bank.account.commands/0/999999/1"),))
    assert planted.failing() == set()


def test_a_state_that_says_that_something_waits(planted: Planted) -> None:
    """Though the waiting topic is empty."""
    record, state = planted.state("account")
    planted.write(record, encode_book(msgspec.structs.replace(state, waiting=1, waiting_first=3)))
    assert planted.failing() == {WAITING}


def test_a_dead_letter(planted: Planted) -> None:
    """None is expected of this load."""
    planted.append("bank.dead-letters", 0, b"k", b"", (CAUSE, ("error-message", b"no")))
    assert planted.failing() == {DEAD}


def test_many_offenders_are_counted(planted: Planted) -> None:
    """The first three are named."""
    for number_ in range(5):
        planted.append("bank.dead-letters", 0, b"k", b"", (("cause", b"c/0/%d/0" % number_), ("error-message", b"no")))
    with closing(planted._backend.reader()) as reader:
        (check,) = [check for check in audit(reader, system) if not check.ok]
    assert check.detail.count("bank.dead-letters/0@") == 3
    assert check.detail.endswith("; and 2 more")
