"""The audit finds damage: each kind, planted in a copy of a clean log, fails the expected checks."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from examples.banking.accounts import Account, Close, Deposited, Open, Opened, Refunded, Withdrawn
from examples.banking.audit import LEFT, audit
from examples.banking.load import Load
from examples.banking.transfers import StartTransfer, Transfer, Transferred
from repertory import ActorSystem, Event, Message
from repertory.actors.saga.progress import SagaOver, SagaSettling, StepAnswered, StepsOpened
from repertory.actors.shard.changelog import SHARD_KEY, ShardRecord, StashedRecord, StateRecord, encode_changelog_record
from repertory.actors.wire import encode
from repertory.bridge.changelog_codec import decode_shard, decode_state
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.settings import Settings
from repertory.verify import records_total

SUM = "the balances are what was paid in"
NEGATIVE = "no balance is negative after any event"
ENDED = "every transfer ended exactly once"
MOVED = "the money moved as the transfers ended"
#: The checks of the bank; for those of the runtime see ``tests/repertory/verify/test_verify.py``.
BANK = (SUM, NEGATIVE, ENDED, MOVED, LEFT)

#: Few partitions and a small window, so that every shard has snapshots and a tail that no snapshot covers.
system = ActorSystem("bank", settings=Settings(snapshot_window_bytes_max=1, snapshot_window_records=40))
system.host(Account, partitions=2)
system.host(Transfer, partitions=2)

OPEN_NEVER = Open(initial=5)
STASHED = StashedRecord(key="k", value=b"", headers=(), timestamp_ms=0)
CAUSE = ("cause", b"bank.account.commands/0/999999/0")


class Planted:
    """A copy of the clean log, to damage."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._backend = connect(f"sqlite:{path}")

    def failing(self) -> set[str]:
        """Audit, and return the names of the bank's checks that fail; each must list an offender."""
        with closing(self._backend.reader()) as reader:
            checks = audit(reader, system)[: len(BANK)]
        assert tuple(check.name for check in checks) == BANK
        assert all("bank." in check.detail for check in checks if not check.ok)
        return {check.name for check in checks if not check.ok}

    def records(self, topic: str, message: type[Message] | None = None) -> list[Record]:
        """Return the records of a topic, in order; optionally only those with a type of message."""
        with closing(self._backend.reader()) as reader:
            found = [r for p in range(reader.partition_count(topic) or 0) for r in reader.read(topic, p)]
        if message is None:
            return found
        tag = message.__struct_config__.tag
        return [r for r in found if r.value and msgspec.msgpack.decode(r.value).get("type") == tag]

    def in_tail(self, topic: str, message: type[Message]) -> list[Record]:
        """Return events of entities without a state record, so that changing one contradicts no snapshot."""
        keys = {record.key for record in self.records(topic.replace(".events", ".state"))}
        return [record for record in self.records(topic, message) if record.key not in keys]

    def execute(self, statement: str, *parameters: object) -> None:
        """Change the file directly."""
        with closing(sqlite3.connect(self._path)) as connection, connection:
            assert connection.execute(statement, parameters).rowcount > 0

    def remove(self, record: Record) -> None:
        """Remove a record; its offset stays empty."""
        self.execute("DELETE FROM record WHERE (topic, partition, offset) = (?, ?, ?)", *place(record))

    def write(self, record: Record, value: bytes | Event) -> None:
        """Change the value of a record."""
        data = value if isinstance(value, bytes) else encode(value)
        self.execute("UPDATE record SET value = ? WHERE (topic, partition, offset) = (?, ?, ?)", data, *place(record))

    def append(
        self, topic: str, partition: int, key: bytes, value: bytes | None, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        """Append a record."""
        with closing(self._backend.appender()) as appender:
            appender.append([Output(topic, partition, key, value, headers)])

    def shard(self, entity: str, partition: int) -> tuple[Record, ShardRecord]:
        """Return the last shard record of a shard."""
        of_shard = [r for r in self.records(f"bank.{entity}.state") if r.key == SHARD_KEY]
        record = [r for r in of_shard if r.partition == partition][-1]
        return record, decode_shard(record.value or b"")

    def write_shard(self, entity: str, partition: int, **changes: int) -> None:
        """Change the last shard record of a shard."""
        record, shard = self.shard(entity, partition)
        self.write(record, encode_changelog_record(msgspec.structs.replace(shard, **changes)))

    def state(self, entity: str) -> tuple[Record, StateRecord]:
        """Return the last snapshot of a topic."""
        record = [r for r in self.records(f"bank.{entity}.state") if r.key != SHARD_KEY][-1]
        return record, decode_state(record.value or b"")


def place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the log of a whole run."""
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
    """Every check has examined records, and every record was read."""
    read: list[int] = []
    with closing(planted._backend.reader()) as reader:
        checks = audit(reader, system, read.append)
        assert sum(read) == records_total(reader, system)
    assert not [check.name for check in checks if not check.ok]
    details = {check.name: check.detail for check in checks}
    assert details[LEFT].endswith(" commands")
    assert all(f"{end}" in details[ENDED] for end in ("completed", "refused", "refunded"))
    assert "0 refused" not in details[ENDED]
    assert ", 0 refunded" not in details[ENDED]


def test_an_empty_log_passes() -> None:
    """Topics without records pass."""
    with system.start("memory:") as running:
        assert all(check.ok for check in audit(running.reader, system))


def test_compaction_is_no_damage(planted: Planted) -> None:
    """Compaction may delete older state and shard records of a key at any time."""
    for entity in ("account", "transfer"):
        latest: dict[tuple[int, bytes | None], Record] = {}
        for record in planted.records(f"bank.{entity}.state"):
            if older := latest.get((record.partition, record.key)):
                planted.remove(older)
            latest[record.partition, record.key] = record
    assert planted.failing() == set()


# --- retention ----------------------------------------------------------------------------------------------------


def cut(planted: Planted, *topics_: str) -> None:
    """Delete the oldest 40 % of the records of some topics, as retention does: the tail of a journal stays."""
    for topic in topics_:
        for partition in (0, 1):
            found = [record for record in planted.records(topic) if record.partition == partition]
            for record in found[: len(found) * 2 // 5]:
                planted.remove(record)


COMMANDS, EVENTS = "bank.{}.commands", "bank.{}.events"
CUTS = [
    (COMMANDS.format("transfer"),),
    (COMMANDS.format("account"),),
    (COMMANDS.format("transfer"), COMMANDS.format("account")),
    (EVENTS.format("account"),),
    (EVENTS.format("transfer"),),
    (EVENTS.format("transfer"), EVENTS.format("account")),
    tuple(kind.format(entity) for kind in (COMMANDS, EVENTS) for entity in ("account", "transfer")),
]


@pytest.mark.parametrize("deleted", CUTS)
def test_what_retention_has_deleted_cannot_be_checked(planted: Planted, deleted: tuple[str, ...]) -> None:
    """No check fails, of the bank or of the runtime, and those that had to leave something out count it."""
    cut(planted, *deleted)
    with closing(planted._backend.reader()) as reader:
        checks = audit(reader, system)
    assert not [(check.name, check.detail) for check in checks if not check.ok]
    assert any(check.unverifiable for check in checks)
    if deleted != (COMMANDS.format("account"),):  # The journals still have what those commands did.
        assert any(check.unverifiable for check in checks[: len(BANK)])


@pytest.mark.parametrize("deleted", CUTS)
def test_damage_behind_what_retention_has_deleted_is_found(planted: Planted, deleted: tuple[str, ...]) -> None:
    """What is left is checked."""
    cut(planted, *deleted)
    record = planted.records("bank.account.events", Deposited)[-1]
    event = msgspec.msgpack.decode(record.value or b"", type=Deposited)
    planted.write(record, msgspec.structs.replace(event, amount=event.amount + 1))
    assert MOVED in planted.failing()


def test_a_transfer_that_nobody_asked_for_is_found_after_retention(planted: Planted) -> None:
    """Its start names a command that is not among the deleted ones."""
    cut(planted, COMMANDS.format("transfer"))
    record = next(r for r in planted.records("bank.transfer.commands") if r.value and b"StartTransfer" in r.value)
    planted.remove(record)
    planted.append("bank.transfer.commands", record.partition, b"other", record.value)
    assert ENDED in planted.failing()


# --- the bank's money ---------------------------------------------------------------------------------------------


def test_money_created_with_an_account(planted: Planted) -> None:
    """An account begins with more than was paid in, while balances and events agree."""
    record = planted.in_tail("bank.account.events", Opened)[0]
    planted.write(record, Opened(initial=1_000_000))
    assert planted.failing() == {SUM}


def test_a_first_payment_that_vanished(planted: Planted) -> None:
    """A command to open an account has no event."""
    with closing(planted._backend.reader()) as reader:
        committed = reader.committed("bank", "bank.account.commands", 0)
    planted.append("bank.account.commands", 0, b"k4", encode(OPEN_NEVER))
    planted.execute(
        "UPDATE shard SET next_offset = next_offset + 1 WHERE topic = 'bank.account.commands' AND partition = 0"
    )
    planted.write_shard("account", 0, next=(committed or 0) + 1)
    assert planted.failing() == {SUM}


def test_money_created_by_a_deposit(planted: Planted) -> None:
    """A deposit is more than was withdrawn."""
    record = planted.records("bank.account.events", Deposited)[-1]
    event = msgspec.msgpack.decode(record.value or b"", type=Deposited)
    planted.write(record, msgspec.structs.replace(event, amount=event.amount + 1))
    assert planted.failing() == {SUM, MOVED}


def test_a_negative_balance(planted: Planted) -> None:
    """The balance is negative after an event."""
    record = planted.records("bank.account.events", Withdrawn)[-1]
    event = msgspec.msgpack.decode(record.value or b"", type=Withdrawn)
    planted.write(record, msgspec.structs.replace(event, amount=event.amount + 10_000_000))
    assert planted.failing() == {SUM, MOVED, NEGATIVE}


# --- transfers ----------------------------------------------------------------------------------------------------


def test_a_transfer_that_ended_twice(planted: Planted) -> None:
    """A second end is found although journal and shard record agree."""
    record = planted.in_tail("bank.transfer.events", SagaOver)[-1]
    _, shard = planted.shard("transfer", record.partition)
    headers = (CAUSE, ("seq", b"%d" % shard.seq), ("version", b"%d" % (record.number("version") + 1)))
    planted.append(record.topic, record.partition, record.key or b"", record.value, headers)
    planted.write_shard("transfer", record.partition, seq=shard.seq + 1)
    assert planted.failing() == {ENDED}


def test_a_transfer_that_never_ended(planted: Planted) -> None:
    """The last event of a transfer is missing; its money may have arrived."""
    _, shard = planted.shard("transfer", 0)
    last = [record for record in planted.records("bank.transfer.events") if record.partition == 0][-1]
    planted.remove(last)
    planted.write_shard("transfer", 0, seq=shard.seq - 1)
    assert planted.failing() == {ENDED}


def test_a_transfer_that_never_started(planted: Planted) -> None:
    """A command below the committed offset has no records: it was skipped."""
    start = StartTransfer(source="a", target="b", amount=1)
    planted.append("bank.transfer.commands", 0, b"t-skipped", encode(start))
    planted.execute(
        "UPDATE shard SET next_offset = next_offset + 1 WHERE topic = 'bank.transfer.commands' AND partition = 0"
    )
    _, shard = planted.shard("transfer", 0)
    planted.write_shard("transfer", 0, next=shard.next + 1)
    assert planted.failing() == {ENDED}


def settling(planted: Planted, *, rejected: bool) -> Record:
    """Return a record by which a transfer had its outcome."""
    found = planted.in_tail("bank.transfer.events", SagaSettling)
    decode = msgspec.msgpack.Decoder(SagaSettling).decode
    return next(record for record in found if decode(record.value or b"").rejected is rejected)


def test_completed_without_deposit(planted: Planted) -> None:
    """A transfer that was rejected is recorded as completed."""
    record = settling(planted, rejected=True)
    planted.write(record, SagaSettling(outcome=encode(Transferred(amount=1)), rejected=False))
    assert planted.failing() == {MOVED}


def test_refunded_without_refund(planted: Planted) -> None:
    """A completed transfer is recorded as rolled back."""
    record = settling(planted, rejected=False)
    planted.write(record, SagaSettling(outcome=b"", rejected=True))
    assert planted.failing() == {MOVED}


def test_refused_with_a_debit(planted: Planted) -> None:
    """A refunded transfer is recorded as refused, although money has moved."""
    refund = planted.records("bank.account.events", Refunded)[-1]
    transfer = msgspec.msgpack.decode(refund.value or b"", type=Refunded).transfer
    of_it = (each for each in planted.records("bank.transfer.events", StepAnswered) if each.key == transfer.encode())
    record = next(of_it)
    answer = msgspec.msgpack.decode(record.value or b"", type=StepAnswered)
    assert (answer.n, answer.rejected) == (0, False)
    planted.write(record, msgspec.structs.replace(answer, rejected=True))
    assert planted.failing() == {MOVED}


def test_money_that_a_transfer_does_not_hold_any_more(planted: Planted) -> None:
    """One that never ended holds no money that an account has; the sum of both would be more than was paid in."""
    record = settling(planted, rejected=False)
    for each in planted.records(record.topic):
        if each.key == record.key and (each.partition, each.offset) >= (record.partition, record.offset):
            planted.remove(each)
    assert planted.failing() == {ENDED}
    last = [each for each in planted.records(record.topic, StepAnswered) if each.key == record.key][-1]
    planted.remove(last)
    assert planted.failing() == {ENDED, SUM}


def test_money_moved_for_no_transfer(planted: Planted) -> None:
    """A deposit has the id of a transfer that does not exist."""
    record = planted.records("bank.account.events", Deposited)[-1]
    event = msgspec.msgpack.decode(record.value or b"", type=Deposited)
    planted.write(record, msgspec.structs.replace(event, transfer="t-nobody"))
    assert planted.failing() == {MOVED}


# --- commands without an outcome ----------------------------------------------------------------------------------


def test_a_command_that_was_not_handled(planted: Planted) -> None:
    """A committed command is at the group's offset."""
    planted.append("bank.account.commands", 0, b"k", encode(Close()))
    assert planted.failing() == {LEFT}


def test_a_stashed_command(planted: Planted) -> None:
    """A command is stashed until its record is a tombstone."""
    planted.append("bank.account.state", 0, b"\0stash/7", encode_changelog_record(STASHED), (CAUSE,))
    assert planted.failing() == {LEFT}
    planted.append("bank.account.state", 0, b"\0stash/7", None, (("cause", b"bank.account.commands/0/999999/1"),))
    assert planted.failing() == set()


def test_a_dead_letter(planted: Planted) -> None:
    """This load makes no dead letters."""
    cause = ("cause", b"bank.account.commands/0/0/0")
    planted.append("bank.dead-letters", 0, b"k", b"", (cause, ("error-message", b"no")))
    assert planted.failing() == {LEFT}


def test_what_the_runtime_promises_is_audited_too(planted: Planted) -> None:
    """A missing event that does not affect money is found by the checks of the runtime."""
    planted.remove(planted.in_tail("bank.transfer.events", StepsOpened)[0])
    with closing(planted._backend.reader()) as reader:
        failing = {check.name for check in audit(reader, system) if not check.ok}
    assert "single writer" in failing
    assert not failing & set(BANK)
