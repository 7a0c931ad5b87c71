"""The kill matrix around effects: a worker is killed before and after it commits what it does about them.

As in ``test_kill_matrix`` on a real Kafka under load. Effects may run again, with the same id; each result is heard
once, whoever has the shard then.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from repertory.bridge import kill_points
from repertory.bridge.system.committed import journal, shard_record
from repertory.supervision.process.reports import WorkerExited
from repertory.verify import verify
from tests.bridge.test_deadly_effects import EffectTrial, errand_boys
from tests.support.nodes.trial import DEADLINE_S
from tests.support.paths import ROOT

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

#: As for ``test_kill_matrix``.
ROUNDS = int(os.environ.get("REPERTORY_KILL_ROUNDS", "1"))
POINTS = tuple(kill_points.EFFECT_POINTS)
KEYS = 5
#: So many effects are performed in one go, until all kills have happened.
SOME = 30


@pytest.fixture
def trial(kafka_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EffectTrial]:
    """Yield a new system on the test run's Kafka."""
    (tmp_path / "diary").touch()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ERRANDS_NAME", f"errands-{uuid4().hex[:8]}")
    monkeypatch.setenv("ERRANDS_DIARY", str(tmp_path / "diary"))
    trial = EffectTrial(errand_boys(), kafka_url)
    yield trial
    trial.close()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_worker_dies_around_effects(
    trial: EffectTrial, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards go to another worker, and so do their effects."""
    app, random = trial.app, Random(number)  # noqa: S311 - not a secret
    points = random.sample(POINTS, len(POINTS))
    monkeypatch.setenv(kill_points.VARIABLE, ",".join(f"{point}:{2 + number % 7}" for point in points))
    trial.node("one", workers=2)
    monkeypatch.delenv(kill_points.VARIABLE)
    numbers = 0
    with app.system.client(trial.url) as client:
        while len(killed := [each for each in trial.reported(WorkerExited) if each.how == "SIGKILL"]) < len(POINTS):
            for each in range(numbers, numbers + SOME):
                how = "late" if each % 10 == 0 else "slow" if each % 4 == 0 else ""
                client.tell(app.Boy.go, f"k{each % KEYS}", app.Go(number=each, how=how))
            numbers += SOME
            trial.poll(0.3)
            assert numbers < 3_000, f"{len(killed)} of {len(POINTS)} points were reached"
    trial.until(lambda: trial.is_done() and not trial.effects(), "the end of all effects", 4 * DEADLINE_S)
    trial.until(trial.is_done, "all commands are handled", 2 * DEADLINE_S)
    assert trial.stop() == [0]
    report = verify(trial.reader, app.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    behaviour, heard = app.system.behaviour("boy"), Counter[int]()
    for partition in range(2):
        shard = shard_record(trial.reader, app.system, behaviour, partition)
        for record in journal(trial.reader, app.system, behaviour, partition, shard, from_seq=0)[0]:
            heard[behaviour.journal.decode(record.value or b"").number] += 1
    assert heard == dict.fromkeys(range(numbers), 1)
    ids = defaultdict(set)
    for line in (tmp_path / "diary").read_text(encoding="utf-8").splitlines():
        _, done, fx_id, _, _ = line.split()
        ids[int(done)].add(fx_id)
    assert all(len(found) == 1 for found in ids.values())
    assert set(ids) == set(range(numbers))
