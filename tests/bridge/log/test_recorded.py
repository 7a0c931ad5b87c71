"""What real clients did and saw, while they were killed, shows none of Jepsen's anomalies."""

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
#: Commits that are seen between two kills.
COMMITS = 15
#: Who is killed, in turn.
VICTIMS = ("worker", "client", "worker", "follower")
DEADLINE_S = 60.0


def found(history: History) -> dict[str, list[str]]:
    """Return what is illegal, as text: a few cases of each kind."""
    return {kind: [str(case)[:600] for case in cases[:3]] for kind, cases in illegal(history).items()}


def tally(history: History) -> Counter[tuple[str, str]]:
    """Count ops by who did them and what became of them."""
    kinds = ("commit", "fetch", "restore", "appender", "reader")
    ops = [op for op in history if isinstance(op, Op)]
    return Counter((next(kind for kind in kinds if kind in op.process), op.outcome) for op in ops)


def read_everything(url: str, system: str, directory: Path) -> None:
    """Do Jepsen's final polls: each partition from its begin."""
    backend = RecordedBackend(connect(url), Diary(directory / "last.jsonl", "last"))
    reader = backend.reader()
    for topic, partitions in backend.topics().items():
        for partition in range(partitions if topic.startswith(f"{system}.") else 0):
            list(reader.read(topic, partition))
    reader.close()
    backend.close()


def until_handled(trial: Trial) -> None:
    """Wait until no committed command is left; it may take its time, but not stand still."""
    last, moved_s = "", time.monotonic()
    while (left := trial.unhandled()) is not None:
        if left != last:
            last, moved_s = left, time.monotonic()
        assert time.monotonic() < moved_s + DEADLINE_S, f"nothing was handled for {DEADLINE_S:g} s: {left}"
        time.sleep(0.1)


class Cast:
    """The processes of one test, by role and number. Whoever is killed is played by another at once."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url, self._directory = url, directory
        self._processes: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def enter(self, role: str, number: int) -> None:
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
        """Kill somebody and start another in the same part."""
        part = (role, number)
        self._processes[part].kill()
        self._end(part)
        self.enter(*part)

    def leave(self, role: str) -> list[int]:
        """Have all of a role end in order; return their exit codes."""
        parts = [part for part in self._processes if part[0] == role]
        for part in parts:
            stdin = self._processes[part].stdin
            assert stdin is not None
            stdin.close()
        return [self._end(part) for part in parts]

    def close(self) -> None:
        """Kill who is left."""
        for part in list(self._processes):
            self._processes[part].kill()
            self._end(part)

    def _end(self, part: tuple[str, int]) -> int:
        process = self._processes.pop(part)
        assert process.stdin is not None
        process.stdin.close()
        return process.wait(DEADLINE_S)


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a system's name; what `application` sets for its processes is put back."""
    for variable in ("KILLED_NAME", "PYTHONPATH"):
        monkeypatch.setenv(variable, "")
    return f"recorded-{uuid4().hex[:8]}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a place for the diaries."""
    (tmp_path / "diaries").mkdir()
    return tmp_path / "diaries"


@pytest.fixture
def cast(url: str, directory: Path) -> Iterator[Cast]:
    """Give a cast that leaves nobody behind."""
    cast = Cast(url, directory)
    yield cast
    cast.close()


@pytest.mark.processes
@pytest.mark.timeout(120 + 30 * KILLS)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)], indirect=True)
def test_clients_that_are_killed_see_no_anomaly(url: str, name: str, directory: Path, cast: Cast) -> None:
    """Workers, clients and followers in processes of their own, killed in turn; a tenth of all transactions aborts."""
    trial, random = Trial(application(name), url), Random(1)  # noqa: S311 - who is killed, no secret

    def commits() -> int:
        """Count without reading what else happened: this is asked again and again."""
        time.sleep(0.1)
        lines = (line for path in directory.iterdir() for line in path.read_bytes().splitlines() if b"/commit " in line)
        return sum(b'"outcome":"ok"' in line for line in lines)

    try:
        for part in (("worker", 0), ("worker", 1), ("client", 0), ("client", 1), ("follower", 0), ("follower", 1)):
            cast.enter(*part)
        for kills in range(KILLS + 1):
            wanted = commits() + COMMITS
            trial.until(lambda wanted=wanted: commits() >= wanted, f"{COMMITS} commits after {kills} kills")
            if kills < KILLS:
                cast.kill(VICTIMS[kills % len(VICTIMS)], random.randrange(2))
        assert cast.leave("client") == [0, 0]
        until_handled(trial)
        assert cast.leave("follower") + cast.leave("worker") == [0, 0, 0, 0]
    finally:
        trial.close()
    read_everything(url, name, directory)
    history = read(directory)
    assert found(history) == {}
    happened = tally(history)
    assert happened["commit", "fail"] and happened["restore", "ok"] and happened["reader", "ok"], happened


@pytest.mark.kafka
def test_who_reads_uncommitted_records_is_caught(
    kafka_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test is tested: with another isolation level Kafka shows what was aborted, and the diary tells."""
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
    """One thread: a worker that crashes between two turns, a client and a reader, on ``memory:``."""
    app, random = application(name), Random(seed)  # noqa: S311 - what happens next, no secret
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
