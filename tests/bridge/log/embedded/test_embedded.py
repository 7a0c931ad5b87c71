"""The embedded log alone: processes killed and stopped, files that are not logs, a model of its commits."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded import schema
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.embedded.log import EmbeddedLog
from repertory.bridge.log.embedded.schema import allot
from repertory.bridge.log.errors import (
    InvalidSetting,
    LogError,
    LogUnavailable,
    SlotTaken,
)
from repertory.bridge.log.port import (
    Assigned,
    Claimed,
    Committed,
    Fenced,
    LogEvent,
    Lost,
    Member,
    TopicSpec,
    Transaction,
)
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.system.settings import Settings
from repertory.supervision.process.proc import pid_start
from tests.support.processes import started

COMMANDS, EVENTS, STATE = "bank.account.commands", "bank.account.events", "bank.account.state"
SPECS = [TopicSpec(topic, 2, {}) for topic in (COMMANDS, EVENTS, STATE)]
SHARD, OTHER = TopicPartition(COMMANDS, 0), TopicPartition(COMMANDS, 1)

#: A worker that commits without end: transaction n sets the next offset n + 1 and writes n, three times into each of
#: two topics. It says each transaction that it knows to have happened, and each other event.
WORKER = """
import sys
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import (
    Assigned,
    Claimed,
    Committed,
    Member,
    Transaction,
)
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.system.settings import Settings

url, slot, lease_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
log = connect(url, Settings(session_timeout_s=lease_s)).log(Member("bank", "here", slot), ["bank.account.commands"])
at = {}

def commit(shard):
    n = at[shard]
    topics = ["bank.account.events", "bank.account.state"] * 3
    log.commit(Transaction(shard, n + 1, [Output(topic, shard.partition, None, b"%d" % n) for topic in topics]))

while True:
    for event in log.poll(0.05):
        print(type(event).__name__, event.shard.partition, at.get(event.shard), flush=True)
        match event:
            case Assigned():
                log.claim(event.shard, [])
            case Claimed():
                at[event.shard] = event.committed or 0
                commit(event.shard)
            case Committed():
                at[event.shard] += 1
                commit(event.shard)
"""

#: A member within a handler that takes long: it has joined, and polls no more.
BUSY = """
import sys
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Member

log = connect(sys.argv[1]).log(Member("bank", "here", 0), ["bank.account.commands"])
print(len(log.poll(0)), flush=True)
sys.stdin.read()
"""

#: The user without rights, on every Linux.
NOBODY = 65_534


#: Those of a member in a test's own process.
LEASE = Settings(session_timeout_s=6.0)


class Clock:
    """Stands still unless it is told to go on; the calendar can jump alone."""

    def __init__(self) -> None:
        self.now_s, self.jumped_s = 1_000.0, 0.0

    def monotonic_s(self) -> float:
        """Return the time of leases."""
        return self.now_s

    def epoch_ms(self) -> int:
        """Return the time of records."""
        return int((self.now_s + self.jumped_s) * 1_000)


class Worker:
    """A worker in a process of its own."""

    def __init__(self, url: str, slot: int, lease_s: float) -> None:
        command = [sys.executable, "-c", WORKER, url, str(slot), str(lease_s)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def until(self, word: str) -> str:
        """Read what it says up to a line that begins with a word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise AssertionError(f"the worker ended before it said {word}")

    def kill(self) -> None:
        """End it as a crash does, if it has not ended."""
        self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.db"


@pytest.fixture
def url(path: Path) -> str:
    url = f"sqlite:{path}"
    connect(url).ensure(SPECS)
    return url


