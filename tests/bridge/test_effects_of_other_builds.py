"""A rolling deploy of two builds, of which the older one lacks the function of an effect, in processes on real logs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.reports import IncidentReport
from repertory.bridge.system.open_effects import OpenEffect, open_effects
from repertory.verify import verify
from tests.bridge.test_deadly_effects import EffectTrial, trial
from tests.support.nodes.trial import DEADLINE_S

__all__ = ["trial"]

pytestmark = pytest.mark.processes

KEYS = 5


def waiting(trial: EffectTrial) -> list[OpenEffect]:
    """Return the effects that wait for another build."""
    try:
        return [each for each in open_effects(trial.reader, trial.app.system) if each.not_in_build]
    except LogUnavailable:  # For example while the transaction of a dead worker is open.
        return []


def test_an_older_build_leaves_an_effect_to_a_newer_one(
    trial: EffectTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits while the older one has the shard, in nobody's way, and starts by itself in the newer one."""
    app, log = trial.app, trial.url
    with app.system.start(log) as running:
        running._effects._is_sure = lambda: False  # None starts here.
        running.client.tell_all((app.Boy.go, f"k{n}", app.Go(number=n)) for n in range(KEYS))
        while len(running.effects()) < KEYS:
            running.tick(0.01)
    monkeypatch.setenv("ERRANDS_RUN", "errands.older")
    older = trial.node("older", workers=1)
    trial.until(lambda: len(waiting(trial)) == KEYS, "the older build says what it lacks", 2 * DEADLINE_S)
    (tmp_path / "diary.over").touch()
    with app.system.client(log) as client:
        client.tell_all((app.Boy.go, f"k{n}", app.Go(number=KEYS + n, how="wait")) for n in range(KEYS))
    trial.until(lambda: trial.is_done() and len(trial.effects()) == KEYS, "what the older build has goes on")
    assert {each.outcome for each in trial.reported(IncidentReport) if each.error == "NotInThisBuild"} == {"waits"}
    monkeypatch.delenv("ERRANDS_RUN")
    trial.node("newer", workers=1)
    assert older.stop() == 0
    trial.nodes.remove(older)
    trial.until(lambda: trial.is_done() and not trial.effects(), "the newer build runs them", 2 * DEADLINE_S)
    trial.until(trial.is_done, "their results are heard")
    assert trial.stop() == [0]
    report = verify(trial.reader, app.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    behaviour, heard = app.system.behaviour("boy"), Counter[int]()
    for partition in range(2):
        for record in trial.reader.read(f"{app.system.name}.boy.events", partition):
            heard[behaviour.journal.decode(record.value or b"").number] += 1
    assert heard == dict.fromkeys(range(2 * KEYS), 1)
    lines = [line.split() for line in (tmp_path / "diary").read_text(encoding="utf-8").splitlines()]
    assert [(attempt, count) for attempt, count in Counter(line[3] for line in lines).items()] == [("1", 2 * KEYS)]
