"""Effects that kill their process, among many that are innocent, and effects whose shard moves while they run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from repertory import Running
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.system.open_effects import open_effects
from repertory.supervision.process.reports import WorkerExited, WorkerFailed, WorkerWaits
from repertory.verify import verify
from tests.apps import errands
from tests.apps.errands import DIARY, Boy, Go, made
from tests.support.nodes.trial import DEADLINE_S, Trial
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes

#: So many innocent effects are under way beside the guilty one.
INNOCENT = 100


def errand_boys() -> Any:
    """Return ``tests.apps.errands`` with the system of this test, as its nodes import it.

    It is not imported again: the effects of this process are known by their names, and those are of the first import.
    """
    return SimpleNamespace(**{**vars(errands), "system": errands.configured()})


class EffectTrial(Trial):
    """A run of ``tests.apps.errands``."""

    def effects(self) -> list[tuple[str, bool]]:
        """Return the keys of what is not settled, and whether it is parked."""
        try:
            return [(each.key, each.parked) for each in open_effects(self.reader, self.app.system)]
        except LogUnavailable:  # For example while the transaction of a dead worker is open.
            return [("", False)]


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def trial(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EffectTrial]:
    """Yield a new system on a log of its own."""
    url = request.getfixturevalue("kafka_url") if request.param == "kafka" else f"sqlite:{tmp_path / 'errands.db'}"
    (tmp_path / "diary").touch()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("ERRANDS_NAME", f"errands-{uuid4().hex[:8]}")
    monkeypatch.setenv("ERRANDS_DIARY", str(tmp_path / "diary"))
    trial = EffectTrial(errand_boys(), url)
    yield trial
    trial.close()


@pytest.mark.parametrize("how", ["exit", "crash"])
def test_only_the_guilty_effect_is_parked(trial: EffectTrial, how: str) -> None:
    """``os._exit`` and a native crash: those beside it are tried one at a time, and each is heard once."""
    app = trial.app
    with app.system.client(trial.url) as client:
        for number in range(INNOCENT):
            client.tell(app.Boy.go, f"k{number}", app.Go(number=number, how="slow" if number % 3 else ""))
        client.tell(app.Boy.go, "guilty", app.Go(number=1_000, how=how))
        client.tell(app.Boy.go, "guilty", app.Go(number=1_001))
    trial.node("one", workers=2)
    trial.until(lambda: trial.effects() == [("guilty", True)], "only the guilty one is left", 3 * DEADLINE_S)
    trial.until(trial.is_done, "all commands are handled")
    gauge = 'repertory_effects_parked{entity="boy"}'
    trial.until(lambda: trial.nodes[0].record().metrics.get(gauge) == 1, "the node's metrics say so")
    deaths = len(trial.reported(WorkerExited))
    assert trial.stop() == [0]
    assert deaths >= app.system.settings.deaths_max
    report = verify(trial.reader, app.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    behaviour, heard = app.system.behaviour("boy"), Counter[int]()
    for partition in range(2):
        for record in trial.reader.read(f"{app.system.name}.boy.events", partition):
            heard[behaviour.journal.decode(record.value or b"").number] += 1
    assert heard == dict.fromkeys([*range(INNOCENT), 1_001], 1)


@pytest.fixture
def impatient(trial: EffectTrial, monkeypatch: pytest.MonkeyPatch) -> EffectTrial:
    """Return the trial; its nodes give up a worker whose effects are blocked for a second."""
    monkeypatch.setenv("ERRANDS_SETTINGS", "progress_timeout_s=1 ping_timeout_s=5")
    return trial


def test_an_effect_that_blocks_the_others_is_parked(impatient: EffectTrial) -> None:
    """Each worker in which it blocks the event loop for too long is replaced, and it alone is blamed."""
    trial, app = impatient, impatient.app
    with app.system.client(trial.url) as client:
        for number in range(10):
            client.tell(app.Boy.go, f"k{number}", app.Go(number=number, how="slow"))
        client.tell(app.Boy.go, "guilty", app.Go(number=1_000, how="block"))
        client.tell(app.Boy.go, "guilty", app.Go(number=1_001))
    trial.node("one", workers=1)
    trial.until(lambda: trial.effects() == [("guilty", True)], "only the guilty one is left", 3 * DEADLINE_S)
    trial.until(trial.is_done, "all commands are handled")
    failures = [each for each in trial.reported(WorkerFailed) if "blocks the event loop" in each.message]
    assert trial.stop() == [0]
    assert len(failures) == app.system.settings.deaths_max
    assert all("effect 'errands.run' of key 'guilty'" in each.message for each in failures)
    report = verify(trial.reader, app.system)
    assert report.ok, [check for check in report.checks if not check.ok]


def test_a_lifespan_that_fails_restarts_the_worker(trial: EffectTrial, tmp_path: Path) -> None:
    """With its backoff, and it says why; once it is mended, no effect is lost."""
    broken = tmp_path / "diary.broken"
    broken.touch()
    with trial.app.system.client(trial.url) as client:
        client.tell(trial.app.Boy.go, "a", trial.app.Go(number=1))
    trial.node("one", workers=1)

    def failures() -> list[str]:
        sentence = "the lifespan of the system failed: OSError: no desk"
        return [each.where for each in trial.reported(WorkerFailed) if sentence in each.message]

    trial.until(lambda: len(failures()) >= 2 and len(trial.reported(WorkerWaits)) >= 2, "it is tried again")
    broken.unlink()
    trial.until(lambda: trial.is_done() and trial.effects() == [], "the effect runs")
    assert trial.stop() == [0]
    assert len((tmp_path / "diary").read_text(encoding="utf-8").splitlines()) == 1


def test_the_result_of_a_former_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shard moves while a receiver sleeps: only that effect is repeated, with its id, and it has one result.

    On SQLite: Kafka's client answers for a worker that sleeps in this process, until its poll interval is over.
    """
    url = f"sqlite:{tmp_path / 'errands.db'}"
    diary = tmp_path / "diary"
    diary.touch()
    monkeypatch.setenv(DIARY, str(diary))
    system = made(
        f"errands-{uuid4().hex[:8]}", "exactly-once", partitions=1,
        session_timeout_s=1.0, progress_timeout_s=0.5, ping_timeout_s=0.5,
    )  # fmt: skip

    def attempts() -> list[list[str]]:
        return [line.split() for line in diary.read_text(encoding="utf-8").splitlines()]

    def until(running: Running, is_so: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 2 * DEADLINE_S
        while not is_so():
            assert time.monotonic() < deadline_s
            running.tick(0.01)

    with system.start(url) as first:
        for number in range(10):
            first.client.tell(Boy.go, f"k{number}", Go(number=number))
        first.settle()
        first.client.tell(Boy.go, "slow", Go(number=99, how="wait"))
        settled = len(attempts())
        until(first, lambda: len(attempts()) > settled)
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        with system.start(url) as second:  # From here on the first one is asleep, and its effect runs on.
            before = len(attempts())
            until(second, lambda: len(attempts()) > before)
            (tmp_path / "diary.over").touch()
            second.settle()
            assert second.state(Boy, "slow") == Boy(heard=(99,))
            until(first, lambda: not first._effects.is_running)
            second.settle()
            assert second.state(Boy, "slow") == Boy(heard=(99,))
            assert second.effects() == []
            report = verify(second.reader, system)
            assert report.ok, [check for check in report.checks if not check.ok]
    slow = attempts()[settled:]
    assert {line[1] for line in slow} == {"99"}, "an effect that was settled has run again"
    assert len({line[2] for line in slow}) == 1, "another id"
    epochs = [int(line[4]) for line in slow]
    assert epochs == sorted({*epochs}), "no greater epoch"