@pytest.fixture
def start(url: str) -> Iterator[Callable[..., Worker]]:
    """Give a function that starts workers, which are killed in the end."""
    workers: list[Worker] = []

    def start(slot: int = 0, lease_s: float = 6.0) -> Worker:
        workers.append(Worker(url, slot, lease_s))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def whole_transactions(url: str, partition: int) -> int:
    """Check that the log holds whole transactions, each once and in order, and return how many."""
    reader = connect(url).reader()
    count = reader.committed("bank", COMMANDS, partition) or 0
    for topic in (EVENTS, STATE):
        values = [record.value for record in reader.read(topic, partition)]
        assert values == [b"%d" % n for n in range(count) for _ in range(3)]
    reader.close()
    return count


# --- processes ------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_kill_tears_no_transaction(url: str, start: Callable[..., Worker]) -> None:
    """A worker killed at any moment leaves whole transactions, and its successor goes on at once after the last."""
    random = Random(20_240_601)  # noqa: S311 - the moments of the kills, the same in every run
    committed = 0
    for _ in range(12):
        worker = start()
        worker.until("Committed 0")
        time.sleep(random.uniform(0.0, 0.05))  # The moment of the kill, not a wait for something.
        worker.kill()
        after = whole_transactions(url, 0)
        assert after > committed
        committed = after


@pytest.mark.processes
def test_a_kill_frees_the_slot_at_once(url: str, start: Callable[..., Worker]) -> None:
    """A killed worker's lease of an hour keeps neither its slot nor another worker from its shards."""
    for slot in (0, 0, 1):
        worker = start(slot, 3_600.0)
        worker.until("Committed 0")
        worker.kill()
    assert whole_transactions(url, 0) >= 3


@pytest.mark.processes
def test_a_live_process_keeps_its_slot(url: str, start: Callable[..., Worker]) -> None:
    """A second process with the slot of a live one is refused with a sentence that names the pid."""
    worker = start()
    worker.until("Committed")
    second = connect(url).log(Member("bank", "here", 0), [COMMANDS])
    with pytest.raises(SlotTaken, match=f"process {worker.process.pid}"):
        second.poll(0)
    second.close()


@pytest.mark.processes
def test_a_sleeping_process_is_fenced_and_recovers(url: str, start: Callable[..., Worker]) -> None:
    """A worker stopped past its lease is replaced; awake, it overwrites nothing and takes part again."""
    sleeper = start(0, 0.5)
    sleeper.until("Committed 1")
    stop_outside_of_a_write(sleeper, url)
    other = start(1, 0.5)
    for partition in (0, 1):
        other.until(f"Committed {partition}")
    os.kill(sleeper.process.pid, signal.SIGCONT)
    while (line := sleeper.until("")).split()[0] not in ("Fenced", "Lost"):
        assert line.startswith("Committed")  # An outcome from before it was stopped.
    sleeper.until("Assigned")
    sleeper.until("Committed")
    for worker in (sleeper, other):
        worker.kill()
    for partition in (0, 1):
        assert whole_transactions(url, partition) > 1


