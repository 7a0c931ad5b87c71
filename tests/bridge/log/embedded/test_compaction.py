"""Compaction of the embedded log: the last record of each key stays, whoever reads, writes or is killed meanwhile."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Self

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from repertory import ActorSystem, Command, Context, Entity, Event, Publishes, command, event
from repertory.bridge.log.compacted import is_compacted
from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded import compaction, store
from repertory.bridge.log.embedded.backend import EmbeddedAppender, EmbeddedBackend
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import Member, TopicSpec, Transaction
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.recovery import Recovery
from repertory.bridge.system.running import Running
from repertory.bridge.system.settings import Settings
from repertory.simulation import simulate
from repertory.simulation.virtual import VirtualClock
from repertory.verify import verify
from tests.apps import simulated

NEWS, KEPT = "news", "kept"
SPECS = [TopicSpec(NEWS, 2, {"cleanup.policy": "compact"}), TopicSpec(KEPT, 1, {"cleanup.policy": "delete"})]
DAY_S = 86_400
DIRTY, ROUND = 4, 3

#: Appends its own keys to the same partition without end, and says each number that it knows to be written.
WRITER = """
import sys
from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded import compaction
from repertory.bridge.log.record import Output

compaction._DIRTY_MIN, compaction._ROUND_RECORDS = 30, 10
name, number = sys.argv[2], int(sys.argv[3])
appender = connect(sys.argv[1]).appender()
while True:
    number += 1
    appender.append([Output("news", 0, b"%s-%d" % (name.encode(), number % 5), b"%d" % number)])
    print(number, flush=True)
"""


class Deposit(Command):
    """Pay in."""

    amount: int


class Deposited(Event):
    """Paid in."""

    amount: int


class Till(Entity):
    """Its state is written at each command."""

    balance: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Self:
        """Add it."""
        return self.replace(balance=self.balance + cmd.amount)


class Crier(Entity):
    """Publishes its balance."""

    balance: int = 0

    @command
    def deposit(self, cmd: Deposit, ctx: Context) -> Self:
        """Add it and say so."""
        ctx.publish(NEWS, b"%d" % (self.balance + cmd.amount), key=ctx.key)
        return self.replace(balance=self.balance + cmd.amount)


class Book(Entity):
    """Its events are written, and a snapshot now and then."""

    balance: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Deposited:
        """Accept every deposit."""
        return Deposited(amount=cmd.amount)

    @event
    def deposited(self, evt: Deposited) -> Self:
        """Add it."""
        return self.replace(balance=self.balance + evt.amount)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compact after few records, few at a time."""
    monkeypatch.setattr(compaction, "_DIRTY_MIN", DIRTY)
    monkeypatch.setattr(compaction, "_ROUND_RECORDS", ROUND)


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log.db'}"


def opened(url: str, clock: VirtualClock | None = None) -> EmbeddedBackend:
    """Open a log and create the topics."""
    backend = EmbeddedBackend(url, Settings(lock_timeout_s=1.0), path=url.partition(":")[2], clock=clock)
    backend.ensure(SPECS)
    return backend


def appender_of(backend: EmbeddedBackend) -> EmbeddedAppender:
    appender = backend.appender()
    assert isinstance(appender, EmbeddedAppender)
    return appender


def compact(appender: EmbeddedAppender, topic: str = NEWS) -> None:
    """Look whether a pass is due, and finish it."""
    appender._compactor._waiting[TopicPartition(topic, 0)] = None
    while appender._compactor._waiting:
        appender._compactor.step()


def held(backend: EmbeddedBackend, topic: str = NEWS, from_offset: int = 0) -> list[Record]:
    with closing(backend.reader()) as reader:
        return list(reader.read(topic, 0, from_offset))


def bounds(backend: EmbeddedBackend) -> tuple[int, int]:
    with closing(backend.reader()) as reader:
        return reader.bounds(NEWS, 0)


def offsets(backend: EmbeddedBackend, topic: str = NEWS) -> list[int]:
    return [record.offset for record in held(backend, topic)]


