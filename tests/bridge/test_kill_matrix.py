"""A worker killed at every point that it passes, on a real Kafka under load: nothing is lost, nothing happens twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from trial import Trial, application

from bridge import faults

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

#: ``make chaos`` runs each point twenty times, at another passing each.
ROUNDS = int(os.environ.get("UNDERSTUDY_KILL_ROUNDS", "1"))
BURST = 200
#: Points that are passed a few times in a worker's life, and how often at least; the others come with every batch.
RARE = {"K12": 1, "K13": 1, "K14": 2, "K15": 2, "K16": 2, "K17": 2, "K20": 1, "K21": 1, "K22": 1}


def passing(point: str, number: int) -> int:
    """Return which passing kills in a round."""
    return 1 + number % RARE[point] if point in RARE else 2 + 3 * number


@pytest.fixture
def trial(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """Give a system of its own on the test run's Kafka."""
    monkeypatch.setenv("KILLED_NAME", "")  # put back what `application` sets
    monkeypatch.setenv("PYTHONPATH", "")
    trial = Trial(application(f"killed-{uuid4().hex[:8]}"), kafka_url)
    yield trial
    trial.close()


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("point", faults.POINTS)
def test_a_worker_may_die_at_every_point(
    trial: Trial, point: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker and the successor handle everything, exactly once, and `verify` finds nothing wrong."""
    trial.send(BURST)
    monkeypatch.setenv(faults.VARIABLE, f"{point}:{passing(point, number)}")
    node = trial.node("one", workers=2)
    monkeypatch.delenv(faults.VARIABLE)
    if point in ("K12", "K13"):
        trial.until(lambda: len(node.workers) == 2, "both workers started")
        trial.node("two", workers=1)  # which takes shards from the first
    if point == "K21":
        trial.until(lambda: len(trial.reported("worker-running")) >= 2, "both workers run")
        trial.send(BURST)
        node.signal(signal.SIGTERM)
    under_load(trial, lambda: killed(trial))
    if point == "K21":
        trial.until(lambda: node.exit_code is not None, "the node stopped")
        trial.node("one", workers=2)
    trial.send(BURST)
    trial.until(trial.is_done, "all commands handled")
    assert all(code == 0 for code in trial.stop()[point == "K21" :])
    assert trial.complaints() == []


def under_load(trial: Trial, condition: Callable[[], bool]) -> None:
    """Send on until a condition holds, with pauses in which it is looked for."""
    deadline_s = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline_s, f"the point was not passed: {trial.reports[-20:]}"
        trial.send(BURST)
        pause_s = time.monotonic() + 0.3
        while not condition() and time.monotonic() < pause_s:
            trial.poll()


def killed(trial: Trial) -> bool:
    """Tell whether the point was reached: a worker was killed, and nobody but the point kills one."""
    exits = [report for report in trial.reported("worker-exited") if report["how"] == "SIGKILL"]
    assert not trial.reported("worker-killed"), trial.reported("worker-killed")
    return len(exits) == 1


@pytest.mark.parametrize("wanted", ["K23", "K7:0", "K7:x"])
def test_a_point_that_is_none_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error must not look like a system that survives."""
    monkeypatch.setenv(faults.VARIABLE, wanted)
    with pytest.raises(ValueError, match="write one of K1"):
        faults.arm()