@pytest.fixture
def busy(url: str) -> Iterator[subprocess.Popen[str]]:
    """Give a process that is a member with all shards, within a handler."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", BUSY, url]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "2\n"
        yield process
        process.kill()


@pytest.fixture
def other(busy: subprocess.Popen[str], url: str, path: Path) -> Iterator[tuple[EmbeddedLog, Clock]]:
    """Give another member, and its clock: that of the machine, until the test sets it forward."""
    assert busy.poll() is None
    clock = Clock()
    clock.now_s = time.monotonic()
    log = EmbeddedBackend(url, LEASE, path=str(path), clock=clock).log(Member("bank", "here", 1), [COMMANDS])
    assert log.poll(0) == []
    yield log, clock
    log.close()


BOTH = [Assigned(SHARD), Assigned(OTHER)]


@pytest.mark.processes
def test_a_member_in_a_long_handler_is_not_evicted(other: tuple[EmbeddedLog, Clock]) -> None:
    """A lease ends during a handler that takes long: the others wait until its supervisor would have killed it."""
    log, clock = other
    clock.now_s += LEASE.session_timeout_s + 1.0
    assert log.poll(0) == []
    clock.now_s += LEASE.busy_s - 2.0
    assert log.poll(0) == []
    clock.now_s += 2.0
    assert log.poll(0) == BOTH


@pytest.mark.processes
def test_a_stopped_member_is_evicted_at_the_end_of_its_lease(
    other: tuple[EmbeddedLog, Clock], busy: subprocess.Popen[str]
) -> None:
    """What is stopped runs no handler, so nothing is waited for beyond its lease."""
    log, clock = other
    os.kill(busy.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, busy.pid, os.WSTOPPED)
    clock.now_s += LEASE.session_timeout_s - 1.0
    assert log.poll(0) == []
    clock.now_s += 2.0
    assert log.poll(0) == BOTH


@pytest.mark.processes
@pytest.mark.parametrize("boot", [False, True])
def test_a_pid_that_was_used_again_is_not_the_dead_member(
    other: tuple[EmbeddedLog, Clock], busy: subprocess.Popen[str], *, boot: bool
) -> None:
    """A dead member is evicted at once, though another process has its pid by now, in this boot or after another."""
    log, _ = other
    start = pid_start(busy.pid)
    assert start is not None
    # As if the pid and, after the next boot, the moment of the start were those of the member that died.
    dead = f"another-boot/{start.partition('/')[2]}" if boot else f"{start}1"
    with log._store.write() as connection:
        connection.execute("UPDATE member SET pid_start = ? WHERE pid = ?", (dead, busy.pid))
        connection.execute(schema.CHANGED)
    assert log.poll(0) == BOTH


def stop_outside_of_a_write(worker: Worker, url: str) -> None:
    """Stop a worker while it holds no lock."""
    backend = connect(url)
    assert isinstance(backend, EmbeddedBackend)
    while True:
        os.kill(worker.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED)
        if backend.writer_pid() is None:
            return
        os.kill(worker.process.pid, signal.SIGCONT)


@pytest.mark.processes
def test_a_process_stopped_in_a_write_is_named(url: str) -> None:
    """Who waits too long for the write lock says which process holds it; once that is killed, the log goes on."""
    code = (
        "import os, signal, sys; from repertory.bridge.log.connect import connect;"
        "store = connect(sys.argv[1]).appender()._store; store.connection().execute('BEGIN IMMEDIATE');"
        "os.kill(os.getpid(), signal.SIGSTOP)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    backend = connect(url, Settings(lock_timeout_s=0.05))
    appender = backend.appender()
    with started([sys.executable, "-c", code, url], env=environment) as holder:
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
        assert isinstance(backend, EmbeddedBackend)
        assert backend.writer_pid() == holder.pid
        with pytest.raises(LogUnavailable, match=f"locked by process {holder.pid} "):
            appender.append([Output(COMMANDS, 0, None, b"x")])
    assert backend.writer_pid() is None
    assert appender.append([Output(COMMANDS, 0, None, b"x")]) == [0]
    appender.close()


@pytest.mark.processes
def test_processes_that_come_and_go_meet_no_damage(path: Path) -> None:
    """Opening, making and closing a log beside others that do the same is never taken for damage or a foreign file."""
    code = (
        "import sys; from repertory.bridge.log.connect import connect; from repertory.bridge.log.port import TopicSpec;"
        "from repertory.bridge.log.record import Output;\n"
        "for _ in range(40):\n"
        "    backend = connect(sys.argv[1]); backend.ensure([TopicSpec('t', 1, {})]); appender = backend.appender()\n"
        "    appender.append([Output('t', 0, None, bytes(5_000))]); appender.close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, f"sqlite:{path}"]
    with ExitStack() as stack:
        processes = [stack.enter_context(started(command, env=environment)) for _ in range(6)]
        assert [process.wait() for process in processes] == [0] * 6
    reader = connect(f"sqlite:{path}").reader()
    assert reader.bounds("t", 0) == (0, 240)
    reader.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.processes
def test_a_connection_is_not_carried_across_a_fork(url: str) -> None:
    """A forked process that uses its parent's connection stops at an assertion."""
    reader = connect(url).reader()
    assert reader.bounds(COMMANDS, 0) == (0, 0)
    if (pid := os.fork()) == 0:
        try:
            reader.bounds(COMMANDS, 0)
        except AssertionError:
            os._exit(17)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 17
    reader.close()


