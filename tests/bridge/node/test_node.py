"""Whole nodes: real worker processes on SQLite and on a real Kafka, killed, stopped, doubled, added and removed."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from collections import Counter as Multiset
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from uuid import uuid4

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.reports import (
    IncidentReport,
    NodeReport,
    ShardFenced,
    ShardHandedOver,
    ShardLost,
    ShardRestored,
    WorkerDrained,
)
from repertory.bridge.system.client import Client
from repertory.bridge.topics import commands_topic, events_topic
from repertory.inspect.nodes import node_records
from repertory.operate.operator import Operator
from repertory.supervision.process.proc import writer_pid
from repertory.supervision.process.reports import Report, WorkerExited, WorkerFailed, WorkerKilled, WorkerStarted
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes

#: What takes a minute on a busy machine will not come any more.
DEADLINE_S = 90.0
SESSION_S = 6.0

R = TypeVar("R", bound=Report)


class Stage:
    """One system under test on one log, with its nodes, and what its committed records say."""

    def __init__(self, app: ModuleType, url: str) -> None:
        self.app, self.url = app, url
        self.nodes: list[NodeHandle] = []
        self.reports: list[NodeReport] = []
        self.reports_of: defaultdict[str, list[NodeReport]] = defaultdict(list)
        self._backend: Backend = connect(url)
        app.system.prepare(self._backend)
        self._client = Client(app.system, self._backend)
        self._reader: Reader = self._backend.reader()
        self.sent = 0

    def node(self, name: str, workers: int = 1) -> NodeHandle:
        """Start a node."""
        node: NodeHandle = self.app.system.spawn("tests.apps.counting:system", log=self.url, workers=workers, node=name)
        self.nodes.append(node)
        return node

    def send(self, count: int) -> None:
        """Send additions to a hundred counters, each with a number of its own."""
        numbers = range(self.sent, self.sent + count)
        app = self.app
        self._client.tell_all([(app.Counter.add, f"c-{n % 100}", app.Add(by=n)) for n in numbers])
        self.sent += count

    def added(self) -> Multiset[int]:
        """Read which numbers were counted, and how often each."""
        topic = events_topic(self.app.system.name, "counter")
        found: Multiset[int] = Multiset()
        decode = self.app.system.behaviour("counter").journal.decode
        for partition in range(self._reader.partition_count(topic) or 0):
            found.update(decode(r.value or b"").by for r in self._reader.read(topic, partition))
        return found

    def is_done(self) -> bool:
        """Tell whether no committed command is left at or above the committed offsets."""
        topic = commands_topic(self.app.system.name, "counter")
        for partition in range(self._reader.partition_count(topic) or 0):
            committed = self._reader.committed(self.app.system.name, topic, partition) or 0
            if any(True for _ in self._reader.read(topic, partition, committed)):
                return False
        return True

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Take in reports until a condition holds."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"never: {what}; {self.reports[-20:]}"
            for node in self.nodes:
                reports = node.poll(0.05)
                self.reports += reports
                self.reports_of[node.name] += reports

    def put_to_sleep(self, pid: int) -> None:
        """Stop a process, but not while it holds the file's write lock: there its supervisor would have to kill it."""
        self._stop(pid)
        while self.url.startswith("sqlite:") and writer_pid(self.url.removeprefix("sqlite:")) == pid:
            os.kill(pid, signal.SIGCONT)
            self._reader.bounds(events_topic(self.app.system.name, "counter"), 0)
            self._stop(pid)

    def _stop(self, pid: int) -> None:
        """Stop a process, and wait until no thread of it runs: one may be about to take the lock."""
        os.kill(pid, signal.SIGSTOP)
        threads = Path(f"/proc/{pid}/task")

        def stands_still() -> bool:
            return all((each / "stat").read_text().rpartition(") ")[2][0] == "T" for each in threads.iterdir())

        self.until(stands_still, "the process stands still")

    def until_running(self, node: NodeHandle, workers: int) -> None:
        """Wait until a node's workers are all there and every shard of the system is restored by somebody."""
        self.until(lambda: len(node.workers) == workers, "all workers started")

    def reported(self, kind: type[R]) -> list[R]:
        """Return the reports of a type so far."""
        return [report for report in self.reports if isinstance(report, kind)]

    def check(self) -> None:
        """Wait until all is done; then every number was counted exactly once."""
        self.until(self.is_done, "all commands handled")
        found = self.added()
        assert found == Multiset(range(self.sent)), {n: c for n, c in found.items() if c != 1}

    def close(self) -> None:
        """Stop what still runs."""
        for node in self.nodes:
            node.stop()
        self._client.close()
        self._reader.close()
        self._backend.close()


