"""Owners that are stopped (SIGSTOP), lose their shards on a real Kafka, and wake up: with timers, and with effects.

A worker that wakes up has all in memory that it had: timers that are due, effects that have ended. None of it counts:
its commits are refused, and what the next owner does is not done twice. No step of a test needs to be in time: where a
timer rings, or an effect ends, before a worker is stopped, that is one of the cases.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.reports import ShardAborted, ShardFenced, ShardLost, WorkerJoined
from repertory.supervision.process.reports import WorkerExited
from repertory.verify import verify
from tests.bridge.test_deadly_effects import EffectTrial, errand_boys
from tests.bridge.test_kill_matrix_timers import TimerTrial
from tests.support.nodes.trial import DEADLINE_S, Trial, application
from tests.support.paths import ROOT

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

#: A worker that is stopped must live on, so that it can wake up when its session is over.
SETTINGS = "session_timeout_s=3 ping_timeout_s=600 progress_timeout_s=600"
TIMERS = 60
SPREAD_S = 4.0
KEYS = 7


@contextmanager
def asleep(trial: Trial, node: NodeHandle) -> Iterator[None]:
    """Stop the only worker of a node, until no thread of it runs; then let it go on, and see that it finds out."""
    trial.until(lambda: len(node.workers) == 1, f"{node.name} has a worker")
    (pid,) = node.workers.values()
    os.kill(pid, signal.SIGSTOP)
    try:
        threads = Path(f"/proc/{pid}/task")
        trial.until(
            lambda: all((each / "stat").read_text().rpartition(") ")[2][0] == "T" for each in threads.iterdir()),
            "the worker stands still",
        )
        yield
        before = lost(trial)
    finally:
        os.kill(pid, signal.SIGCONT)
    trial.until(lambda: lost(trial) > before, "the worker that woke up finds out that its shard is lost")


def owner(trial: Trial) -> NodeHandle:
    """Return the node that has the only shard."""
    found: list[NodeHandle] = []

    def is_found() -> bool:
        shards = {each.instance_id: each.shards for each in trial._backend.members(trial.app.system.name)}
        found[:] = [node for node in trial.nodes if any(node.name in name and has for name, has in shards.items())]
        return len(found) == 1

    trial.until(is_found, "one node has the shard")
    return found[0]


def lost(trial: Trial) -> int:
    """Count the reports of workers that have lost a shard, or their lives."""
    return sum(len(trial.reported(kind)) for kind in (ShardLost, ShardFenced, ShardAborted, WorkerExited))


def joined(trial: Trial, name: str) -> NodeHandle:
    """Start a node of one worker, and wait until it is a member."""
    before = len(trial.reported(WorkerJoined))
    node = trial.node(name, workers=1)
    trial.until(lambda: len(trial.reported(WorkerJoined)) > before, f"{name} has joined")
    return node


# --- timers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def clocks(kafka_url: str, delivery: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TimerTrial]:
    """Yield a new system of clocks, of one shard."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RINGING_NAME", f"ringing-{uuid4().hex[:8]}")
    monkeypatch.setenv("RINGING_DELIVERY", delivery)
    monkeypatch.setenv("RINGING_PARTITIONS", "1")
    monkeypatch.setenv("RINGING_SETTINGS", SETTINGS)
    monkeypatch.setenv("KILLED_NAME", "")  # Restores what `application` sets.
    trial = TimerTrial(application("unused", "tests.apps.ringing"), kafka_url)
    yield trial
    trial.close()


def set_timers(trial: TimerTrial, first: int) -> None:
    """Set some timers, due within some seconds, and wait until they are set."""
    app = trial.app
    with app.system.client(trial.url) as client:
        client.tell_all(
            (app.Clock.set, f"k{n % KEYS}", app.Set(name=f"n{n}", after_s=(n - first) * SPREAD_S / TIMERS, number=n))
            for n in range(first, first + TIMERS)
        )
    trial.until(trial.is_done, "all are set")