# --- files ----------------------------------------------------------------------------------------------------


def refusal(path: Path) -> str:
    """Return the sentence with which a file is refused."""
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(LogError) as error:
        connect(f"sqlite:{path}").reader().bounds(COMMANDS, 0)
    assert (path.read_bytes() if path.is_file() else b"") == before
    return str(error.value)


def test_a_foreign_database_is_left_alone(path: Path) -> None:
    """An SQLite file of another application is refused, and not a byte of it changes."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE record (their_own)")
    connection.close()
    assert "no repertory log" in refusal(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_foreign_file_is_left_alone(path: Path) -> None:
    """A file that is no SQLite file is refused, and not a byte of it changes."""
    path.write_text("Dear diary, " * 1_000)
    assert "not an SQLite file" in refusal(path)


def test_a_newer_schema_is_refused(path: Path, url: str) -> None:
    """A log of another schema version is refused with both versions."""
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET schema_version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(LogError, match="schema 99"):
        connect(url).reader().bounds(COMMANDS, 0)


def test_a_damaged_file_is_named(path: Path, url: str) -> None:
    """Damage that SQLite notices is a sentence with the path and the mend, not a traceback of sqlite3."""
    appender = connect(url).appender()
    appender.append([Output(COMMANDS, 0, None, bytes(1_000)) for _ in range(1_000)])
    appender.close()
    pages = bytearray(path.read_bytes())
    pages[4_096:] = b"\xff" * (len(pages) - 4_096)
    path.write_bytes(pages)
    assert "is damaged" in refusal(path)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    """A log in a directory that does not exist is refused with its name, and nothing is made."""
    with pytest.raises(LogUnavailable, match="no directory"):
        connect(f"sqlite:{tmp_path / 'no' / 'bank.db'}").ensure(SPECS)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_no_log(tmp_path: Path) -> None:
    """A directory where the file should be is refused."""
    with pytest.raises(LogUnavailable, match=str(tmp_path)):
        connect(f"sqlite:{tmp_path}").ensure(SPECS)


def test_a_directory_without_permission_is_named() -> None:
    """A log that may not be made is refused, and nothing is left behind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        try:
            if os.getuid() == 0:  # root may write anywhere: be nobody for a moment
                os.seteuid(NOBODY)
            with pytest.raises(LogUnavailable, match="cannot be made: Permission denied"):
                connect(f"sqlite:{folder / 'bank.db'}").ensure(SPECS)
        finally:
            os.seteuid(os.getuid())
        assert list(folder.iterdir()) == []


def test_a_full_disk_is_named(url: str) -> None:
    """A transaction that does not fit is refused and leaves nothing; a smaller one is taken."""
    appender = connect(url).appender()
    store = appender._store  # type: ignore[attr-defined]
    pages = store.rows("PRAGMA page_count")[0][0]
    store.rows(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(LogUnavailable, match="disk is full"):
        appender.append([Output(COMMANDS, 0, None, bytes(50_000)), Output(COMMANDS, 1, None, b"x")])
    assert appender.append([Output(COMMANDS, 0, None, b"x"), Output(COMMANDS, 1, None, b"x")]) == [0, 0]
    appender.close()


def test_looking_makes_no_file(path: Path) -> None:
    """Asking a log that is not there for its topics makes no file."""
    assert connect(f"sqlite:{path}").topics() == {}
    assert not path.exists()


# --- urls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory:x",
        "sqlite:",
        "sqlite://bank.db",
        "postgres:bank",
        "kafka:a:1",
        "kafka://",
        "kafka://a",
        "kafka://a:0",
        "kafka://a:65536",
        "kafka://a:1,",
        "kafka://a:1/topic",
        "bank.db",
    ],
)
def test_a_malformed_url_is_refused(url: str) -> None:
    """A URL of none of the three forms is refused with a sentence that names it and them."""
    with pytest.raises(InvalidSetting) as error:
        connect(url)
    for part in (repr(url), "memory:", "sqlite:PATH", "kafka://host:port"):
        assert part in str(error.value)