def filled(appender: EmbeddedAppender, keys: str, topic: str = NEWS) -> None:
    """Append a record for each letter; "-" has no key, and a capital letter is a tombstone."""
    appender.append(
        [
            Output(topic, 0, None if key == "-" else key.lower().encode(), None if key.isupper() else b"%d" % number)
            for number, key in enumerate(keys)
        ]
    )
    compact(appender, topic)


# --- one pass -----------------------------------------------------------------------------------------------------


def test_the_last_record_of_each_key_stays(url: str) -> None:
    """With its offset, its place, and the partition's end; a record without a key is never superseded."""
    backend = opened(url)
    appender = appender_of(backend)
    filled(appender, "ab-aac-ba")
    assert [(r.offset, r.key, r.value) for r in held(backend)] == [
        (2, None, b"2"), (5, b"c", b"5"), (6, None, b"6"), (7, b"b", b"7"), (8, b"a", b"8"),
    ]  # fmt: skip
    assert bounds(backend) == (2, 9)
    assert appender.append([Output(NEWS, 0, b"a", b"x")]) == [9]
    appender.close()
    backend.close()


def test_a_topic_that_is_not_declared_compacted_is_not(url: str) -> None:
    """Nothing of it is ever deleted."""
    backend = opened(url)
    appender = appender_of(backend)
    filled(appender, "a" * 50, KEPT)
    assert len(offsets(backend, KEPT)) == 50
    appender.close()
    backend.close()


@pytest.mark.parametrize("policy", ["compact", "compact,delete", "delete, compact"])
def test_policies_with_compact_are_compacted(policy: str) -> None:
    """Kafka takes a list."""
    assert is_compacted({"cleanup.policy": policy})
    assert not is_compacted({"cleanup.policy": "delete"})
    assert not is_compacted({})


def test_nothing_happens_before_enough_is_superseded(url: str) -> None:
    """A pass begins when as many records were written as the last one left, and so many at least."""
    backend = opened(url)
    appender = appender_of(backend)
    filled(appender, "abcdefgh")
    filled(appender, "a" * 8)
    assert len(offsets(backend)) == 16
    filled(appender, "a")
    assert offsets(backend) == [1, 2, 3, 4, 5, 6, 7, 16]
    appender.close()
    backend.close()


def test_a_tombstone_stays_for_a_day_after_what_it_deletes_is_gone(url: str) -> None:
    """A reader that has read an older record of the key has a day to come to the tombstone."""
    clock = VirtualClock()
    backend = opened(url, clock)
    appender = appender_of(backend)
    filled(appender, "aAbbbb")
    clock.advance(DAY_S - 1)
    filled(appender, "cccccc")
    assert offsets(backend) == [1, 5, 11]
    clock.advance(1)
    filled(appender, "dddddd")
    assert offsets(backend) == [5, 11, 17]
    filled(appender, "DD")
    clock.advance(2 * DAY_S)
    filled(appender, "eeee")  # When this pass began, no other had come by the tombstone.
    assert offsets(backend) == [5, 11, 19, 23]
    appender.close()
    backend.close()


def test_a_partition_of_old_tombstones_becomes_empty(url: str) -> None:
    """Its end stays what it is."""
    clock = VirtualClock()
    backend = opened(url, clock)
    appender = appender_of(backend)
    filled(appender, "aAaAaA")
    clock.advance(DAY_S)
    filled(appender, "A" * 5)
    clock.advance(DAY_S)
    filled(appender, "A" * 5)
    clock.advance(DAY_S)
    filled(appender, "A" * 5)
    assert offsets(backend) == [20]
    assert bounds(backend) == (20, 21)
    appender.close()
    backend.close()


def test_a_pass_goes_on_where_another_process_has_died(tmp_path: Path) -> None:
    """What a process leaves half done, the next one that writes does."""
    url = f"sqlite:{tmp_path / 'log.db'}"
    backend = opened(url)
    first, second = appender_of(backend), appender_of(backend)
    for number in range(40):
        first.append([Output(NEWS, 0, b"ab"[number % 2 : number % 2 + 1], b"%d" % number)])
    first.close()
    assert len(offsets(backend)) > 4
    second.append([Output(NEWS, 0, b"c", b"")] * 5)
    compact(second)
    assert offsets(backend) == [38, 39, 44]
    second.close()


