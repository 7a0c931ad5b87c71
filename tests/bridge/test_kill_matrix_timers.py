"""The kill matrix around timers: a worker is killed before and after it commits what it does about them.

As in ``test_kill_matrix`` on a real Kafka under load. Each timer rings once, and none that was cancelled in time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from random import Random
from uuid import uuid4

import pytest

from repertory.bridge import kill_points
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.system.committed import journal, shard_record
from repertory.bridge.system.open_timers import open_timers
from repertory.supervision.process.reports import WorkerExited
from repertory.verify import verify
from tests.support.nodes.trial import DEADLINE_S, Trial, application
from tests.support.paths import ROOT

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

#: As for ``test_kill_matrix``.
ROUNDS = int(os.environ.get("REPERTORY_KILL_ROUNDS", "1"))
POINTS = tuple(kill_points.TIMER_POINTS)
KEYS = 5
#: So many timers are set in one go, until all kills have happened; each third is cancelled, some too late.
SOME = 30


class TimerTrial(Trial):
    """A run of the clocks of ``tests.apps.ringing``."""

    def rung(self) -> Counter[int]:
        """Return the numbers of the timers that rang, and how often; the log must be whole."""
        app = self.app
        report = verify(self.reader, app.system)
        assert report.ok, [check for check in report.checks if not check.ok]
        behaviour, found = app.system.behaviour("clock"), Counter[int]()
        for partition in range(app.system.hosted[app.Clock].partitions):
            shard = shard_record(self.reader, app.system, behaviour, partition)
            for record in journal(self.reader, app.system, behaviour, partition, shard, from_seq=0)[0]:
                found[behaviour.journal.decode(record.value or b"").number] += 1
        return found

    def are_open(self) -> bool:
        """Return whether timers are open, or may be."""
        try:
            return any(True for _ in open_timers(self.reader, self.app.system))
        except LogUnavailable:  # For example while the transaction of a dead worker is open.
            return True

    def killed(self) -> int:
        """Count the workers that were killed at a point."""
        return sum(1 for report in self.reported(WorkerExited) if report.how == "SIGKILL")


@pytest.fixture
def trial(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TimerTrial]:
    """Yield a new system on the test run's Kafka."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RINGING_NAME", f"ringing-{uuid4().hex[:8]}")
    monkeypatch.setenv("KILLED_NAME", "")  # Restores what `application` sets.
    trial = TimerTrial(application("unused", "tests.apps.ringing"), kafka_url)
    yield trial
    trial.close()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker_dies_around_timers(trial: TimerTrial, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards go to another worker, and so do their timers."""
    app, random = trial.app, Random(number)  # noqa: S311 - not a secret
    points = random.sample(POINTS, len(POINTS))
    monkeypatch.setenv(kill_points.VARIABLE, ",".join(f"{point}:{2 + number % 7}" for point in points))
    trial.node("one", workers=2)
    monkeypatch.delenv(kill_points.VARIABLE)
    numbers, cancelled = 0, set[int]()
    with app.system.client(trial.url) as client:
        while trial.killed() < len(POINTS):
            for each in range(numbers, numbers + SOME):
                key, name = f"k{each % KEYS}", f"n{each}"
                client.tell(app.Clock.set, key, app.Set(name=name, after_s=random.choice((0, 0.05, 0.3)), number=each))
                if each % 3 == 0:
                    client.tell(app.Clock.unset, key, app.Unset(name=name))
                    cancelled.add(each)
            numbers += SOME
            trial.poll(0.2)
            assert numbers < 3_000, f"{trial.killed()} of {len(POINTS)} points were reached"
    trial.until(lambda: trial.is_done() and not trial.are_open(), "the end of all timers", 2 * DEADLINE_S)
    trial.until(trial.is_done, "all commands are handled", 2 * DEADLINE_S)
    assert trial.stop() == [0]
    rung = trial.rung()
    assert {each for each in range(numbers) if each not in cancelled} <= {*rung}
    assert set(rung.values()) == {1}