@contextlib.contextmanager
def staged(url: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Iterator[Stage]:
    """Give a system of its own on a log; ``variables`` are the application's, without their ``COUNTING_``."""
    for name, value in variables.items():
        monkeypatch.setenv(f"COUNTING_{name}", value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sys.modules.pop("tests.apps.counting", None)
    stage = Stage(importlib.import_module("tests.apps.counting"), url)
    try:
        yield stage
    finally:
        stage.close()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def stage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """Give a system of its own on each log that processes can share."""
    url = f"sqlite:{tmp_path / 'node.db'}" if request.param == "sqlite" else str(request.getfixturevalue("kafka_url"))
    name = f"counting-{uuid4().hex[:8]}"
    # A worker that is stopped must live on, so that it can wake up as a zombie.
    with staged(url, monkeypatch, NAME=name, SESSION_S=str(SESSION_S), PING_S="600", PROGRESS_S="600") as stage:
        yield stage


def test_killed_workers_lose_and_double_nothing(stage: Stage) -> None:
    """Whatever worker is killed whenever, each command has its effect exactly once."""
    node = stage.node("one", workers=2)
    stage.until_running(node, 2)
    for round_number in range(6):
        stage.send(1_000)
        stage.until(lambda n=round_number: sum(stage.added().values()) > n * 1_000, "progress")
        os.kill(list(node.workers.values())[round_number % 2], signal.SIGKILL)
        stage.until(lambda n=round_number: len(stage.reported(WorkerExited)) > n, "the exit was seen")
        stage.until_running(node, 2)
    stage.check()


def test_a_worker_that_wakes_up_after_its_session_disturbs_nobody(stage: Stage) -> None:
    """A stopped worker loses its shards to another; continued, its late commit is refused and it serves again."""
    first, second = stage.node("first"), stage.node("second")
    stage.until_running(first, 1)
    stage.until_running(second, 1)
    stage.send(2_000)
    stage.until(lambda: sum(stage.added().values()) > 500, "progress")
    sleeper = first.workers["worker-0"]
    stage.send(1_000)
    stage.put_to_sleep(sleeper)
    try:
        stage.until(stage.is_done, "the other worker took over what the sleeper had")
        stage.send(1_000)
        stage.until(stage.is_done, "the other worker serves all shards")
    finally:
        os.kill(sleeper, signal.SIGCONT)
    stage.send(2_000)
    stage.check()
    stage.until(lambda: "worker-0" in first.workers, "the sleeper's node has a worker")
    assert not [r for r in stage.reported(WorkerFailed) if r.error_type == "Killed"]


def test_workers_come_and_go_under_load(stage: Stage) -> None:
    """A node that joins takes shards, one that leaves hands them back, and no command is lost or doubled."""
    first = stage.node("first")
    stage.until_running(first, 1)
    stage.send(2_000)
    second = stage.node("second")
    stage.until_running(second, 1)
    stage.send(2_000)
    stage.until(lambda: sum(stage.added().values()) > 2_000, "progress")
    stage.send(2_000)
    assert second.stop() == 0
    stage.nodes.remove(second)
    stage.send(1_000)
    stage.check()
    assert first.exit_code is None


def test_a_planned_handover_reports_its_gap(stage: Stage) -> None:
    """A node that stops drains its shards; who serves them next says how long nobody did, and is not cautious."""
    first = stage.node("first")
    stage.until(lambda: len(stage.reported(ShardRestored)) == 4, "the first node has all shards")
    second = stage.node("second")
    stage.until(lambda: len(stage.reported(ShardRestored)) == 6, "the second node has its share")
    stage.send(400)
    stage.check()
    assert second.stop() == 0
    stage.nodes.remove(second)
    stage.send(400)
    stage.check()

    def handed_over() -> list[ShardHandedOver]:
        found = stage.reported(ShardHandedOver)
        return [report for report in found if report.owner.startswith("second/")]

    stage.until(lambda: len(handed_over()) == 2, "the gap of each handover is reported")
    assert not [report for report in stage.reported(IncidentReport) if report.error == "UncleanTakeover"]
    (entry,) = [entry for entry in first.record().incidents if "second/" in entry.what]
    assert entry.next.startswith("served again")


def test_a_node_that_stops_hands_all_to_another(stage: Stage) -> None:
    """Its workers leave together, each drained, none started again. The other node serves all, and nothing is lost.

    What a worker is assigned before it has read its order is let go: see ``tests.bridge.test_drain``.
    """
    first, second = stage.node("first", workers=2), stage.node("second")

    def served(node: NodeHandle) -> list[int]:
        """Return how many shards each worker of a node serves that serves any."""
        found: set[tuple[str, str]] = set()
        for report in stage.reports_of[node.name]:
            if isinstance(report, ShardRestored):
                found.add((report.worker, report.shard))
            elif isinstance(report, ShardLost):
                found.discard((report.worker, report.shard))
        return [*Multiset(worker for worker, _ in found).values()]

    stage.until(lambda: sorted(served(first) + served(second)) == [1, 1, 2], "each worker has its share")
    stage.send(1_000)
    before = len(stage.reports_of["first"])
    first.signal(signal.SIGTERM)
    stage.until(lambda: first._read_fd is None, "the first node has ended")
    after = stage.reports_of["first"][before:]
    assert first.stop() == 0
    stage.nodes.remove(first)
    assert not [report for report in after if isinstance(report, WorkerStarted | WorkerKilled)]
    assert [report.complete for report in after if isinstance(report, WorkerDrained)] == [True, True]
    stage.send(1_000)
    stage.check()
    stage.until(lambda: served(second) == [4], "the second serves all")
    assert second.exit_code is None


def test_a_second_node_with_a_live_slot_leaves_with_a_sentence(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    """A duplicate slot refuses the newcomer, which names the slot and exits non-zero; the older one goes on."""
    first = stage.node("same")
    stage.until_running(first, 1)
    stage.send(500)
    stage.check()
    second = stage.node("same")
    stage.until(lambda: second.exit_code is not None, "the newcomer left")
    assert second.exit_code != 0
    assert "slot" in capfd.readouterr().err
    stage.send(500)
    stage.check()
    assert first.exit_code is None
    assert not [r for r in stage.reported(WorkerExited) if r.pid == first.workers["worker-0"]]


def test_a_key_that_is_parked_survives_its_worker(stage: Stage) -> None:
    """What a policy stops is kept durably with all that comes behind it; other keys go on, also after a kill."""
    node = stage.node("one")
    stage.until_running(node, 1)
    app, client = stage.app, stage._client
    client.tell(app.Counter.break_down, "bad", app.Break(how="stop"))
    client.tell(app.Counter.break_down, "worse", app.Break(how="restart"))
    client.tell(app.Counter.add, "bad", app.Add(by=7))
    stage.send(200)
    stage.check()
    os.kill(node.workers["worker-0"], signal.SIGKILL)
    stage.until(lambda: len(stage.reported(WorkerExited)) > 0, "the exit was seen")
    stage.send(200)
    stage.check()
    from repertory.inspect.shards import shard_statuses  # noqa: PLC0415

    parked = {key for status in shard_statuses(stage._reader, app.system) for key in status.parked}
    assert parked == {"bad", "worse"}
    assert sum(status.stashed for status in shard_statuses(stage._reader, app.system)) == 3


def test_status_shows_what_failed_when_the_node_is_gone(stage: Stage) -> None:
    """What failed, where, and what happened next is in the log, with every counter; also after the node was killed."""
    node = stage.node("one")
    stage.until_running(node, 1)
    stage._client.tell(stage.app.Counter.break_down, "bad", stage.app.Break(how="stop"))
    stage.send(100)
    stage.check()
    os.kill(node.workers["worker-0"], signal.SIGKILL)
    stage.until(lambda: len(stage.reported(WorkerStarted)) == 2, "the worker is started again")
    running = node.record()
    assert [worker.state for worker in running.workers.values()] in (["starting"], ["running"])
    os.kill(node.pid, signal.SIGKILL)
    stage.until(lambda: node.exit_code is not None, "the node is dead")
    node.stop()
    ((record,), _) = node_records(stage._reader, stage.app.system)
    assert (record.node, record.state) == ("one", "ended without a final report (exit code -9)")
    seen = {(incident.what, incident.next.partition(" in ")[0]) for incident in record.incidents}
    assert {
        ("ValueError: told to stop", "its key is parked"), ("ProcessExited: ended with SIGKILL", "it is started again")
    } <= seen  # fmt: skip
    assert record.metrics['repertory_incidents_total{entity="counter",outcome="parked"}'] == 1
    assert record.metrics['repertory_worker_restarts_total{worker="worker-0"}'] == 1
    assert record.restarts_since(record.at_ms - 3_600_000) == 1


@pytest.mark.parametrize("how", ["exit", "crash"])
def test_records_that_kill_their_process_are_quarantined(stage: Stage, how: str) -> None:
    """After three deaths in a row within one command it is a dead letter, and the shard goes on; kills do not count.

    There are two in one batch: what became of the first must outlive the second.
    """
    node = stage.node("one", workers=2)
    stage.until_running(node, 2)
    stage.send(500)
    stage._client.tell_all([(stage.app.Counter.break_down, "c-1", stage.app.Break(how=how))] * 2)
    stage.send(500)
    stage.check()
    deliveries = list(Operator(stage.app.system, stage._backend).dead_letters())
    assert [(delivery.error, delivery.attempts) for delivery in deliveries] == [("Quarantined", 3)] * 2
    assert node.exit_code is None
    exits = [report for report in stage.reported(WorkerExited) if report.how != "SIGKILL"]
    assert len(exits) == 6, exits


def test_a_record_that_takes_every_node_down_is_quarantined(stage: Stage) -> None:
    """Whoever takes over from a node that is gone marks what it handles; after three marked deaths it is given up.

    The first death nobody could see, if it was in the middle of a batch.
    """
    for name in ("a", "b"):
        stage.until_running(stage.node(name), 1)
    stage.send(300)
    stage.check()
    stage._client.tell(stage.app.Counter.break_down, "c-1", stage.app.Break(how="node"))
    stage.send(300)
    deaths = 0

    def is_quarantined() -> bool:
        nonlocal deaths
        for node in [node for node in stage.nodes if node.exit_code is not None]:
            node.stop()
            stage.nodes.remove(node)
            deaths += 1
            stage.node(node.name)
        return any(True for _ in Operator(stage.app.system, stage._backend).dead_letters())

    stage.until(is_quarantined, "the record is given up")
    deliveries = list(Operator(stage.app.system, stage._backend).dead_letters())
    assert [(delivery.error, delivery.attempts) for delivery in deliveries] == [("Quarantined", 3)]
    assert deaths in (3, 4)
    stage.check()
    assert all(node.exit_code is None for node in stage.nodes)
    told = [report for report in stage.reported(IncidentReport) if report.error == "UncleanTakeover"]
    assert told, "an operator is told why commands go one by one"


def test_a_handler_may_take_longer_than_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is busy is no dead one: nobody takes its shards, else the command would be begun for ever."""
    with staged(f"sqlite:{tmp_path / 'slow.db'}", monkeypatch, NAME="slow", SESSION_S="0.5") as stage:
        stage.until_running(stage.node("one", workers=2), 2)
        stage.send(100)
        stage._client.tell(stage.app.Counter.break_down, "c-1", stage.app.Break(how="slow"))
        stage.send(100)
        stage.check()
        assert not stage.reported(ShardFenced)
        assert not stage.reported(WorkerKilled)


def test_a_handler_that_hangs_is_killed_and_its_record_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A worker without progress is killed, its stack is on stderr, and after three times the record is given up.

    What is killed and why names the entity and the offset.
    """
    with staged(f"sqlite:{tmp_path / 'hang.db'}", monkeypatch, NAME="hanging", PROGRESS_S="1.5") as stage:
        node = stage.node("one")
        stage.until_running(node, 1)
        stage.send(100)
        stage._client.tell(stage.app.Counter.break_down, "c-1", stage.app.Break(how="hang"))
        stage.send(100)
        stage.check()
        deliveries = list(Operator(stage.app.system, stage._backend).dead_letters())
        assert [(delivery.error, delivery.attempts) for delivery in deliveries] == [("Quarantined", 3)]
        (delivery,) = deliveries
        where = f"in counter/{delivery.source_partition}@{delivery.source_offset} key 'c-1'"
        told = [report.why for report in stage.reported(WorkerKilled)]
        assert len(told) == 3
        assert all(why.endswith(where) for why in told), told
        logged = capfd.readouterr().err
        assert f"{where}; its stacks:" in logged
        assert "break_down" in logged
