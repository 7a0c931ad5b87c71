"""The recorded operations of real clients, while processes are killed, show none of Jepsen's anomalies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect
from repertory.bridge.log.kafka import config
from repertory.bridge.log.port import Aborted
from repertory.bridge.system.running import Running
from repertory.bridge.topics import events_topic
from tests.support.checkers.anomalies import History, Op, illegal
from tests.support.checkers.diary import Diary, RecordedBackend, read
from tests.support.logs.log_driver import LogHarness
from tests.support.nodes.trial import ROOT, Trial, application

#: ``make chaos`` kills more often.
KILLS = int(os.environ.get("REPERTORY_RECORDED_KILLS", "4"))
#: Commits between two kills.
COMMITS = 15
#: The roles of the processes that are killed, in turn.
VICTIMS = ("worker", "client", "worker", "follower")
DEADLINE_S = 60.0


def found(history: History) -> dict[str, list[str]]:
    """Return the anomalies as text, a few cases of each kind."""
    return {kind: [str(case)[:600] for case in cases[:3]] for kind, cases in illegal(history).items()}


def tally(history: History) -> Counter[tuple[str, str]]:
    """Count operations by process and outcome."""
    kinds = ("commit", "fetch", "restore", "appender", "reader")
    ops = [op for op in history if isinstance(op, Op)]
    return Counter((next(kind for kind in kinds if kind in op.process), op.outcome) for op in ops)


def read_everything(url: str, system: str, directory: Path) -> None:
    """Do Jepsen's final polls: read each partition from its beginning."""
    backend = RecordedBackend(connect(url), Diary(directory / "last.jsonl", "last"))
    reader = backend.reader()
    for topic, partitions in backend.topics().items():
        for partition in range(partitions if topic.startswith(f"{system}.") else 0):
            list(reader.read(topic, partition))
    reader.close()
    backend.close()


def until_handled(trial: Trial) -> None:
    """Wait until no committed command is left; this may take long, but not without progress."""
    last, moved_s = "", time.monotonic()
    while (left := trial.unhandled()) is not None:
        if left != last:
            last, moved_s = left, time.monotonic()
        assert time.monotonic() < moved_s + DEADLINE_S, f"nothing was handled for {DEADLINE_S:g} s: {left}"
        time.sleep(0.1)


class Processes:
    """The processes of one test, by role and number. A process that is killed is replaced at once."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url, self._directory = url, directory
        self._processes: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def start(self, role: str, number: int) -> None:
        command = [
            sys.executable,
            str(ROOT / "tests" / "support" / "checkers" / "recorded.py"),
            role,
            self._url,
            self._directory,
            str(number),
        ]
        self._processes[role, number] = subprocess.Popen(command, stdin=subprocess.PIPE)

    def kill(self, role: str, number: int) -> None:
        """Kill a process and start another with the same role and number."""
        key = (role, number)
        self._processes[key].kill()
        self._end(key)
        self.start(*key)

    def stop(self, role: str) -> list[int]:
        """Stop all processes of a role gracefully; return their exit codes."""
        keys = [key for key in self._processes if key[0] == role]
        for key in keys:
            stdin = self._processes[key].stdin
            assert stdin is not None
            stdin.close()
        return [self._end(key) for key in keys]

    def close(self) -> None:
        """Kill all remaining processes."""
        for key in list(self._processes):
            self._processes[key].kill()
            self._end(key)

    def _end(self, key: tuple[str, int]) -> int:
        process = self._processes.pop(key)
        assert process.stdin is not None
        process.stdin.close()
        return process.wait(DEADLINE_S)


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a system's name; the variables that `application` sets for its processes are restored afterwards."""
    for variable in ("KILLED_NAME", "PYTHONPATH"):
        monkeypatch.setenv(variable, "")
    return f"recorded-{uuid4().hex[:8]}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory for the diaries."""
    (tmp_path / "diaries").mkdir()
    return tmp_path / "diaries"


@pytest.fixture
def processes(url: str, directory: Path) -> Iterator[Processes]:
    """Yield the processes of a test; all that remain are killed at the end."""
    processes = Processes(url, directory)
    yield processes
    processes.close()


@pytest.mark.processes
@pytest.mark.timeout(120 + 30 * KILLS)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_clients_that_are_killed_see_no_anomaly(url: str, name: str, directory: Path, processes: Processes) -> None:
    """Workers, clients and followers are separate processes, killed in turn; a tenth of all transactions aborts."""
    trial, random = Trial(application(name), url), Random(1)  # noqa: S311 - not a secret

    def commits() -> int:
        """Count commits without parsing other operations, because this runs often."""
        time.sleep(0.1)
        lines = (line for path in directory.iterdir() for line in path.read_bytes().splitlines() if b"/commit " in line)
        return sum(b'"outcome":"ok"' in line for line in lines)

    try:
        for role in ("worker", "client", "follower"):
            for number in range(2):
                processes.start(role, number)
        for kills in range(KILLS + 1):
            wanted = commits() + COMMITS
            trial.until(lambda wanted=wanted: commits() >= wanted, f"{COMMITS} commits after {kills} kills")
            if kills < KILLS:
                processes.kill(VICTIMS[kills % len(VICTIMS)], random.randrange(2))
        assert processes.stop("client") == [0, 0]
        until_handled(trial)
        assert processes.stop("follower") + processes.stop("worker") == [0, 0, 0, 0]
    finally:
        trial.close()
    read_everything(url, name, directory)
    history = read(directory)
    assert found(history) == {}
    happened = tally(history)
    assert happened["commit", "fail"] and happened["restore", "ok"] and happened["reader", "ok"], happened


@pytest.mark.kafka
def test_reading_uncommitted_records_is_detected(
    kafka_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test of the test: with another isolation level Kafka returns aborted records, and the checker finds them."""
    monkeypatch.setitem(config._COMMITTED_ONLY, "isolation.level", "read_uncommitted")
    world = LogHarness(RecordedBackend(connect(kafka_url), Diary(directory / "all.jsonl", "all"), doomed=1.0), "kafka")
    world.make()
    driver, shard = world.working()
    driver.log.commit(world.transaction(shard, 0, *[b"%d" % number for number in range(2_000)]))
    driver.until(Aborted, shard)
    world.read(world.events)
    world.close()
    assert "G1a" in found(read(directory))


@pytest.mark.parametrize("seed", range(5))
def test_a_crashing_worker_in_memory_sees_no_anomaly(seed: int, name: str, directory: Path) -> None:
    """In one thread on ``memory:``: a worker that crashes between two turns, a client and a reader."""
    app, random = application(name), Random(seed)  # noqa: S311 - not a secret
    backend = RecordedBackend(
        connect("memory:", app.system.settings), Diary(directory / "all.jsonl", "all"), doomed=0.1
    )
    with Running(app.system, backend, SystemClock()) as running:
        for number in range(300):
            match random.randrange(10):
                case 0:
                    running.crash()
                case 1:
                    list(running.reader.read(events_topic(name, "counter"), random.randrange(2)))
                case 2 | 3 | 4:
                    running.client.tell(app.Counter.add, f"c-{number % 7}", app.Add(by=number))
                case _:
                    running.tick()
        running.settle()
        for topic, partitions in backend.topics().items():
            for partition in range(partitions):
                list(running.reader.read(topic, partition))
    history = read(directory)
    assert found(history) == {}
    assert tally(history)["commit", "fail"], tally(history)
