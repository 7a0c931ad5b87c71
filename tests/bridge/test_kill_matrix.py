"""A worker is killed at every kill point, on a real Kafka under load: nothing is lost, nothing happens twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from random import Random
from uuid import uuid4

import pytest

from repertory.bridge import kill_points
from repertory.bridge.node.handle import NodeHandle
from repertory.supervision.process.reports import WorkerExited, WorkerKilled
from tests.support.nodes.trial import DEADLINE_S, Trial, application

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

#: ``make chaos`` runs each point twenty times, each time at another passing and together with other points.
ROUNDS = int(os.environ.get("REPERTORY_KILL_ROUNDS", "1"))
BURST = 200
#: Kills per trial, one after the other: a trial costs a start, a stop and a verification, a kill costs much less.
KILLS = 5
#: Points that a worker passes only a few times, and how often at least; it passes the others with every batch.
RARE = {
    "revoking": 1,
    "revoked": 1,
    "claiming": 2,
    "claimed": 2,
    "restoring": 2,
    "restored": 2,
    "waiting-for-restart": 1,
    "stopping": 1,
    "discarding-producer": 1,
}
#: Passed when a handler of the application fails, once per process that has a counter entity: they come first in a
#: trial, while all processes are new. The successor of a killed worker may be assigned no counter and never pass them.
ONCE = ("waiting-for-restart", "discarding-producer")
#: Points that are passed only when shards move, or when the node is asked to stop.
MOVING = ("revoking", "revoked")
LEAVING = "stopping"
#: A point that is not passed within this time will not be passed.
PASSED_S = DEADLINE_S
#: How long a guest node stays in the group, and how many join at most.
GUEST_S, GUESTS_MAX = 4.0, 8


def passing(point: str, number: int) -> int:
    """Return the passing at which a round kills."""
    return 1 + number % RARE[point] if point in RARE else 2 + 3 * number


def trials(number: int) -> list[tuple[str, ...]]:
    """Return the points of a round's trials: each point once, in another order and grouping in each round."""
    points = [point for point in kill_points.POINTS if point not in (*MOVING, LEAVING, *ONCE)]
    Random(number).shuffle(points)  # noqa: S311 - not a secret
    first = [(point, *(points.pop() for _ in range(KILLS - 1))) for point in ONCE]
    return [*first, *(tuple(points[start : start + KILLS]) for start in range(0, len(points), KILLS))]


@pytest.fixture
def trial(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """Yield a new system on the test run's Kafka."""
    monkeypatch.setenv("KILLED_NAME", "")  # Restores what `application` sets.
    monkeypatch.setenv("PYTHONPATH", "")
    trial = Trial(application(f"killed-{uuid4().hex[:8]}"), kafka_url)
    yield trial
    trial.close()


@pytest.mark.parametrize(
    ("number", "points"),
    [
        pytest.param(number, points, id=f"{number}-{'+'.join(points)}")
        for number in range(ROUNDS)
        for points in trials(number)
    ],
)
def test_a_worker_may_die_at_every_point(
    trial: Trial, number: int, points: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker and the successor handle every command exactly once, and `verify` finds no error."""
    trial.send(BURST)
    armed(trial, monkeypatch, points, number)
    for kills in range(1, len(points) + 1):
        assert under_load(trial, kills), f"{points[kills - 1]} was not passed\n{trial.story()}"
    trial.send(BURST)
    trial.until(trial.is_done, "all commands handled")
    assert trial.stop() == [0]
    assert trial.complaints() == []


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker_may_die_as_shards_move_and_as_it_leaves(
    trial: Trial, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are killed as guests join and leave, and as the node is asked to stop; a new node then continues."""
    trial.send(BURST)
    node = armed(trial, monkeypatch, (*MOVING, LEAVING), number)
    trial.until(lambda: len(node.workers) == 2, "both workers started")
    guests = 0
    while killed(trial) < len(MOVING):
        assert guests < GUESTS_MAX, f"point {killed(trial) + 1} was not passed\n{trial.story()}"
        guests += 1
        with trial.node("guest", workers=1):  # It takes shards, unless it joins while a killed worker is absent.
            under_load(trial, len(MOVING), GUEST_S)
        trial.nodes.pop()
    trial.until(lambda: len(node.workers) == 2, "both workers started again")
    trial.send(BURST)
    node.signal(signal.SIGTERM)
    assert under_load(trial, len(MOVING) + 1), f"{LEAVING} was not passed\n{trial.story()}"
    trial.until(lambda: node.exit_code is not None, "the node stopped")
    trial.node("one", workers=2)
    trial.send(BURST)
    trial.until(trial.is_done, "all commands handled")
    assert trial.stop()[1:] == [0]
    assert trial.complaints() == []


def armed(trial: Trial, monkeypatch: pytest.MonkeyPatch, points: tuple[str, ...], number: int) -> NodeHandle:
    """Start a node of two workers with traps at these points, one after the other; other nodes have no traps."""
    monkeypatch.setenv(kill_points.VARIABLE, ",".join(f"{point}:{passing(point, number)}" for point in points))
    node = trial.node("one", workers=2)
    monkeypatch.delenv(kill_points.VARIABLE)
    return node


def under_load(trial: Trial, kills: int, limit_s: float = PASSED_S) -> bool:
    """Send commands until so many workers were killed, polling in between; return whether they were."""
    deadline_s = time.monotonic() + limit_s
    while killed(trial) < kills and time.monotonic() < deadline_s:
        trial.send(BURST)
        pause_s = time.monotonic() + 0.3
        while killed(trial) < kills and time.monotonic() < pause_s:
            trial.poll()
    return killed(trial) >= kills


def killed(trial: Trial) -> int:
    """Count the workers that were killed at a point; a worker that was killed otherwise fails the test."""
    assert not trial.reported(WorkerKilled), trial.reported(WorkerKilled)
    return sum(1 for report in trial.reported(WorkerExited) if report.how == "SIGKILL")


@pytest.mark.parametrize("wanted", ["nowhere", "produced:0", "produced:x", "produced,", "produced:3,nowhere"])
def test_an_unknown_point_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled point must not look like a system that survives."""
    monkeypatch.setenv(kill_points.VARIABLE, wanted)
    with pytest.raises(ValueError, match="write one of polled"):
        kill_points.arm()
