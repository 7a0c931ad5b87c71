"""What a build could not read of a log, before it is deployed: ``repertory check --log`` and ``repertory schemas``."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec
import pytest
from typer.testing import CliRunner

from repertory import (
    ActorSystem,
    Command,
    Context,
    Entity,
    Event,
    Request,
    Undelivered,
    command,
    effect,
    event,
    reply,
    upcast,
)
from repertory.actors import evolution
from repertory.actors.effect import _effects as effects
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.cli import builds
from repertory.cli.app import app
from repertory.inspect.builds import Flaw, flaws


def build(*, version: int = 1, noted: bool = False, extra: bool = False, stateful: bool = False) -> ActorSystem:
    """Return a build of one system."""

    class Add(Command, version=version):
        by: int
        if extra:
            note: str = ""

    class Added(Event):
        by: int
        if noted:
            note: str

    if stateful:

        class Dial(Entity, name="Counter", version=version):
            total: int = 0

            @command
            def add(self, cmd: Add) -> Self:
                return self.replace(total=self.total + cmd.by)

        entity: type[Entity] = Dial
    else:

        class Counter(Entity, version=version):
            total: int = 0

            @command
            def add(self, cmd: Add) -> Added:
                return msgspec.convert({"type": "Added", "by": cmd.by, "note": ""}, Added)

            @event
            def added(self, evt: Added) -> Self:
                return self.replace(total=self.total + evt.by)

        entity = Counter
    system = ActorSystem("count")
    system.host(entity, partitions=1)
    return system


@pytest.fixture(autouse=True)
def _steps_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the upcasters of one test out of the others."""
    monkeypatch.setattr(evolution, "_steps", {})


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log."""
    return f"sqlite:{tmp_path}/count.db"


def run(system: ActorSystem, url: str, count: int = 3) -> None:
    """Let a build handle some commands, and leave one unhandled."""
    (entity,) = system.hosted
    add = vars(entity)["add"]
    with system.start(url) as running:
        for number in range(count):
            running.client.tell(add, "c", add.message_types[0](by=number))
        running.settle()
        running.client.tell(add, "c", add.message_types[0](by=7))


def found(system: ActorSystem, url: str) -> list[Flaw]:
    """Return what a build could not read."""
    backend = connect(url)
    reader, catalogue = backend.reader(), system.catalogue(backend)
    try:
        return flaws(reader, system, catalogue.schemas())
    finally:
        catalogue.close()
        reader.close()
        backend.close()


def test_a_build_reads_what_it_wrote(url: str) -> None:
    """And what a build wrote whose messages are upcast."""
    run(build(), url)
    assert found(build(), url) == []
    for name in ("Add", "Counter"):
        upcast(name, to=2)(lambda raw: raw)
    assert found(build(version=2), url) == []


def test_what_would_stop_a_shard_or_be_a_dead_letter(url: str) -> None:
    """Missing upcasters, unknown messages and lost fields, each once, with their number and the first place."""
    run(build(noted=True), url)
    wrong = {flaw.name: flaw for flaw in found(build(version=2), url)}
    assert wrong.keys() == {"Add", "Added"}
    assert wrong["Added"].what == "Added has no field 'note'"
    assert wrong["Added"].records == 3
    assert wrong["Added"].then == "its shard stops"
    assert "no upcaster leads to version 2" in wrong["Add"].what
    assert (wrong["Add"].then, wrong["Add"].where) == ("a dead letter", "count.counter.commands/0@3")


def test_a_build_older_than_what_is_written(url: str) -> None:
    """Its names are unknown to it."""
    run(build(version=2), url)
    wrong = {flaw.name: flaw.what for flaw in found(build(), url)}
    assert wrong == {"Add@2": "unknown type 'Add@2'"}


def test_a_snapshot_that_does_not_fit(url: str) -> None:
    """A stateful entity has its state in each."""
    run(build(version=2, stateful=True), url)
    assert {flaw.name for flaw in found(build(stateful=True), url)} == {"Add@2", "Counter@2"}


def test_a_command_with_a_new_field_needs_a_version(url: str) -> None:
    """An older node would ignore the field while both builds run; after the deploy nothing is said."""
    run(build(), url)
    (flaw,) = found(build(extra=True), url)
    assert flaw.what == ("Add has the new field 'note', which an older build ignores; write version=2 and an upcaster")
    run(build(extra=True), url)
    assert found(build(extra=True), url) == []


def said(monkeypatch: pytest.MonkeyPatch, system: ActorSystem, *arguments: str) -> tuple[int, str]:
    """Run a command on a build; return its exit code and what it printed."""
    monkeypatch.setattr(builds, "configured", lambda _target: system)
    result = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    return result.exit_code, result.output


def test_the_commands_say_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line if all is well, else a table and 1; names that no build has any more are retired."""
    run(build(version=2), url)
    code, output = said(monkeypatch, build(version=2), "check", "m:s", "--log", url)
    assert (code, "ok: this build reads all that is in" in output) == (0, True)
    code, output = said(monkeypatch, build(), "check", "m:s", "--log", url)
    assert (code, "unknown type 'Add@2'" in output) == (1, True)
    code, output = said(monkeypatch, build(), "schemas", "m:s", "--log", url)
    assert code == 0
    assert {
        line.split("│")[3].strip(): line.split("│")[5].strip() for line in output.splitlines() if "lacks" in line
    } == {
        "Add@2": "lacks it",
        "Counter@2": "lacks it",
    }
    retired = ("schemas", "m:s", "--log", url, "--retire", "Add@2")
    assert "--retire needs --entity" in said(monkeypatch, build(), *retired)[1]
    assert "this build has Add@2" in said(monkeypatch, build(version=2), *retired, "--entity", "counter")[1]
    code, output = said(monkeypatch, build(), *retired, "--entity", "counter")
    assert (code, "retired" in output) == (0, True)
    assert "no build of" in said(monkeypatch, build(), *retired, "--entity", "counter")[1]


