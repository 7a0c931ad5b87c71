"""Effects that kill their process, among many that are innocent: only the guilty one is parked. Real processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.system.open_effects import open_effects
from repertory.supervision.process.reports import WorkerExited
from repertory.verify import verify
from tests.support.nodes.trial import DEADLINE_S, Trial, application
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes

#: So many innocent effects are under way beside the guilty one.
INNOCENT = 100


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
    monkeypatch.setenv("KILLED_NAME", "")  # Restores what `application` sets.
    trial = EffectTrial(application("unused", "tests.apps.errands"), url)
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