def test_a_refused_url_shows_no_password() -> None:
    """The sentence says where it belongs."""
    with pytest.raises(InvalidSetting, match=r"'kafka://…@host:9092' names no log: .*; user and password stand in"):
        connect("kafka://ann:secret@host:9092")


# --- models ---------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> Iterator[EmbeddedBackend]:
    """Give a log in memory whose time is the test's."""
    backend = EmbeddedBackend("memory:", Settings(session_timeout_s=6.0), clock=clock)
    backend.ensure(SPECS)
    yield backend
    backend.close()


def test_a_change_of_members_is_seen_at_the_next_poll(memory: EmbeddedBackend) -> None:
    """Who has more than its share gives it up at its next poll, and who lacks it takes it at its own."""
    first, second = (memory.log(Member("bank", "here", slot), [COMMANDS]) for slot in (0, 1))
    assert first.poll(0) == [Assigned(SHARD), Assigned(OTHER)]
    assert second.poll(0) == []
    assert [(type(event), event.shard) for event in first.poll(0)] == [(Lost, OTHER)]
    assert second.poll(0) == [Assigned(OTHER)]
    second.close()
    assert first.poll(0) == [Assigned(OTHER)]


def test_a_dead_member_is_noticed_long_before_its_lease_ends(clock: Clock) -> None:
    """The others look for members whose process has died: their shards do not wait for the next renewal of a lease."""
    backend = EmbeddedBackend("memory:", Settings(session_timeout_s=3_600.0), clock=clock)
    backend.ensure(SPECS)
    first, second = (backend.log(Member("bank", "here", slot), [COMMANDS]) for slot in (0, 1))
    assert first.poll(0) == BOTH
    assert second.poll(0) == []
    first.abandon()
    clock.now_s += 1.0
    assert second.poll(0) == BOTH
    backend.close()


def test_an_evicted_member_loses_everything(memory: EmbeddedBackend, clock: Clock) -> None:
    """Who was evicted while it slept hears ``Lost`` for each shard that it had, also for one that it gets back."""
    first, second = (memory.log(Member("bank", "here", slot), [COMMANDS]) for slot in (0, 1))
    first.poll(0)
    clock.now_s += 7.0
    assert second.poll(0) == [Assigned(SHARD), Assigned(OTHER)]
    second.close()
    events = [(type(event), event.shard) for event in first.poll(0)]
    assert events == [(Lost, SHARD), (Lost, OTHER), (Assigned, SHARD), (Assigned, OTHER)]


def test_a_slow_member_that_nobody_replaced_loses_nothing(memory: EmbeddedBackend, clock: Clock) -> None:
    """A lease that ran out while no other member looked is renewed."""
    log = memory.log(Member("bank", "here", 0), [COMMANDS])
    log.poll(0)
    clock.now_s += 3_600.0
    assert log.poll(0) == []


def test_commits_renew_the_lease(memory: EmbeddedBackend, clock: Clock) -> None:
    """A member that commits is alive, though it has no time to poll."""
    busy, other = (memory.log(Member("bank", "here", slot), [COMMANDS]) for slot in (0, 1))
    busy.poll(0)
    busy.claim(SHARD, [])
    busy.poll(0)
    for next_offset in range(8):
        clock.now_s += 2.5
        busy.commit(Transaction(SHARD, next_offset, []))
        assert other.poll(0) == []
    assert Committed(SHARD, {}) in busy.poll(0)


