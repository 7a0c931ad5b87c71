"""A shard of sagas whose stash is full: cancels reach it, and a worker that is killed in between changes nothing.

On SQLite and on a real Kafka, with real processes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from repertory import Cancelled, Done
from repertory.actors.placement import partition_of
from repertory.bridge.reports import ShardRestored, ShardStalled
from repertory.bridge.system.committed import shard_record, stashed_commands
from repertory.simulation.invariant import Outcome
from repertory.verify import verify
from tests.apps import sagas
from tests.apps.purses import Fill, Purse
from tests.apps.saga_rules import conserved
from tests.apps.sagas import Begin, Deal, Go, Op
from tests.support.nodes.trial import DEADLINE_S, Trial
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes

#: Two sagas of one shard, which has no room for a second command of either.
FULL, OTHER = [key for key in map("d{}".format, range(100)) if partition_of(key.encode(), 2) == 0][:2]
BUGGY = Begin(ops=(Op("take", "p0", 4), Op("bug")))


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def trial(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """Yield a new system on a log of its own."""
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'sagas.db'}"
    name = f"sagas-{uuid4().hex[:8]}"
    for variable, value in (("PYTHONPATH", str(ROOT)), ("SAGAS_NAME", name), ("SAGAS_STASH", "1")):
        monkeypatch.setenv(variable, value)
    app: Any = SimpleNamespace(**{**vars(sagas), "system": sagas.made(name)})
    trial = Trial(app, url)
    yield trial
    trial.close()


def stashed(trial: Trial) -> int:
    """Return how many commands the shard has stashed."""
    system, behaviour = trial.app.system, trial.app.system.behaviour("deal")
    return len(stashed_commands(trial.reader, system, behaviour, 0))


def test_a_worker_dies_between_a_cancel_and_its_turn(trial: Trial) -> None:
    """Both sagas are parked, and a signal has no room. The cancel of one is handled, once; that of the other frees."""
    system, behaviour = trial.app.system, trial.app.system.behaviour("deal")
    node = trial.node("one", workers=1)
    with system.client(trial.url) as client:
        client.tell(Purse.fill, "p0", Fill(amount=100))
        for key in (FULL, OTHER):
            client.tell(Deal.deal, key, BUGGY)
        trial.until(lambda: stashed(trial) == 2, "both sagas are parked")
        client.tell(Deal.go, FULL, Go(number=1))
        trial.until(lambda: bool(trial.reported(ShardStalled)), "the signal finds no room")
        head = shard_record(trial.reader, system, behaviour, 0).next
        assert client.cancel(Deal, OTHER, timeout_s=DEADLINE_S) == Done()
        record = shard_record(trial.reader, system, behaviour, 0)
        assert (record.next, len(record.ahead)) == (head, 1)
        before = len(trial.reported(ShardRestored))
        (pid,) = node.workers.values()
        os.kill(pid, signal.SIGKILL)
        trial.until(lambda: len(trial.reported(ShardRestored)) >= before + 4, "another worker has all shards")
        assert client.cancel(Deal, FULL, reason="enough", timeout_s=DEADLINE_S) == Done()
        for key in (FULL, OTHER):
            assert isinstance(client.ask(Deal.deal, key, BUGGY, timeout_s=DEADLINE_S), Cancelled)
    trial.until(trial.is_done, "all commands are handled")
    assert trial.stop() == [0]
    assert (stashed(trial), shard_record(trial.reader, system, behaviour, 0).ahead) == (0, ())
    report = verify(trial.reader, system)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert all(story.over for story in conserved(Outcome(system, trial.reader, lossless=False)))
