"""``repertory status``: partitions that nobody reads, foreign members of the group, and ``--check`` for probes."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # not re-exported
from typer.testing import CliRunner

from repertory import ActorSystem, Command, Directive, Entity, Event, command, event, restart
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import TopicMismatch
from repertory.bridge.log.record import Output
from repertory.bridge.reports import IncidentReport, ShardReport
from repertory.cli.app import app
from tests.support.working import working


class Tick(Command):
    """Count, or fail."""

    fails: bool = False


class Ticked(Event):
    """It was counted."""


class Clock(Entity):
    """Counts."""

    ticks: int = 0

    @command
    def tick(self, cmd: Tick) -> Ticked:
        """Count."""
        if cmd.fails:
            raise ValueError("broken")
        return Ticked()

    @event
    def ticked(self, _evt: Ticked) -> Self:
        """Count."""
        return self.replace(ticks=self.ticks + 1)


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log that a probe and a worker can share."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/checked.db"
    return str(request.getfixturevalue("kafka_url"))


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> ActorSystem:
    """Return a system of two shards, which is also the target ``checked_app:system``."""
    found = ActorSystem(f"checked-{uuid.uuid4().hex[:8]}")
    found.host(Clock, partitions=2, supervise=restart(on={ValueError: Directive.STOP}))
    module = ModuleType("checked_app")
    module.system = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "checked_app", module)
    return found


@pytest.fixture
def status(url: str) -> Callable[..., Any]:
    """Return what runs ``repertory status`` on the log."""

    def status(*arguments: str) -> Any:
        arguments = ("status", "checked_app:system", *arguments, "--log", url)
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return status


def partitions(url: str, topic: str, count: int) -> None:
    """Give a topic a number of partitions, as ``kafka-topics.sh --alter`` does; SQLite's by hand, also fewer."""
    if url.startswith("kafka"):
        admin = AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})
        admin.create_partitions([NewPartitions(topic, count)])[topic].result(30)
        deadline_s = time.monotonic() + 60
        while len(admin.list_topics(topic, timeout=10).topics[topic].partitions) < count:
            assert time.monotonic() < deadline_s
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:"))) as connection:
        connection.execute("DELETE FROM partition WHERE topic = ? AND partition >= ?", (topic, count))
        rows = [(topic, partition) for partition in range(count)]
        connection.executemany("INSERT OR IGNORE INTO partition VALUES (?, ?, 0)", rows)
        connection.execute("UPDATE meta SET membership = membership + 1")
        connection.commit()


def ran(system: ActorSystem, url: str) -> None:
    """Make the topics of a system, and handle a command."""
    with system.start(url) as running:
        running.client.tell(Clock.tick, "a", Tick())
        running.settle()


@contextlib.contextmanager
def served(system: ActorSystem, url: str, status: Callable[..., Any]) -> Iterator[None]:
    """Run a worker, and wait until it has all shards."""
    with working(system, url):
        deadline_s = time.monotonic() + 60
        while "no owner" in (done := status("--check")).output:
            assert time.monotonic() < deadline_s, done.output
        yield


# --- --check ------------------------------------------------------------------------------------------------------


def test_check_passes_while_all_shards_are_served(system: ActorSystem, url: str, status: Callable[..., Any]) -> None:
    """Exit 0 and one line; without a worker exit 1, and with ``--json`` the same beside all else."""
    ran(system, url)
    done = status("--check")
    assert (done.exit_code, done.output.count("\n")) == (1, 1)
    assert "2 shards have no owner: clock/0, clock/1" in done.output
    with served(system, url, status):
        done = status("--check")
        assert (done.exit_code, done.output) == (0, f"{system.name}: ok: 2 shards have an owner, no key is parked\n")
        done = status("--check", "--json")
        assert done.exit_code == 0
        shown = json.loads(done.stdout)
        assert (shown["ok"], shown["problems"]) == (True, [])
        assert status().exit_code == 0


def test_check_fails_for_a_parked_key(system: ActorSystem, url: str, status: Callable[..., Any]) -> None:
    """It names the first keys; `status` without it goes on as before."""
    with system.start(url) as running:
        for number in range(5):
            running.client.tell(Clock.tick, f"k{number}", Tick(fails=True))
        running.settle()
    with served(system, url, status):
        done = status("--check")
        assert done.exit_code == 1
        assert "5 keys are parked: clock k" in done.output
        assert "and 2 more" in done.output
        assert json.loads(status("--json", "--check").stdout)["ok"] is False
        assert status().exit_code == 0