@pytest.mark.parametrize("jump_s", [86_400.0, -86_400.0])
def test_a_calendar_that_jumps_ends_no_lease(memory: EmbeddedBackend, clock: Clock, jump_s: float) -> None:
    """Leases are measured on a clock that nobody sets: one that ran out has, and no other."""
    first, second = (memory.log(Member("bank", "here", slot), [COMMANDS]) for slot in (0, 1))
    first.poll(0)
    clock.jumped_s = jump_s
    assert second.poll(0) == []
    clock.now_s += 7.0
    assert second.poll(0) == BOTH


def test_a_member_that_was_evicted_before_its_claim_claims_nothing(memory: EmbeddedBackend, clock: Clock) -> None:
    """Who sleeps between two steps of a poll is no owner any more when it claims: the rightful one is not fenced."""
    first, second = (memory.log(Member("bank", "here", slot), [COMMANDS]) for slot in (0, 1))
    first.poll(0)
    first.claim(SHARD, [])
    clock.now_s += 7.0
    assert second.poll(0) == BOTH
    second.claim(SHARD, [])
    assert isinstance(second.poll(0)[0], Claimed)
    first._claim_all()  # The rest of the poll within which it fell asleep.
    second.commit(Transaction(SHARD, 1, []))
    assert second.poll(0) == [Committed(SHARD, {})]
    assert [type(event) for event in first.poll(0) if event.shard == SHARD] == [Fenced]


def test_a_taken_slot_ends_the_sleeper(memory: EmbeddedBackend, clock: Clock) -> None:
    """Who wakes up and finds its slot with a live successor leaves, and the successor goes on."""
    old, new = (memory.log(Member("bank", "here", 0), [COMMANDS]) for _ in (0, 1))
    old.poll(0)
    clock.now_s += 7.0
    assert new.poll(0) == [Assigned(SHARD), Assigned(OTHER)]
    with pytest.raises(SlotTaken, match="slot 0 of node 'here' in group bank"):
        old.poll(0)


WHO = PARTITION = st.integers(0, 1)