def test_timers_that_are_due_while_their_owner_sleeps_ring_once(clocks: TimerTrial) -> None:
    """The shard moves to another worker, back again, and is down for a while; each owner wakes up with due timers."""
    joined(clocks, "first")
    set_timers(clocks, 0)
    with asleep(clocks, owner(clocks)):
        joined(clocks, "second")
        clocks.until(lambda: not clocks.are_open(), "the second worker has rung all of them", 2 * DEADLINE_S)
    set_timers(clocks, TIMERS)
    with asleep(clocks, owner(clocks)):
        clocks.until(lambda: not clocks.are_open(), "the other worker has rung all of them", 2 * DEADLINE_S)
    set_timers(clocks, 2 * TIMERS)
    assert clocks.stop() == [0, 0]
    due_s = time.time() + SPREAD_S
    clocks.until(lambda: time.time() > due_s, "all are due while the shard is down")
    joined(clocks, "third")
    clocks.until(
        lambda: not clocks.are_open() and clocks.is_done(), "the third worker has rung the rest", 2 * DEADLINE_S
    )
    assert clocks.stop() == [0]
    assert clocks.rung() == dict.fromkeys(range(3 * TIMERS), 1)


# --- effects --------------------------------------------------------------------------------------------------


@pytest.fixture
def errands(kafka_url: str, delivery: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EffectTrial]:
    """Yield a new system of errand boys, of one shard."""
    (tmp_path / "diary").touch()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ERRANDS_NAME", f"errands-{uuid4().hex[:8]}")
    monkeypatch.setenv("ERRANDS_DELIVERY", delivery)
    monkeypatch.setenv("ERRANDS_PARTITIONS", "1")
    monkeypatch.setenv("ERRANDS_SETTINGS", SETTINGS)
    monkeypatch.setenv("ERRANDS_DIARY", str(tmp_path / "diary"))
    trial = EffectTrial(errand_boys(), kafka_url)
    yield trial
    trial.close()


def test_an_effect_whose_receiver_sleeps_while_its_shard_moves(errands: EffectTrial, tmp_path: Path) -> None:
    """Only that one is repeated; the failed attempt that its former owner brings when it wakes up does not count."""
    app = errands.app

    def attempts(number: int) -> list[tuple[str, int, int]]:
        """Return the attempts of an effect: id, number, epoch."""
        lines = [line.split() for line in (tmp_path / "diary").read_text(encoding="utf-8").splitlines()]
        return [(fx_id, int(nth), int(epoch)) for _, of, fx_id, nth, epoch in lines if int(of) == number]

    first = joined(errands, "first")
    with app.system.client(errands.url) as client:
        for number in range(10):
            client.tell(app.Boy.go, f"k{number}", app.Go(number=number))
        errands.until(lambda: errands.is_done() and not errands.effects(), "the others are settled")
        client.tell(app.Boy.go, "slow", app.Go(number=99, how="nap"))
    errands.until(lambda: len(attempts(99)) > 0, "its first attempt has begun")
    with asleep(errands, first):
        before = len(attempts(99))
        joined(errands, "second")
        # Its second attempt there: by now that of the first worker takes too long as well, if it has not failed before.
        errands.until(lambda: len(attempts(99)) > before + 1, "the second worker has tried it twice", 2 * DEADLINE_S)
    (tmp_path / "diary.over").touch()
    errands.until(lambda: errands.is_done() and not errands.effects(), "it is settled", 2 * DEADLINE_S)
    errands.until(errands.is_done, "its result is heard")
    assert errands.stop() == [0, 0]
    report = verify(errands.reader, app.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    decode = app.system.behaviour("boy").journal.decode
    events = errands.reader.read(f"{app.system.name}.boy.events", 0)
    assert Counter(decode(record.value or b"").number for record in events) == dict.fromkeys([*range(10), 99], 1)
    assert [len(attempts(number)) for number in range(10)] == [1] * 10, "one that was settled has run again"
    assert len({fx_id for fx_id, _, _ in attempts(99)}) == 1, "another id"
    epochs = [epoch for _, _, epoch in attempts(99)]
    assert epochs[0] < epochs[-1]
    for owner in {*epochs}:
        tried = [nth for _, nth, epoch in attempts(99) if epoch == owner]
        assert tried == [*range(tried[0], tried[0] + len(tried))], (
            f"of epoch {owner}: an attempt is missing or repeated"
        )