def test_a_log_without_a_catalogue(url: str) -> None:
    """One of a version before this: the records say what is wrong; a strange record in the catalogue says nothing."""
    system = build()
    backend = connect(url)
    backend.ensure([spec for spec in system.topic_specs() if not spec.name.endswith(".schemas")])
    backend.close()
    assert found(system, url) == []
    backend = connect(url)
    system.prepare(backend)
    appender = backend.appender()
    appender.append([Output("count.schemas", 0, b"k", b"\xc1"), Output("count.schemas", 0, None, b"")])
    appender.close()
    backend.close()
    run(system, url)
    assert found(system, url) == []


class Wake(Command, name="LaterWake"):
    """Sent by a timer."""


class Doze(Command):
    """Leave a timer and an effect behind."""


class Dream(Request):
    """What is performed."""


@effect(timeout_s=1, name="check-log.dream")
async def dream(_do: Dream) -> None:
    """Nobody runs it here."""


def sleeper(*, wakes: bool) -> ActorSystem:
    """Return a build with or without the command of its timers."""

    class Sleeper(Entity):
        @command
        def doze(self, _cmd: Doze, ctx: Context) -> None:
            if wakes:
                ctx.schedule("wake", vars(Sleeper)["wake"], Wake(), after_s=3_600)
                ctx.perform(dream, Dream())

        if wakes:

            @command
            def wake(self, _cmd: Wake) -> None:
                pass

        @reply
        def undelivered(self, _rejection: Undelivered) -> None:
            pass

    system = ActorSystem("sleep")
    system.host(Sleeper, partitions=1)
    return system


def test_a_build_that_lacks_what_is_due_later(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of a timer that is set, and the function of an effect that is not settled."""
    system = sleeper(wakes=True)
    (entity,) = system.hosted
    with system.start(url) as running:
        running._effects._is_sure = lambda: False  # It must not start.
        running.client.tell(vars(entity)["doze"], "a", Doze())
        while not (running.timers() and running.effects()):
            running.tick(0.01)
    assert found(sleeper(wakes=True), url) == []
    monkeypatch.delitem(effects, "check-log.dream")
    wrong = {flaw.name: flaw.then for flaw in found(sleeper(wakes=False), url)}
    assert wrong == {"LaterWake": "a dead letter", "check-log.dream": "the effect waits for a build that can run it"}
