"""What a worker reports of the timers and effects that its shards owe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from repertory import Running
from repertory.actors import effect as effects_of_this_build
from repertory.bridge.owed_reports import LOOK_S, OwedReports
from repertory.bridge.reports import EntityOwes
from tests.apps import errands, ringing
from tests.apps.errands import DIARY, Boy, Go
from tests.apps.ringing import Clock, Set
from tests.bridge.test_effects import until


class Looker:
    """Looks at a worker, each time after long enough."""

    def __init__(self, running: Running) -> None:
        self._running, self._now_s = running, 0.0
        self.reports: list[EntityOwes] = []
        self.owed = OwedReports(running.loop.region, self.reports.append)

    def look(self, at_ms: Callable[[], int] | None = None) -> list[EntityOwes]:
        """Return what is reported."""
        self._now_s += LOOK_S
        self.reports.clear()
        self.owed.look(self._now_s, at_ms or self._running._clock.epoch_ms)
        return self.reports


def test_timers_are_counted_and_the_oldest_that_is_due_is_named() -> None:
    """Over all shards; a look that finds the same reports nothing, and so does one that is too soon."""
    with ringing.made("owed", "exactly-once").start() as running:
        looker = Looker(running)
        assert looker.look() == []
        for number in range(4):
            running.client.tell(Clock.set, f"k{number}", Set(name="n", after_s=3_600 + number))
        running.settle()
        assert looker.look() == [EntityOwes(entity="clock", timers=4)]
        assert looker.look() == []
        due_ms = min(each.due_ms for each in running.timers())
        assert looker.look(lambda: due_ms - 1) == []
        assert looker.look(lambda: due_ms) == [EntityOwes(entity="clock", timers=4, due_s=due_ms / 1_000)]
        running.advance(7_200)
        looker.owed.look(0.0, running._clock.epoch_ms)
        assert len(looker.reports) == 1, "that was too soon"
        assert looker.look() == [EntityOwes(entity="clock")]
        assert looker.look() == []


def test_effects_are_counted_by_what_they_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those under way, those that are parked, and those of another build."""
    monkeypatch.setenv(DIARY, str(tmp_path / "diary"))
    with errands.made("owed", "exactly-once").start() as running:
        for number, how in enumerate(("fail", "wait", "wait")):
            running.client.tell(Boy.go, f"k{number}", Go(number=number, how=how))
        until(running, lambda: any(each.parked for each in running.effects()), "one is parked")
        looker = Looker(running)
        assert looker.look() == [EntityOwes(entity="boy", effects=3, running=2, parked=1)]
        with monkeypatch.context() as patch:
            patch.delitem(effects_of_this_build._effects, "errands.wait")
            running.crash()
            until(running, lambda: any(each.not_in_build for each in running.effects()), "one waits for its build")
            running.settle()
        looker = Looker(running)
        assert looker.look() == [EntityOwes(entity="boy", effects=3, parked=1, not_in_build=2)]