def test_a_round_is_bounded_in_bytes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large values are deleted a few at a time; a round ends with the record that exceeds the bound."""
    monkeypatch.setattr(compaction, "_ROUND_RECORDS", 100)
    monkeypatch.setattr(compaction, "_ROUND_BYTES", 1_000)
    backend = opened(url)
    appender = appender_of(backend)
    appender.append([Output(NEWS, 0, b"a", bytes(size)) for size in (1, 1, 400, 400, 5_000, 400, 400, 400, 1)])
    left = []
    while appender._compactor._waiting:
        appender._compactor.step()
        left.append(offsets(backend))
    assert left == [[0, 1, 2, 3, 8], [8]], "two rounds after the write, then one"
    appender.close()
    backend.close()


def test_a_round_that_fails_deletes_nothing_live(tmp_path: Path) -> None:
    """The pass begins anew: that keys were met is forgotten with the deletion that did not happen."""
    url = f"sqlite:{tmp_path / 'log.db'}"
    backend = opened(url)
    appender = appender_of(backend)
    appender.append([Output(NEWS, 0, key, b"") for key in (b"a", b"b", b"a", b"b", b"a", b"b")])
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailable, match="locked"):
        compact(appender)
    other.execute("ROLLBACK")
    other.close()
    compact(appender)
    assert offsets(backend) == [4, 5]
    appender.close()


def test_compaction_keeps_up_with_a_worker_that_writes_much(url: str) -> None:
    """A poll works a round for each commit since the last poll."""
    backend = opened(url)
    backend.ensure([TopicSpec("bank.till.commands", 1, {})])
    log, shard = backend.log(Member("bank", "here", 0), ["bank.till.commands"]), TopicPartition("bank.till.commands", 0)
    log.poll(0)
    log.claim(shard, [])
    log.poll(0)
    for _ in range(40):
        for _ in range(5):
            log.commit(Transaction(shard, 0, [Output(NEWS, 0, b"a", b"")] * ROUND))
        log.poll(0)
    assert len(offsets(backend)) < 6 * 5 * ROUND
    log.close()
    backend.close()


def test_a_file_of_an_earlier_version_is_compacted(tmp_path: Path) -> None:
    """It has no table for it, opens as it is, and is compacted once a system has been started on it."""
    url, path = f"sqlite:{tmp_path / 'log.db'}", tmp_path / "log.db"
    opened(url).close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE compaction")
    connection.close()
    old = EmbeddedBackend(url, Settings(), path=str(path))
    appender = appender_of(old)
    filled(appender, "ab" * 20)
    assert len(offsets(old)) == 40, "nobody has said that it is to be compacted"
    appender.close()
    new = opened(url)
    appender = appender_of(new)
    filled(appender, "c")
    assert offsets(new) == [38, 39, 40]
    appender.close()


# --- any order ----------------------------------------------------------------------------------------------------

KEY = st.sampled_from([b"a", b"b", b"c", b"d", None])
WHO = st.integers(0, 1)


class PagedRead(list[Record]):
    """What a reader has read since it began."""

    def __init__(self, began_s: float) -> None:
        super().__init__()
        self.began_s, self.next_offset = began_s, 0


def folded(records: list[Record]) -> dict[bytes | None, bytes | None]:
    """Return the value of each key that is left."""
    return {key: value for key, value in {r.key: r.value for r in records}.items() if value is not None}


class CompactedHistory(RuleBasedStateMachine):
    """Two writers that compact in turn, and readers that read in pages, against all that was ever written."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(compaction, "_DIRTY_MIN", DIRTY)
        self.patch.setattr(compaction, "_ROUND_RECORDS", ROUND)
        self.patch.setattr(store, "_BATCH_RECORDS_MAX", 2)
        self.clock = VirtualClock()
        self.backend = opened(self.url(), self.clock)
        self.writers = [appender_of(self.backend), appender_of(self.backend)]
        self.store = self.backend._store()
        self.history: list[Record] = []
        self.readers = [PagedRead(0.0), PagedRead(0.0)]

    def url(self) -> str:
        """Return the log's URL."""
        return "memory:"

    @rule(who=WHO, keys=st.lists(st.tuples(KEY, st.booleans()), max_size=8))
    def append(self, who: int, keys: list[tuple[bytes | None, bool]]) -> None:
        """Append a transaction; after a round of compaction."""
        first, now_ms = len(self.history), self.clock.epoch_ms()
        values = [None if key and is_tombstone else b"%d" % n for n, (key, is_tombstone) in enumerate(keys, first)]
        outputs = [Output(NEWS, 0, key, value) for (key, _), value in zip(keys, values, strict=True)]
        assert list(self.writers[who].append(outputs)) == list(range(first, first + len(keys)))
        for offset, output in enumerate(outputs, first):
            self.history.append(Record(NEWS, 0, offset, output.key, output.value, (), now_ms))

    @rule(who=WHO)
    def step(self, who: int) -> None:
        """Compact a little."""
        self.writers[who]._compactor.step()

    @rule(who=WHO)
    def die(self, who: int) -> None:
        """End a writer within its pass."""
        self.writers[who].close()
        self.writers[who] = appender_of(self.backend)

    @rule(hours=st.sampled_from([1, 11, 25]))
    def sleep(self, hours: int) -> None:
        """Let time pass."""
        self.clock.advance(hours * 3_600)

    @rule(who=WHO)
    def read_a_page(self, who: int) -> None:
        """Read on; at the end, what was read makes up the state, for who is not slower than a day."""
        reader = self.readers[who]
        page = self.store.records(NEWS, 0, reader.next_offset, 1 << 60)
        reader += page
        if page:
            reader.next_offset = page[-1].offset + 1
            return
        if self.clock.monotonic_s() - reader.began_s < DAY_S:
            assert folded(reader) == folded(self.history)
        self.readers[who] = PagedRead(self.clock.monotonic_s())

    @rule(from_offset=st.integers(0, 60))
    def read_from(self, from_offset: int) -> None:
        """Read from any offset to the end."""
        records = held(self.backend, from_offset=from_offset)
        assert records == [record for record in held(self.backend) if record.offset >= from_offset]

    @rule(who=WHO)
    @precondition(lambda self: len(self.history) > DIRTY)
    def finish(self, who: int) -> None:
        """After a whole pass, no two records have a key, but for those that were written too late for it."""
        compactor = self.writers[who]._compactor
        while compactor._waiting:
            compactor.step()
        rows = self.store.rows("SELECT clean_offset FROM compaction WHERE topic = ? AND partition = 0", (NEWS,))
        keys = [record.key for record in held(self.backend) if record.offset < rows[0][0] and record.key is not None]
        assert len(keys) == len(set(keys))

    @invariant()
    def what_is_held_is_what_was_written(self) -> None:
        """Nothing but superseded records and old tombstones is missing, and nothing has changed."""
        records = held(self.backend)
        assert records == [self.history[record.offset] for record in records]
        last = {record.key: record for record in self.history}
        now_ms = self.clock.epoch_ms()
        there = {record.offset for record in records}
        for record in self.history:
            if record.offset not in there:
                assert record.key is not None
                is_old = record.value is None and now_ms - record.timestamp_ms >= DAY_S * 1_000
                assert last[record.key] is not record or is_old
        low, end = bounds(self.backend)
        assert (low, end) == (records[0].offset if records else len(self.history), len(self.history))

    def teardown(self) -> None:
        """Close the log."""
        for writer in self.writers:
            writer.close()
        self.store.release()
        self.backend.close()
        self.patch.undo()