def test_check_fails_for_a_shard_that_cannot_be_read(system: ActorSystem, url: str, status: Callable[..., Any]) -> None:
    """Its owner cannot recover it either."""
    ran(system, url)
    with closing(connect(url)) as backend, closing(backend.appender()) as appender:
        appender.append([Output(f"{system.name}.clock.state", 0, b"\0shard", b"\xc1")])
    done = status("--check")
    assert done.exit_code == 1
    assert "1 shard cannot be read: clock/0" in done.output


# --- partitions ---------------------------------------------------------------------------------------------------


def test_partitions_that_are_added_are_read_by_nobody(
    system: ActorSystem, url: str, status: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The worker says so once and serves its shards; `status` counts what is there; the next start is refused."""
    topic = f"{system.name}.clock.commands"
    says = f"{topic} has 4 partitions, the code says 2: nobody reads partitions 2 to 3"
    incidents: list[IncidentReport] = []

    def take(report: ShardReport) -> None:
        if isinstance(report, IncidentReport):
            incidents.append(report)

    ran(system, url)
    with caplog.at_level(logging.INFO, "repertory"), system.start(url) as running:
        running.report = take
        running.settle()
        partitions(url, topic, 4)
        with closing(connect(url)) as backend, closing(backend.appender()) as appender:
            appender.append([Output(topic, 3, b"x", encode(Tick())) for _ in range(3)])
        running.crash()  # The next member of the group learns of the partitions at once, a running one within minutes.
        deadline_s = time.monotonic() + 60
        while not incidents:
            assert time.monotonic() < deadline_s
            running.tick(0.05)
        running.client.tell(Clock.tick, "a", Tick())
        with contextlib.suppress(TimeoutError):
            running.settle(5.0)
        assert running.state(Clock, "a") == Clock(ticks=2)
    assert [incident.error for incident in incidents] == ["PartitionsAdded"]
    assert [line for line in caplog.text.splitlines() if "partitions" in line] == [
        line for line in caplog.text.splitlines() if says in line
    ]
    assert caplog.text.count(says) == 1
    assert "nknown partition" not in caplog.text
    done = status("--check")
    assert done.exit_code == 1
    assert f"1 topic has another number of partitions: {topic}" in done.output
    done = status()
    assert says in done.output
    assert "read by nobody" in done.output
    shown = json.loads(status("--json").stdout)
    assert [(each["partition"], each["lag"], each["is_read"]) for each in shown["shards"]] == [
        (0, 0, True), (1, 0, True), (2, 0, False), (3, 3, False),
    ]  # fmt: skip
    with pytest.raises(TopicMismatch, match="4 partitions"):
        system.start(url)


@pytest.mark.parametrize("role", ["events", "state"])
def test_partitions_of_other_topics(system: ActorSystem, url: str, status: Callable[..., Any], role: str) -> None:
    """Nothing is written there, so nothing is lost; but no node starts any more."""
    ran(system, url)
    topic = f"{system.name}.clock.{role}"
    partitions(url, topic, 3)
    assert f"{topic} has 3 partitions, the code says 2: the partitions from 2 on are not used" in status().output
    assert "1 topic has another number of partitions" in status("--check").output
    with pytest.raises(TopicMismatch, match="3 partitions"):
        system.start(url)


@pytest.mark.parametrize("role", ["commands", "events", "state"])
def test_a_topic_with_fewer_partitions(system: ActorSystem, url: str, status: Callable[..., Any], role: str) -> None:
    """One shard cannot work; the other is shown. Kafka has no such topic but by deleting it."""
    if url.startswith("kafka"):
        system.prepare(connect(url))
        wider = ActorSystem(system.name)
        wider.host(Clock, partitions=3)
        sys.modules["checked_app"].system = wider  # type: ignore[attr-defined]
    else:
        ran(system, url)
        partitions(url, f"{system.name}.clock.{role}", 1)
    done = status()
    assert done.exit_code == 0, done.output
    assert role == "events" or "cannot be read: " in done.output
    assert "clock/0" in done.output
    assert "the shards from" in done.output
    assert status("--check").exit_code == 1
