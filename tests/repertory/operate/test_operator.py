"""Operator actions: parked keys and dead letters are kept, shown, retried in order, and dropped with a reason."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module, reload
from pathlib import Path
from types import ModuleType
from typing import Self

import pytest
from typer.testing import CliRunner

from repertory import ActorSystem, Command, Directive, Entity, Event, command, event, restart
from repertory.actors.control import DropParked, RetryParked
from repertory.actors.headers import Headers
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.client import Client
from repertory.bridge.system.failed import dead_letter
from repertory.bridge.system.running import Running
from repertory.bridge.system.settings import Settings
from repertory.cli.app import app
from repertory.operate.operator import Operator
from tests.support.paths import ROOT

FIXED = {"yet": False}


class Step(Command):
    """Do step ``number``. Step 13 fails until `FIXED` is set."""

    number: int


class Stepped(Event):
    """Step ``number`` is done."""

    number: int


class Walker(Entity):
    """Walks step by step."""

    steps: tuple[int, ...] = ()

    @command
    def step(self, cmd: Step) -> Stepped:
        """Fail at step 13 until `FIXED` is set."""
        if cmd.number == 13 and not FIXED["yet"]:
            raise ValueError("step 13 is impossible")
        return Stepped(number=cmd.number)

    @event
    def stepped(self, evt: Stepped) -> Self:
        """Add the step."""
        return self.replace(steps=(*self.steps, evt.number))


@pytest.fixture
def running() -> Iterator[Running]:
    """Run a walker that is parked by step 13."""
    FIXED["yet"] = False
    system = ActorSystem("walk", settings=Settings(stash_per_key_max=5))
    system.host(Walker, partitions=1, supervise=restart(on={ValueError: Directive.STOP}))
    with system.start() as running:
        for number in (12, 13, 14, 15):
            running.client.tell(Walker.step, "w", Step(number=number))
        running.settle()
        yield running


def test_a_foreign_dead_letter_may_have_any_headers() -> None:
    """A header that is not a valid number, or has thousands of digits, is shown as unknown."""
    for value in (b"9" * 5_000, "\u0661".encode(), b"-1", b"1_0", b"", b"\xff"):
        letter = dead_letter(Record("walk.dead-letters", 0, 0, b"w", b"", (("source-offset", value),), 0))
        assert letter.source_offset == -1


def tell(running: Running, message: Command) -> None:
    """Append a control command as the operator does, without waiting for the reply."""
    appender = running._backend.appender()
    appender.append([Output("walk.walker.commands", 0, b"w", encode(message))])
    running.settle()


def test_a_retried_key_goes_on_in_order_exactly_once(running: Running) -> None:
    """A retry runs the parked command and those behind it, in log order."""
    assert running.state(Walker, "w") == Walker(steps=(12,))
    FIXED["yet"] = True
    tell(running, RetryParked(offset=1))
    tell(running, RetryParked(offset=1))
    assert running.state(Walker, "w") == Walker(steps=(12, 13, 14, 15))


def test_a_retry_that_fails_parks_again(running: Running) -> None:
    """A retry that fails loses nothing."""
    tell(running, RetryParked(offset=1))
    operator = Operator(running.system, running._backend)
    assert [(found.offset, found.behind) for found in operator.parked()] == [(1, 2)]
    assert running.state(Walker, "w") == Walker(steps=(12,))


def test_a_dropped_command_is_a_dead_letter_and_the_rest_goes_on(running: Running) -> None:
    """The dead letter has the reason and the bytes, and the commands behind it run."""
    tell(running, DropParked(offset=1, reason="never possible"))
    tell(running, DropParked(offset=1, reason="sent twice"))
    assert running.state(Walker, "w") == Walker(steps=(12, 14, 15))
    letters = list(Operator(running.system, running._backend).dead_letters())
    assert [(letter.source_offset, letter.error) for letter in letters] == [(1, "Dropped")]
    assert "never possible" in letters[0].reason
    assert letters[0].record.value == encode(Step(number=13))


def test_a_control_command_for_another_offset_is_ignored(running: Running) -> None:
    """A control command for a command that is not the first parked one does nothing."""
    tell(running, DropParked(offset=2, reason="wrong one"))
    tell(running, RetryParked(offset=0))
    assert [found.offset for found in Operator(running.system, running._backend).parked()] == [1]


def test_control_commands_are_executed_although_the_stash_is_full(running: Running) -> None:
    """At the limit the partition pauses, but control commands behind it are executed, as they make room."""
    for number in range(16, 30):
        running.client.tell(Walker.step, "w", Step(number=number))
    while running.tick():
        pass
    FIXED["yet"] = True
    tell(running, RetryParked(offset=1))
    assert running.state(Walker, "w") == Walker(steps=(12, *range(13, 30)))


def test_a_command_without_room_is_dead_lettered_if_configured() -> None:
    """With ``dead_letter_overflow``, commands of a full key are dead-lettered, and other keys continue."""
    FIXED["yet"] = False
    system = ActorSystem("walk", settings=Settings(stash_per_key_max=3, dead_letter_overflow=True))
    system.host(Walker, partitions=1, supervise=restart(on={ValueError: Directive.STOP}))
    with system.start() as running:
        for number in range(13, 20):
            running.client.tell(Walker.step, "w", Step(number=number))
        running.client.tell(Walker.step, "other", Step(number=1))
        running.settle()
        assert running.state(Walker, "other") == Walker(steps=(1,))
        letters = list(Operator(system, running._backend).dead_letters())
        assert [(letter.source_offset, letter.error) for letter in letters] == [(n, "NoRoom") for n in (3, 4, 5, 6)]
        FIXED["yet"] = True
        tell(running, RetryParked(offset=0))
        assert running.state(Walker, "w") == Walker(steps=(13, 14, 15))


def test_control_survives_a_crash_at_any_time(running: Running) -> None:
    """A control command is executed once, whenever the worker dies."""
    FIXED["yet"] = True
    appender = running._backend.appender()
    appender.append([Output("walk.walker.commands", 0, b"w", encode(RetryParked(offset=1)))])
    for _ in range(6):
        running.tick()
        running.crash()
    running.settle()
    assert running.state(Walker, "w") == Walker(steps=(12, 13, 14, 15))


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, str]:
    """Return the counting application and a log that workers can share."""
    monkeypatch.setenv("COUNTING_NAME", "operated")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT))
    sys.modules.pop("tests.apps.counting", None)
    return reload(import_module("tests.apps.counting")), f"sqlite:{tmp_path / 'operated.db'}"


@pytest.mark.processes
def test_the_command_line_lists_retries_and_drops(application: tuple[ModuleType, str]) -> None:
    """list, show, retry and drop work on a running node; retry of a dead letter is refused a second time."""
    counting, url = application
    target, log = "tests.apps.counting:system", ["--log", url]
    run = CliRunner(env={"COLUMNS": "200"}).invoke
    with counting.system.spawn(target, log=url) as node:
        backend = connect(url)
        with Client(counting.system, backend) as client:
            client.tell(counting.Counter.break_down, "bad", counting.Break(how="stop"))
            client.tell(counting.Counter.add, "bad", counting.Add(by=7))
        operator = Operator(counting.system, backend)
        while not list(operator.parked()):
            node.poll(0.05)
        assert "told to stop" in run(app, ["parked", "list", target, *log]).output
        assert '"behind": 1' in run(app, ["parked", "show", target, "counter", "bad", *log]).output
        retried = run(app, ["parked", "retry", target, "counter", "bad", *log])
        assert retried.exit_code == 1, retried.output
        assert "is parked again: ValueError: told to stop" in retried.output
        refused = run(app, ["parked", "drop", target, "counter", "good", "--reason", "x", *log])
        assert refused.exit_code == 64
        while not list(operator.parked()):
            node.poll(0.05)
        dropped = run(app, ["parked", "drop", target, "counter", "bad", "--reason", "a typo", *log])
        assert dropped.exit_code == 0, dropped.output
        assert "a typo" in run(app, ["dead-letters", "list", target, *log]).output
        assert "told to stop" in run(app, ["dead-letters", "show", target, "0@0", *log]).output
        assert run(app, ["dead-letters", "retry", target, "0@0", *log]).exit_code == 1
        assert run(app, ["dead-letters", "retry", target, "0@0", *log]).exit_code == 64
        assert run(app, ["dead-letters", "show", target, "0@9", *log]).exit_code == 64
        operator.close()
        backend.close()


def test_who_waits_for_the_answers_of_a_parked_key(running: Running) -> None:
    """Entities with their keys and clients with their correlation ids, in the order of the commands."""
    step = encode(Step(number=16))
    asks: tuple[Headers, ...] = (
        (("reply-to", b"walk.walker.commands"), ("reply-key", b"t-1"), ("correlation-id", b"c-1")),
        (("reply-to", b"walk.replies/0"), ("correlation-id", b"7f3a")),
    )
    with closing(running._backend.appender()) as appender:
        appender.append([Output("walk.walker.commands", 0, b"w", step, headers) for headers in asks])
    running.settle()
    (found,) = Operator(running.system, running._backend).parked()
    assert (found.behind, found.askers) == (4, ("walker t-1", "client 7f3a"))
