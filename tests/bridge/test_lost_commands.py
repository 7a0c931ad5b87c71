"""What retention took above the shard's next command: the shard stops, and an operator can accept the loss."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import msgspec
import pytest
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from repertory import ActorSystem, Command, Entity, Event, command, event
from repertory.actors.shard.changelog import LOST, Accepted, ShardId, encode_changelog_record
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output
from repertory.bridge.reports import ShardFailed, ShardReport
from repertory.bridge.system.accept import NotAccepted, skip_lost
from repertory.bridge.system.client import Client
from repertory.bridge.system.committed import shard_record
from repertory.bridge.system.settings import Settings
from repertory.cli.app import app
from repertory.inspect.nodes import node_records
from repertory.verify import VerificationReport, verify
from tests.support.working import working


class Put(Command):
    """Put a number."""

    n: int


class WasPut(Event):
    """A number was put."""

    n: int


class Box(Entity):
    """Keeps what was put, in order."""

    numbers: tuple[int, ...] = ()

    @command
    def put(self, cmd: Put) -> WasPut:
        """Put it."""
        return WasPut(n=cmd.n)

    @event
    def was_put(self, evt: WasPut) -> Self:
        """Keep it."""
        return self.replace(numbers=(*self.numbers, evt.n))


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log that outlives a process."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/lost.db"
    return str(request.getfixturevalue("kafka_url"))


@pytest.fixture(params=["exactly-once", "at-least-once"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ActorSystem:
    """Return a system of one shard, which is also the target ``lost_app:system``."""
    found = ActorSystem(f"lost-{uuid.uuid4().hex[:8]}", settings=Settings(delivery=request.param))
    found.host(Box, partitions=1)
    module = ModuleType("lost_app")
    module.system = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lost_app", module)
    return found


SHARD = ShardId("box", 0)


def take(system: ActorSystem, url: str, below: int) -> None:
    """Delete the commands below an offset, as retention does."""
    topic = f"{system.name}.box.commands"
    if url.startswith("kafka"):
        admin = AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})
        place = KafkaPartition(topic, 0, below)
        admin.delete_records([place])[place].result(30)
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:"))) as connection:
        connection.execute("DELETE FROM record WHERE topic = ? AND offset < ?", (topic, below))
        connection.commit()


def send(system: ActorSystem, url: str, numbers: range) -> None:
    """Send commands to one key, while no worker runs."""
    with closing(connect(url)) as backend, closing(Client(system, backend)) as client:
        client.tell_all((Box.put, "k", Put(n=n)) for n in numbers)


@contextlib.contextmanager
def opened(url: str) -> Iterator[Backend]:
    """Open a log."""
    with closing(connect(url)) as backend:
        yield backend


def verified(system: ActorSystem, url: str) -> VerificationReport:
    """Verify the log."""
    with opened(url) as backend, closing(backend.reader()) as reader:
        return verify(reader, system)


def next_of(system: ActorSystem, url: str) -> int:
    """Return the end of the commands: the offset that the next one gets."""
    with opened(url) as backend, closing(backend.reader()) as reader:
        return reader.bounds(f"{system.name}.box.commands", 0)[1]


@pytest.fixture
def lost(system: ActorSystem, url: str) -> tuple[int, int]:
    """Handle three commands, send four, lose the first two of these; return the first lost and the first kept."""
    with system.start(url) as running:
        for n in range(3):
            running.client.tell(Box.put, "k", Put(n=n))
        running.settle()
    first = next_of(system, url)
    send(system, url, range(3, 7))
    take(system, url, first + 2)
    return first, first + 2


def run(url: str, *arguments: str) -> Any:
    """Run the command line on the log."""
    done = CliRunner().invoke(app, [*arguments, "--log", url], env={"COLUMNS": "300"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def members(url: str) -> list[dict[str, Any]]:
    """Return the members of the group, as ``status`` shows them."""
    found: list[dict[str, Any]] = msgspec.json.decode(run(url, "status", "lost_app:system", "--json").stdout)["members"]
    return found


def test_an_operator_accepts_the_loss(system: ActorSystem, url: str, lost: tuple[int, int]) -> None:
    """The shard refuses to start and says how to go on; then it does, and every report names the gap."""
    failed: list[ShardFailed] = []

    def see(report: ShardReport) -> None:
        if isinstance(report, ShardFailed):
            failed.append(report)

    gap = f"commands {lost[0]} to {lost[1] - 1}"
    with system.start(url) as running:
        running.report = see
        deadline_s = time.monotonic() + 60
        while not failed:
            assert time.monotonic() < deadline_s
            running.tick(0.05)
    assert f"{gap} are missing from" in failed[0].reason
    assert "repertory skip-lost … --shard box/0 --reason …" in failed[0].reason
    assert not verified(system, url).ok
    assert f"{gap} were taken by retention and never handled" in run(url, "status", "lost_app:system").output
    assert "1 shard lost commands to retention: box/0" in run(url, "status", "lost_app:system", "--check").output
    skip = ("skip-lost", "lost_app:system", "--shard", "box/0", "--reason")
    done = run(url, *skip, "retention was two days")
    assert done.exit_code == 0, done.output
    assert f"box/0: {gap} are skipped: retention was two days" in done.output
    with system.start(url) as running:
        running.settle()
        assert running.state(Box, "k") == Box(numbers=(0, 1, 2, 5, 6))
    accepted = f"{gap} are lost and were skipped by "
    report = verified(system, url)
    assert report.ok, report.checks
    assert [accepted in sentence for sentence in report.accepted] == [True]
    assert "retention was two days" in report.accepted[0]
    assert accepted in run(url, "verify", "lost_app:system").output
    assert accepted in run(url, "status", "lost_app:system").output
    with opened(url) as backend, closing(backend.reader()) as reader:
        ((operator,), _) = node_records(reader, system)
        assert "retention was two days" in str(operator)
    done = run(url, *skip, "once more")
    assert done.exit_code == 64
    assert "no command of box/0 is lost: there is nothing to skip" in done.output


def test_a_loss_is_not_accepted_without_need(system: ActorSystem, url: str) -> None:
    """Nothing is lost, no reason is given, there is no such shard, or a worker has it."""
    with system.start(url) as running:
        running.client.tell(Box.put, "k", Put(n=0))
        running.settle()
    take(system, url, 1)
    with pytest.raises(NotAccepted, match="no command of box/0 is lost"):
        skip_lost(system, connect(url), SHARD, "why not")
    for arguments, sentence in (
        (("--shard", "box/0", "--reason", " "), "give a reason"),
        (("--shard", "box/1", "--reason", "x"), "there is no shard 'box/1'"),
        (("--shard", "hat/0", "--reason", "x"), "hosts no entity 'hat'"),
        (("--shard", "box/-1", "--reason", "x"), "there is no shard"),
    ):
        done = run(url, "skip-lost", "lost_app:system", *arguments)
        assert (done.exit_code, sentence in done.output) == (64, True), done.output
    with working(system, url):
        deadline_s = time.monotonic() + 60
        while not any(member["shards"] for member in members(url)):
            assert time.monotonic() < deadline_s
        done = run(url, "skip-lost", "lost_app:system", "--shard", "box/0", "--reason", "x")
        assert done.exit_code == 64
        assert "box/0 is assigned to " in done.output
        assert f"stop the nodes of {system.name}" in done.output


def test_accepting_one_loss_accepts_no_other(system: ActorSystem, url: str, lost: tuple[int, int]) -> None:
    """What is lost later stops the shard again, and is accepted beside the first."""
    skip_lost(system, connect(url), SHARD, "the first")
    with system.start(url) as running:
        running.settle()
    first = next_of(system, url)
    send(system, url, range(7, 10))
    take(system, url, first + 1)
    assert not verified(system, url).ok
    skip_lost(system, connect(url), SHARD, "the second")
    with system.start(url) as running:
        running.settle()
        assert running.state(Box, "k") == Box(numbers=(0, 1, 2, 5, 6, 8, 9))
    report = verified(system, url)
    assert report.ok, report.checks
    assert [sentence.rpartition(": ")[2] for sentence in report.accepted] == ["the first", "the second"]
    assert lost[1] < first


@pytest.mark.parametrize(
    ("first", "last", "says"),
    [
        (0, 1, "was handled"),
        (0, 0, "but the log holds command 0"),
        (5, 1, "is not a gap before its next command"),
        (90, 99, "is not a gap before its next command"),
    ],
)
def test_verify_accepts_exactly_that_gap(
    system: ActorSystem, url: str, lost: tuple[int, int], first: int, last: int, says: str
) -> None:
    """A shard record that claims to have skipped other commands is wrong: they were handled, or are still there."""
    skip_lost(system, connect(url), SHARD, "retention")
    with system.start(url) as running:
        running.settle()
    with opened(url) as backend, closing(backend.reader()) as reader:
        record = shard_record(reader, system, system.hosted[Box].behaviour, 0)
        (real,) = record.accepted
        assert (real.first, real.last, real.what) == (lost[0], lost[1] - 1, LOST)
        forged = Accepted(LOST, "nobody will notice", "x", 0, first, last)
        if says.startswith("but the log"):
            forged = msgspec.structs.replace(forged, first=lost[1], last=lost[1])
            says = f"but the log holds command {lost[1]}"
        forged_record = msgspec.structs.replace(record, accepted=(forged,))
        with closing(backend.appender()) as appender:
            output = Output(f"{system.name}.box.state", 0, b"\0shard", encode_changelog_record(forged_record))
            appender.append([output])
    report = verified(system, url)
    assert not report.ok
    assert says in str(next(check for check in report.checks if check.name == "shard records"))
