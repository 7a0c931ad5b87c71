"""A worker killed at every point that it passes, on a real Kafka under load: nothing is lost, nothing happens twice."""

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
from tests.support.nodes.trial import Trial, application

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

#: ``make chaos`` runs each point twenty times, at another passing and among other points each time.
ROUNDS = int(os.environ.get("REPERTORY_KILL_ROUNDS", "1"))
BURST = 200
#: A trial's points, one kill after the other: it costs a start, a stop and a verdict, a kill much less.
KILLS = 5
#: Points that are passed a few times in a worker's life, and how often at least; the others come with every batch.
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
#: Passed as the application stumbles, once in a process that has a counter: first of a trial, while all are fresh.
#: The successor of a killed worker may be given no counter, and then passes none of them ever.
ONCE = ("waiting-for-restart", "discarding-producer")
#: Points that nobody passes unless shards move, or the node is told to stop.
MOVING = ("revoking", "revoked")
LEAVING = "stopping"
#: What is not passed within this time will not be passed.
PASSED_S = 30.0
#: How long a guest stays, and how many come at most.
GUEST_S, GUESTS_MAX = 4.0, 8


def passing(point: str, number: int) -> int:
    """Return which passing kills in a round."""
    return 1 + number % RARE[point] if point in RARE else 2 + 3 * number


def trials(number: int) -> list[tuple[str, ...]]:
    """Return the points of a round's trials: each point once, in other company and order in each round."""
    points = [point for point in kill_points.POINTS if point not in (*MOVING, LEAVING, *ONCE)]
    Random(number).shuffle(points)  # noqa: S311 - no secret
    first = [(point, *(points.pop() for _ in range(KILLS - 1))) for point in ONCE]
    return [*first, *(tuple(points[start : start + KILLS]) for start in range(0, len(points), KILLS))]


@pytest.fixture
def trial(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """Give a system of its own on the test run's Kafka."""
    monkeypatch.setenv("KILLED_NAME", "")  # put back what `application` sets
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
    """The other worker and the successor handle everything, exactly once, and `verify` finds nothing wrong."""
    trial.send(BURST)
    armed(trial, monkeypatch, points, number)
    for kills in range(1, len(points) + 1):
        assert under_load(trial, kills), f"{points[kills - 1]} was not passed: {trial.reports[-20:]}"
    trial.send(BURST)
    trial.until(trial.is_done, "all commands handled")
    assert trial.stop() == [0]
    assert trial.complaints() == []


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker_may_die_as_shards_move_and_as_it_leaves(
    trial: Trial, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As guests join and leave, and then as the node is told to stop; one that starts anew goes on."""
    trial.send(BURST)
    node = armed(trial, monkeypatch, (*MOVING, LEAVING), number)
    trial.until(lambda: len(node.workers) == 2, "both workers started")
    guests = 0
    while killed(trial) < len(MOVING):
        assert guests < GUESTS_MAX, f"point {killed(trial) + 1} was not passed: {trial.reports[-20:]}"
        guests += 1
        with trial.node("guest", workers=1):  # which takes shards, unless it comes as a killed worker is away
            under_load(trial, len(MOVING), GUEST_S)
        trial.nodes.pop()
    trial.until(lambda: len(node.workers) == 2, "both workers started again")
    trial.send(BURST)
    node.signal(signal.SIGTERM)
    assert under_load(trial, len(MOVING) + 1), f"{LEAVING} was not passed: {trial.reports[-20:]}"
    trial.until(lambda: node.exit_code is not None, "the node stopped")
    trial.node("one", workers=2)
    trial.send(BURST)
    trial.until(trial.is_done, "all commands handled")
    assert trial.stop()[1:] == [0]
    assert trial.complaints() == []


def armed(trial: Trial, monkeypatch: pytest.MonkeyPatch, points: tuple[str, ...], number: int) -> NodeHandle:
    """Start a node of two workers that dies at these points, one after the other; no other node does."""
    monkeypatch.setenv(kill_points.VARIABLE, ",".join(f"{point}:{passing(point, number)}" for point in points))
    node = trial.node("one", workers=2)
    monkeypatch.delenv(kill_points.VARIABLE)
    return node


def under_load(trial: Trial, kills: int, limit_s: float = PASSED_S) -> bool:
    """Send on until so many points were reached, with pauses in which it is looked for; tell whether they were."""
    deadline_s = time.monotonic() + limit_s
    while killed(trial) < kills and time.monotonic() < deadline_s:
        trial.send(BURST)
        pause_s = time.monotonic() + 0.3
        while killed(trial) < kills and time.monotonic() < pause_s:
            trial.poll()
    return killed(trial) >= kills


def killed(trial: Trial) -> int:
    """Count the points that were reached: workers that were killed, and nobody but a point kills one."""
    assert not trial.reported(WorkerKilled), trial.reported(WorkerKilled)
    return sum(1 for report in trial.reported(WorkerExited) if report.how == "SIGKILL")


@pytest.mark.parametrize("wanted", ["nowhere", "produced:0", "produced:x", "produced,", "produced:3,nowhere"])
def test_a_point_that_is_none_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error must not look like a system that survives."""
    monkeypatch.setenv(kill_points.VARIABLE, wanted)
    with pytest.raises(ValueError, match="write one of polled"):
        kill_points.arm()
