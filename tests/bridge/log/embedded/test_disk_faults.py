"""A disk that fails: each COMMIT, each instruction of each transaction, and the checkpoint. SQLite and errors are real.

A COMMIT is made to fail by the descriptor of the write-ahead log: it is exchanged for a device just before the COMMIT.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from repertory import ActorSystem
from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded import store
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.embedded.log import EmbeddedLog
from repertory.bridge.log.errors import LogUnavailable, OutcomeUnknown
from repertory.bridge.log.port import (
    Aborted,
    Assigned,
    Claimed,
    Committed,
    Member,
    TopicSpec,
    Transaction,
)
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.system.settings import Settings
from repertory.verify import verify
from tests.apps.counting import Add, Counter

COMMANDS, EVENTS = "bank.account.commands", "bank.account.events"
SPECS = [TopicSpec(topic, 2, {}) for topic in (COMMANDS, EVENTS)]
SHARD, OTHER = TopicPartition(COMMANDS, 0), TopicPartition(COMMANDS, 1)

#: What fails at the COMMIT, and the device that makes it fail: writing, syncing what was written, or finding room.
FAULTS = {"FULL": "/dev/full", "IOERR_FSYNC": "/dev/null", "IOERR_WRITE": None}


class Disk:
    """Makes SQLite's calls to the disk fail. It sees each statement of each connection before it is executed."""

    def __init__(self) -> None:
        self.fault = ""
        #: How many commits pass before the fault strikes, and how many instructions; None: no limit.
        self.commits_left = 0
        self.instructions_left: int | None = None
        #: How many statements are executed before one that cannot use the write-ahead log, for reading either.
        self.statements_left: int | None = None
        self.has_failed = False
        self._kept: list[tuple[int, int]] = []

    def watch(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """See the statements and instructions of a connection."""
        connection.set_trace_callback(self._statement)
        connection.set_progress_handler(self._instruction, 1)
        return connection

    def _statement(self, sql: str) -> None:
        if self.statements_left is not None:
            self._mend()
            self.statements_left -= 1
            if self.statements_left == -1:
                self._break("IOERR_FSYNC")
        elif sql == "COMMIT" and self.fault:
            self.commits_left -= 1
            if self.commits_left < 0:
                self._break(self.fault)

    def _break(self, fault: str) -> None:
        device, self.fault, self.has_failed = FAULTS[fault], "", True
        for number, path in _logs():
            self._kept.append((os.dup(number), number))
            broken = os.open(device or path, os.O_RDWR if device else os.O_RDONLY)
            os.dup2(broken, number)
            os.close(broken)

    def _mend(self) -> None:
        for kept, number in self._kept:
            os.dup2(kept, number)
            os.close(kept)
        self._kept = []

    def _instruction(self) -> bool:
        if self.instructions_left is None:
            return False
        self.instructions_left -= 1
        self.has_failed = self.has_failed or self.instructions_left < 0
        return self.instructions_left == -1

    def heal(self) -> None:
        """Work again; a fault that waits for a later COMMIT still strikes there."""
        self._mend()
        self.instructions_left = self.statements_left = None


def _logs() -> list[tuple[int, str]]:
    """Return the descriptors of this process's write-ahead logs, with their paths."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            path = str(descriptor.readlink())
            if path.endswith("-wal"):
                found.append((int(descriptor.name), path))
    return found


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Give the disk of all logs that are opened from now on."""
    disk = Disk()
    opened = store._open
    monkeypatch.setattr(store, "_open", lambda path: disk.watch(opened(path)))
    yield disk
    disk.heal()


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic_s(self) -> float:
        """Return the time of leases."""
        return self.now_s

    def epoch_ms(self) -> int:
        """Return the time of records."""
        return int(self.now_s * 1_000)


class World:
    """A log with two members, the first of which has claimed a shard."""

    def __init__(self, path: str) -> None:
        self.clock = Clock()
        url = f"sqlite:{path}" if path else "memory:"
        self.backend = EmbeddedBackend(url, Settings(session_timeout_s=6.0), path=path, clock=self.clock)
        self.backend.ensure(SPECS)
        self.appender, self.reader = self.backend.appender(), self.backend.reader()
        self.appender.append([Output(COMMANDS, 0, None, b"before")])
        self.member, self.other = self.log(0), self.log(1)
        assert self.member.poll(0) == [Assigned(SHARD), Assigned(OTHER)]
        self.member.claim(SHARD, [EVENTS])
        assert isinstance(self.member.poll(0)[0], Claimed)

    def log(self, slot: int) -> EmbeddedLog:
        """Return a member that joins at its first poll."""
        return self.backend.log(Member("bank", "here", slot), [COMMANDS])

    def contents(self) -> list[str]:
        """Return all that is committed."""
        connection = self.reader._store.connection()
        tables = ("meta", "topic", "partition", "record", "shard", "member")
        return [repr(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables]  # noqa: S608

    def close(self) -> None:
        """Close all."""
        for port in (self.member, self.other, self.appender, self.reader, self.backend):
            port.close()


def append(world: World) -> object:
    """Append records to two partitions."""
    return world.appender.append([Output(COMMANDS, 0, None, b"x"), Output(EVENTS, 1, None, bytes(9_000))])


def commit(world: World) -> object:
    """Commit a turn."""
    world.member.commit(Transaction(SHARD, 1, [Output(EVENTS, 0, None, b"%d" % n * 200) for n in range(6)]))
    return world.member


def join(world: World) -> object:
    """Become a member."""
    return world.other.poll(0)


def renew(world: World) -> object:
    """Renew a lease that is due."""
    world.clock.now_s += 2.5
    return world.member.poll(0)


def evict(world: World) -> object:
    """Take the shards of a member whose lease ran out."""
    world.clock.now_s += 7.0
    return world.other.poll(0)


def leave(world: World) -> object:
    """Leave the group."""
    world.member.close()
    return None


def ensure(world: World) -> object:
    """Make a topic."""
    return world.backend.ensure([TopicSpec("bank.more", 3, {})])


#: What writes in a transaction, and its result when nothing fails (``commit``: the next poll's).
OPERATIONS: dict[Callable[[World], object], object] = {
    append: [1, 0],
    commit: [Committed],
    join: [],
    renew: [],
    evict: [Assigned, Assigned],
    leave: None,
    ensure: ["bank.more"],
}


def outcome(operation: Callable[[World], object], world: World, disk: Disk) -> object:
    """Do it; return its result, with events by their types, or its error."""
    try:
        said = operation(world)
    except (LogUnavailable, OutcomeUnknown) as error:
        said = error
    disk.heal()
    if isinstance(said, EmbeddedLog):
        said = said.poll(0)
    return (
        [type(each) if isinstance(each, msgspec.Struct) else each for each in said] if isinstance(said, list) else said
    )


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failed_commit_leaves_nothing_and_is_reported(
    disk: Disk, tmp_path: Path, operation: Callable[[World], object], fault: str
) -> None:
    """SQLite undoes a transaction whose COMMIT fails: it is never taken for committed, and it can be done again."""
    world = World(str(tmp_path / "bank.db"))
    before = world.contents()
    disk.fault = fault
    said = outcome(operation, world, disk)
    assert disk.has_failed
    assert world.contents() == before
    if operation is leave:  # Who leaves cannot help it: the lease ends by itself.
        assert said is None
    elif operation is commit and fault != "FULL":
        assert said == [Aborted]
    else:
        assert isinstance(said, OutcomeUnknown if operation is append and fault != "FULL" else LogUnavailable)
        assert "disk is full" in str(said) if fault == "FULL" else f"SQLITE_{fault}" in str(said)
    world.close()
    again = World(str(tmp_path / "again.db"))
    assert outcome(operation, again, disk) == OPERATIONS[operation]
    assert again.contents() != before
    again.close()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_transaction_may_fail_at_each_instruction(disk: Disk, operation: Callable[[World], object]) -> None:
    """An error within any statement undoes the whole transaction; an error at its end says that it may have happened.

    SQLite reports an interrupted COMMIT that has happened like one that has not.
    """
    instructions, is_done = 0, False
    while not is_done:
        world = World("")
        before = world.contents()
        disk.instructions_left, disk.has_failed = instructions, False
        said = outcome(operation, world, disk)
        is_done = not disk.has_failed
        happened = world.contents() != before
        match said:
            case OutcomeUnknown():
                assert operation is append
            case LogUnavailable():
                assert not happened or operation not in (append, commit)
            case [kind] if kind is Aborted:
                assert operation is commit
            case _:
                assert said == OPERATIONS[operation]
                assert happened or operation is leave
        world.close()
        instructions += 1
    assert instructions > 50, "the instructions were not counted"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_transaction_may_fail_at_each_statement(
    disk: Disk, tmp_path: Path, operation: Callable[[World], object]
) -> None:
    """A statement that cannot read the file makes SQLite undo all before it: nothing after it may be executed."""
    statements, is_done = 0, False
    while not is_done:
        world = World(str(tmp_path / f"{statements}.db"))
        before = world.contents()
        disk.statements_left, disk.has_failed = statements, False
        said = outcome(operation, world, disk)
        is_done = not disk.has_failed
        if isinstance(said, LogUnavailable | OutcomeUnknown) or said == [Aborted]:
            assert world.contents() == before, statements
        else:
            assert said == OPERATIONS[operation]
            assert world.contents() != before or operation is leave
        world.close()
        statements += 1
    assert statements > 4, "the statements were not counted"


@pytest.mark.parametrize("fault", FAULTS)
def test_any_commit_of_a_system_may_fail(disk: Disk, tmp_path: Path, fault: str) -> None:
    """Whichever COMMIT fails, of the clients, the group or a turn: every command is handled once, and none is lost."""
    system = ActorSystem("counting")
    system.host(Counter, partitions=2)
    number, is_done = 0, False
    while not is_done:
        url = f"sqlite:{tmp_path / str(number)}.db"
        with system.start(url) as running:
            disk.commits_left, disk.fault, disk.has_failed = number, fault, False
            sent = 0
            while sent < 6:
                with contextlib.suppress(LogUnavailable, OutcomeUnknown):
                    running.client.tell(Counter.add, f"k{sent % 3}", Add(by=1 << sent))
                    sent += 1
                disk.heal()
            with contextlib.suppress(LogUnavailable):
                running.settle()
            disk.heal()
            running.settle()
            is_done, disk.fault = not disk.has_failed, ""
            totals = [getattr(running.state(Counter, f"k{key}"), "total", 0) for key in range(3)]
            assert totals == [0b001001, 0b010010, 0b100100]
            assert verify(running.reader, system).ok
        number += 1
    assert number > 6, "no commit of a turn failed"


def test_a_failed_checkpoint_fails_no_commit(disk: Disk, tmp_path: Path) -> None:
    """What is in the write-ahead log is committed, whether or not SQLite can copy it into the file afterwards."""
    path = tmp_path / "bank.db"
    world = World(str(path))
    large = [Output(EVENTS, 0, None, bytes(100_000))]
    limit_bytes = 6_000_000  # Above the write-ahead log of 1,000 pages, below the file that it is copied into.
    appended = 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        with pytest.raises((LogUnavailable, OutcomeUnknown)):  # noqa: PT012
            while True:
                world.appender.append(large)
                appended += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert appended * 100_000 > limit_bytes, "commits ended before the checkpoint could fail"
    assert world.reader.bounds(EVENTS, 0) == (0, appended)
    world.appender.append(large)
    assert [len(record.value or b"") for record in world.reader.read(EVENTS, 0)] == [100_000] * (appended + 1)
    world.close()
    reader = connect(f"sqlite:{path}").reader()
    assert reader.bounds(EVENTS, 0) == (0, appended + 1)
    reader.close()
