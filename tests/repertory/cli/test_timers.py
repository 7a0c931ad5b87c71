"""``repertory timers``: what is open is listed, and a timer is cancelled by a node that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.cli.app import app
from tests.apps import ringing
from tests.apps.ringing import Clock, Remind, Set
from tests.support.clocks import Later

TARGET = "tests.repertory.cli.test_timers:system"
system = ringing.made("ring", "exactly-once", partitions=2)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[str]:
    """A log with two timers of ``a``, one of ``b`` that is overdue, and a delayed message."""
    url = f"sqlite:{tmp_path / 'ring.db'}"
    with system.start(url) as running:
        running.client.tell(Clock.set, "a", Set(name="soon", after_s=3_600))
        running.client.tell(Clock.set, "a", Set(name="often", after_s=7_200, every_s=60))
        running.client.tell(Clock.set, "b", Set(name="late", after_s=1))
        running.client.tell(Clock.remind, "a", Remind(key="b", after_s=9_000))
        running._clock = Later(running._clock, -3_600_000)  # Its owner's clock is behind, so nothing is due for it.
        running.crash()
        running.settle()
    return url


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_what_is_open_is_listed(log: str) -> None:
    """Those that are due first, as a table and as JSON, of all or of one key."""
    listed = run("timers", "list", TARGET, "--log", log)
    assert listed.exit_code == 0, listed.output
    names = [name for name in ("late", "soon", "often", "clock/b") if name in listed.output]
    places = [listed.output.index(name) for name in names]
    assert len(names) == 4
    assert places == sorted(places)
    assert "60 s" in listed.output
    first = json.loads(run("timers", "list", TARGET, "--log", log, "--json", "--first", "1").output)
    assert [(each["entity"], each["key"], each["name"], each["fired"]) for each in first] == [
        ("clock", "b", "late", False)
    ]
    of_a = json.loads(run("timers", "list", TARGET, "--log", log, "--json", "--entity", "clock", "--key", "a").output)
    assert [each["name"] for each in of_a] == ["soon", "often"]
    assert of_a[1]["every_ms"] == 60_000
    assert "and 3 more" in run("timers", "list", TARGET, "--log", log, "--first", "1").output


def test_status_counts_timers(log: str) -> None:
    """With the age of the oldest that is due."""
    shards = json.loads(run("status", TARGET, "--log", log, "--json").output)["shards"]
    assert sum(shard["timers"] for shard in shards) == 4
    assert min(shard["due_ms"] for shard in shards if shard["due_ms"] is not None) > 0


def test_a_timer_is_cancelled(log: str) -> None:
    """By a worker, whenever one runs; who asks for one that is not there is told what there is."""
    waiting = run("timers", "cancel", TARGET, "clock", "a", "soon", "--log", log, "--wait", "0.1")
    assert waiting.exit_code == 69, waiting.output
    assert "the request is in the log and is executed when a worker reaches it" in waiting.stderr.replace("\n", " ")
    with system.start(log) as running:
        running.settle()
        assert [timer.name for timer in running.timers() if timer.key == "a"] == ["often"]
    unknown = run("timers", "cancel", TARGET, "clock", "a", "soon", "--log", log)
    assert unknown.exit_code != 0
    assert "the key 'a' of clock has no timer 'soon'; it has 'often'" in unknown.stderr.replace("\n", " ")


def test_a_record_that_cannot_be_read_is_skipped(log: str) -> None:
    """And named; the others are listed."""
    with closing(connect(log)) as backend, closing(backend.appender()) as appender:
        appender.append([Output("ring.clock.state", 0, b"\0timer/x\0y", b"\xc1")])
    listed = run("timers", "list", TARGET, "--log", log)
    assert "is not a timer" in listed.stderr.replace("\n", " ")
    assert "often" in listed.output
