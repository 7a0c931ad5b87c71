"""The kill matrix around sagas: a worker is killed at each point that it passes while it works on them.

On SQLite and on a real Kafka, under a load of sagas that do all that a saga can: whatever is lost between two commits,
money is conserved, and each saga has done what its journal says, once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from repertory.bridge import kill_points
from repertory.simulation.invariant import Outcome
from repertory.supervision.process.reports import WorkerExited
from repertory.verify import verify
from tests.apps import sagas
from tests.apps.saga_rules import conserved
from tests.support.nodes.trial import DEADLINE_S, Trial
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes

#: As for ``test_kill_matrix``.
ROUNDS = int(os.environ.get("REPERTORY_KILL_ROUNDS", "1"))
#: The points of each turn, in the loop and on Kafka in its transaction; and those around timers and effects.
LOOP = ("polled", "queued", "handling", "decided", "handed-over", "commit-heard")
COMMIT = ("begun", "producing", "produced", "offset-sent", "commit-asked", "committed")
OWED = (*kill_points.TIMER_POINTS, *kill_points.EFFECT_POINTS)
#: No purse waits for an operator, so that sagas go on.
HOWS = ("", "", "once", "late", "hopeless")
#: So many points a trial, those around timers and effects in each: a trial costs a start, a stop and a verification.
SOME = 14


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def trial(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """Yield a new system on a log of its own."""
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'sagas.db'}"
    name = f"sagas-{uuid4().hex[:8]}"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SAGAS_NAME", name)
    app: Any = SimpleNamespace(**{**vars(sagas), "system": sagas.made(name)})
    trial = Trial(app, url)
    yield trial
    trial.close()


def killed(trial: Trial) -> int:
    """Count the workers that were killed at a point."""
    return sum(1 for report in trial.reported(WorkerExited) if report.how == "SIGKILL")


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker_dies_around_sagas(trial: Trial, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards go to another worker, and its sagas go on as if nothing had happened."""
    random = Random(number)  # noqa: S311 - not a secret
    turns = LOOP if trial.url.startswith("sqlite:") else (*LOOP, *COMMIT)
    points = [*OWED, *random.sample(turns, min(SOME - len(OWED), len(turns)))]
    random.shuffle(points)
    monkeypatch.setenv(kill_points.VARIABLE, ",".join(f"{point}:{2 + number % 7}" for point in points))
    trial.node("one", workers=2)
    monkeypatch.delenv(kill_points.VARIABLE)
    rounds = 0
    with trial.app.system.client(trial.url) as client:
        while killed(trial) < len(points):
            rounds += 1
            assert rounds < 200, f"{killed(trial)} of {len(points)} points were reached: {points}\n{trial.story()}"
            for handler, key, command in sagas.commands(random, 30, HOWS):
                client.tell(handler, f"{key}-{rounds}" if key.startswith("d") else key, command)
            trial.poll(0.3)
    trial.until(trial.is_done, "all commands are handled", 4 * DEADLINE_S)
    assert trial.stop() == [0]
    report = verify(trial.reader, trial.app.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    told = conserved(Outcome(trial.app.system, trial.reader, lossless=False))
    assert sum(story.over for story in told) > len(points)