class CompactedFile(CompactedHistory):
    """The same with a connection for each."""

    def url(self) -> str:
        """Return the log's URL."""
        self.directory = tempfile.TemporaryDirectory()
        return f"sqlite:{self.directory.name}/log.db"

    def teardown(self) -> None:
        """Close the log and remove it."""
        super().teardown()
        self.directory.cleanup()


TestCompactedHistory = CompactedHistory.TestCase
TestCompactedHistory.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestCompactedFile = CompactedFile.TestCase
TestCompactedFile.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)


# --- processes ----------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_processes_that_compact_at_once_and_are_killed_lose_nothing(tmp_path: Path) -> None:
    """What a writer was told is written is the last of its key, and the rows stay few."""
    url = f"sqlite:{tmp_path / 'log.db'}"
    backend, random = opened(url), Random(7)  # noqa: S311 - how long each lives, the same in every run
    reader = backend.reader()
    last = {"a": 0, "b": 0}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for _ in range(6):
        writers = {
            name: subprocess.Popen(
                [sys.executable, "-c", WRITER, url, name, str(number)],
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for name, number in last.items()
        }
        for name, writer in writers.items():
            assert writer.stdout is not None
            for _ in range(random.randrange(60, 200)):
                last[name] = int(writer.stdout.readline())
            list(reader.read(NEWS, 0))
        for name, writer in writers.items():
            assert writer.stdout is not None
            writer.kill()
            last[name] = max([last[name], *(int(line) for line in writer.stdout.read().split("\n")[:-1] if line)])
            writer.stdout.close()
            writer.wait()
        newest = {record.key: int(record.value or b"") for record in reader.read(NEWS, 0)}
        for name, number in last.items():
            for each in range(number - 4, number + 1):
                assert newest[b"%s-%d" % (name.encode(), each % 5)] in (each, each + 5), "one more than it has told"
            last[name] = max(found for key, found in newest.items() if key and key.startswith(name.encode()))
        assert len(offsets(backend)) < 10 + 30 + 60, "two passes were under way"
    assert reader.bounds(NEWS, 0)[1] == sum(last.values())
    reader.close()


# --- a system -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entity", [Till, Book])
def test_a_restore_after_a_long_run_reads_what_is_live(
    entity: type[Till | Book], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state topic has a bounded number of rows, whatever was written; states and verification are right."""
    monkeypatch.setattr(compaction, "_DIRTY_MIN", 100)
    monkeypatch.setattr(compaction, "_ROUND_RECORDS", 50)
    read: list[Recovery] = []
    recovered = Recovery.recovered
    monkeypatch.setattr(Recovery, "recovered", lambda self: (read.append(self), recovered(self))[1])
    system = ActorSystem("bank", settings=Settings(batch_records_max=20, snapshot_window_records=40))
    system.host(entity, partitions=1)
    running = Running(system, connect(url, system.settings))
    keys = [f"k{number}" for number in range(20)]
    for _ in range(100):
        for key in keys:
            running.client.tell(entity.deposit, key, Deposit(amount=1))
        running.settle()
    for _ in range(20):
        running.tick(0)
    topic = f"bank.{entity.__name__.lower()}.state"
    assert running.reader.bounds(topic, 0)[1] > 500
    rows = len(list(running.reader.read(topic, 0)))
    assert rows <= 100 + 21 + 21
    running.crash()
    running.settle()
    assert read[-1].records <= rows + 80, "the journal's tail as well"
    assert {running.state(entity, key).balance for key in keys} == {100}
    assert verify(running.reader, system).ok
    running.close()


def test_what_compaction_has_deleted_of_a_published_topic_is_not_missed() -> None:
    """Verification does not take a superseded record for one that was never written."""
    system = ActorSystem("bank", publishes={NEWS: Publishes(partitions=1, config={"cleanup.policy": "compact"})})
    system.host(Crier, partitions=1)
    running = Running(system, connect("memory:"))
    for _ in range(20):
        for key in ("a", "b"):
            running.client.tell(Crier.deposit, key, Deposit(amount=1))
        running.settle()
    deleted = running.reader.bounds(NEWS, 0)[1] - len(list(running.reader.read(NEWS, 0)))
    assert deleted > 20
    report = verify(running.reader, system)
    assert report.ok, report.checks
    assert sum(check.unverifiable for check in report.checks) == deleted
    running.close()


def test_no_fault_breaks_a_promise_while_state_topics_are_compacted() -> None:
    """Processes die between any two statements of a round, and others restore between two rounds."""
    totals = simulate(
        simulated.system, commands=simulated.commands, allowed_errors=simulated.allowed_errors, seeds=range(30)
    )
    assert totals.runs == 30


def test_commands_cannot_be_compacted() -> None:
    """Of each key's commands only the last would be handled."""
    with pytest.raises(ValueError, match="a commands topic cannot be compacted"):
        ActorSystem("bank", topic_config={"cleanup.policy": "compact"})