class CommittedHistory(RuleBasedStateMachine):
    """Two members that poll, sleep, crash and commit, against a dictionary that knows who was given a shard last."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.backend = EmbeddedBackend("memory:", Settings(session_timeout_s=6.0), clock=self.clock)
        self.backend.ensure(SPECS)
        self.appender, self.reader = self.backend.appender(), self.backend.reader()
        self.logs = [self.join(slot) for slot in (0, 1)]
        #: Per member its claimed shards with their next offsets, and the outcomes that its next poll has to tell.
        self.claimed: list[dict[TopicPartition, int]] = [{}, {}]
        self.outcomes: list[list[tuple[type, TopicPartition]]] = [[], []]
        self.holder: dict[TopicPartition, int] = {}
        self.history: dict[int, list[bytes | None]] = {0: [], 1: []}
        self.committed: dict[int, int | None] = {0: None, 1: None}
        self.values = itertools.count()

    def join(self, slot: int) -> EmbeddedLog:
        """Return a new log of a member."""
        return self.backend.log(Member("bank", "here", slot), [COMMANDS])

    @rule(seconds=st.sampled_from([0.6, 2.5, 7.0]))
    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.now_s += seconds

    @rule(partition=PARTITION)
    def append(self, partition: int) -> None:
        """Append from outside."""
        value = b"%d" % next(self.values)
        self.appender.append([Output(EVENTS, partition, None, value)])
        self.history[partition].append(value)

    @rule(who=WHO)
    def crash(self, who: int) -> None:
        """Kill a member and start another in its slot."""
        self.backend.abandon(self.logs[who])
        self.logs[who], self.claimed[who], self.outcomes[who] = self.join(who), {}, []

    @rule(who=WHO)
    def leave(self, who: int) -> None:
        """Close a member and start another in its slot."""
        self.logs[who].close()
        self.logs[who], self.claimed[who], self.outcomes[who] = self.join(who), {}, []

    @rule(who=WHO, partition=PARTITION)
    def claim_again(self, who: int, partition: int) -> None:
        """Claim what is claimed."""
        shard = TopicPartition(COMMANDS, partition)
        if self.claimed[who].pop(shard, None) is not None:
            self.outcomes[who] = [outcome for outcome in self.outcomes[who] if outcome[1] != shard]
            self.logs[who].claim(shard, [EVENTS])

    @rule(who=WHO, partition=PARTITION, records=st.integers(0, 3))
    def commit(self, who: int, partition: int, records: int) -> None:
        """Commit: it happens if nobody was given the shard since."""
        shard = TopicPartition(COMMANDS, partition)
        if shard not in self.claimed[who] or any(shard == outcome[1] for outcome in self.outcomes[who]):
            return
        values: list[bytes | None] = [b"%d" % next(self.values) for _ in range(records)]
        next_offset = self.claimed[who][shard] + records
        outputs = [Output(EVENTS, partition, None, value) for value in values]
        self.logs[who].commit(Transaction(shard, next_offset, outputs))
        if self.holder[shard] == who:
            self.claimed[who][shard] = self.committed[partition] = next_offset
            self.history[partition] += values
            self.outcomes[who].append((Committed, shard))
        else:
            del self.claimed[who][shard]
            self.outcomes[who].append((Fenced, shard))

    @rule(who=WHO)
    def poll(self, who: int) -> None:
        """Hear what has happened: the outcomes of commits, then the rest."""
        for event in self.logs[who].poll(0):
            if (type(event), event.shard) in self.outcomes[who]:
                self.outcomes[who].remove((type(event), event.shard))
            else:
                self.hear(who, event)
        assert self.outcomes[who] == [], "a commit's outcome is told by the next poll"

    def hear(self, who: int, event: LogEvent) -> None:
        """Take in one event that is no outcome."""
        match event:
            case Assigned():
                self.holder[event.shard] = who
                self.logs[who].claim(event.shard, [EVENTS])
            case Claimed():
                partition = event.shard.partition
                assert event.committed == self.committed[partition]
                assert event.ends == {EVENTS: len(self.history[partition])}
                self.claimed[who][event.shard] = event.committed or 0
            case Lost() | Fenced():
                self.claimed[who].pop(event.shard, None)
            case _:
                raise AssertionError(f"{event} was not expected")

    @invariant()
    def the_log_is_the_dictionary(self) -> None:
        """What is committed is what the dictionary holds."""
        for partition in (0, 1):
            values = [record.value for record in self.reader.read(EVENTS, partition)]
            assert values == self.history[partition]
            assert self.reader.committed("bank", COMMANDS, partition) == self.committed[partition]

    def teardown(self) -> None:
        """Close the log."""
        self.backend.close()


TestCommittedHistory = CommittedHistory.TestCase
TestCommittedHistory.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


OWNER = st.sampled_from([*"abcd", "gone", None])


@given(
    members=st.sets(st.sampled_from("abcd")),
    owners=st.dictionaries(st.builds(TopicPartition, st.sampled_from(["x", "y"]), st.integers(0, 8)), OWNER),
)
def test_shares_are_even_and_stable(members: set[str], owners: dict[TopicPartition, str | None]) -> None:
    """Shares cover every shard, are even in all and per topic, and stay as they are when nobody comes or goes."""
    subscriptions = {member: ["x", "y"] for member in sorted(members)}
    allotted = allot(subscriptions, owners)
    assert set(allotted) == (set(owners) if members else set())
    assert set(allotted.values()) <= members
    for topics in ("x", "y", "xy"):
        shards = [shard for shard in allotted if shard.topic in topics]
        counts = [sum(allotted[shard] == member for shard in shards) for member in members] or [0]
        assert max(counts) - min(counts) <= 1
    assert allot(subscriptions, allotted) == allotted
