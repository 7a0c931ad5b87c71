"""Anybody may write to a topic: one record that is none of ours hides nothing else from an operator."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import msgspec
import pytest
from typer.testing import CliRunner

from repertory import ActorSystem, Command, Directive, Entity, Event, command, event, restart
from repertory.actors.control import RetryEnded
from repertory.actors.headers import Headers
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.cli.app import app
from repertory.operate.outcome import Answers
from tests.support.working import working


class Knock(Command):
    """Knock, or fail."""

    fails: bool = False


class Knocked(Event):
    """It was knocked."""


class Door(Entity):
    """Counts."""

    times: int = 0

    @command
    def knock(self, cmd: Knock) -> Knocked:
        """Count."""
        if cmd.fails and not MENDED["is"]:
            raise ValueError("broken")
        return Knocked()

    @event
    def knocked(self, _evt: Knocked) -> Self:
        """Count."""
        return self.replace(times=self.times + 1)


MENDED = {"is": False}
HUGE = 1 << 63

#: Values of many sorts; none is a record of ours.
VALUES: dict[str, bytes | None] = {
    "no value": None,
    "no bytes": b"",
    "no MessagePack": b"\xc1\x00\xff",
    "half a map": b"\x82\xa4type",
    "JSON": b'{"type": "Stashed"}',
    "another type": msgspec.msgpack.encode({"type": "Unknown", "n": 1}),
    "no type": msgspec.msgpack.encode({"key": "k"}),
    "our type without fields": msgspec.msgpack.encode({"type": "Stashed"}),
    "our type with wrong fields": msgspec.msgpack.encode({"type": "Stashed", "key": 7, "value": [], "headers": {}}),
    "huge numbers": msgspec.msgpack.encode(
        {"type": "Stashed", "key": "k", "value": b"", "headers": [], "timestamp_ms": HUGE, "attempt": HUGE}
    ),
    "an unknown field": msgspec.msgpack.encode(
        {"type": "Stashed", "key": "k", "value": b"", "headers": [], "timestamp_ms": 0, "new": 1}
    ),
    "deeply nested": b"\x91" * 3_000 + b"\x00",
    "not UTF-8": b"\x81\xa4type\xa2\xff\xfe",
    "an operator's answer": msgspec.msgpack.encode({"type": "repertory.retry-ended", "outcome": 7}),
}
#: Headers of many sorts: none, and those of ours with values that none of ours has.
HEADERS: dict[str, Headers] = {
    "no headers": (),
    "broken headers": (
        ("cause", b"9" * 5_000), ("seq", b"\xff"), ("version", b"1" * 5_000), ("source-offset", b"-1"),
        ("source-partition", b"9" * 30), ("source-topic", b"\xff"), ("attempts", b"x"), ("retry-of", b""),
        ("retry-to", b"\xff/\xff/\xff"), ("reply-to", b"\xff"), ("correlation-id", b"\xff" * 5_000), ("epoch", b"-"),
    ),
}  # fmt: skip
KEYS: dict[str, bytes | None] = {"no key": None, "a key": b"k", "an offset": b"0", "a strange key": b"\xff\0" * 9}


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log."""
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/garbage.db"
    return str(request.getfixturevalue("kafka_url"))


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, url: str) -> ActorSystem:
    """Return a system with an entity, a parked key and a dead letter; it is the target ``garbage_app:system``."""
    MENDED["is"] = False
    found = ActorSystem(f"garbage-{uuid.uuid4().hex[:8]}")
    found.host(Door, partitions=1, supervise=restart(on={ValueError: Directive.STOP}))
    module = ModuleType("garbage_app")
    module.system = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "garbage_app", module)
    with found.start(url) as running:
        running.client.tell(Door.knock, "good", Knock())
        running.client.tell(Door.knock, "parked", Knock(fails=True))
        with closing(connect(url)) as backend, closing(backend.appender()) as appender:
            backend.ensure([found.incidents_spec()])
            appender.append([Output(f"{found.name}.door.commands", 0, b"dead", b"no command")])
        running.settle()
    return found


@pytest.fixture
def run(url: str) -> Callable[..., Any]:
    """Return what runs the command line on the log: a result or a sentence, never a traceback."""

    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--log", url], env={"COLUMNS": "300"})
        assert done.exception is None or isinstance(done.exception, SystemExit), (arguments, done.exception)
        assert done.output
        return done

    return run


def garbage(url: str, topic: str) -> int:
    """Write garbage of all sorts to a topic, and return how many records the log took.

    A compacted topic of Kafka takes no record without a key.
    """
    taken = 0
    with closing(connect(url)) as backend, closing(backend.appender()) as appender:
        for value in VALUES.values():
            for headers in HEADERS.values():
                for key in KEYS.values():
                    if key is None and url.startswith("kafka") and not topic.endswith((".replies", ".dead-letters")):
                        continue
                    appender.append([Output(topic, 0, key, value, headers)])
                    taken += 1
    return taken


COMMANDS = [
    ("status",), ("status", "--json"), ("status", "--check"), ("parked", "list"), ("parked", "list", "--json"),
    ("parked", "show", "door", "parked"), ("dead-letters", "list"), ("dead-letters", "list", "--json"),
    ("dead-letters", "show", "0@0"), ("state", "door", "good"), ("state", "door", "parked"), ("verify",),
]  # fmt: skip
TOPICS = ["replies", "dead-letters", "incidents", "control", "door.state", "door.events"]


@pytest.mark.parametrize("topic", TOPICS)
def test_no_command_ends_with_a_traceback(system: ActorSystem, url: str, run: Callable[..., Any], topic: str) -> None:
    """Whatever is in a topic, each command reads past it or names it, and shows what other topics hold as before."""
    assert garbage(url, f"{system.name}.{topic}") > 0
    outputs = {}
    for name, *rest in COMMANDS:
        arguments = (name, *rest[:1], "garbage_app:system", *rest[1:]) if name in ("parked", "dead-letters") else (
            name, "garbage_app:system", *rest
        )  # fmt: skip
        outputs[" ".join((name, *rest))] = run(*arguments)
    tail = run("tail", f"{system.name}.{topic}", "--last", "200")
    assert tail.exit_code == 0
    assert "parked" in outputs["parked list"].output
    assert outputs["parked show door parked"].exit_code == 0
    assert "0@0" in outputs["dead-letters list"].output
    if topic in ("replies", "dead-letters", "incidents", "control"):
        assert '"times": 1' in outputs["state door good"].output
        assert "door/0" in outputs["status"].output
    if topic == "incidents":
        assert "is not the status of a node and was skipped" in outputs["status"].output


@pytest.mark.parametrize("topic", ["replies", "dead-letters", "control", "incidents"])
def test_a_retry_reads_past_garbage(system: ActorSystem, url: str, run: Callable[..., Any], topic: str) -> None:
    """What is there before, and what comes while the operator waits."""
    MENDED["is"] = True
    garbage(url, f"{system.name}.{topic}")
    with working(system, url):
        done = run("parked", "retry", "garbage_app:system", "door", "parked", "--wait", "60")
    assert (done.exit_code, "was applied" in done.output) == (0, True), done.output


def test_garbage_with_the_operators_own_correlation_id(system: ActorSystem, url: str) -> None:
    """Anybody who reads the commands knows it: what is no answer is skipped, and the answer behind it is found."""
    with closing(connect(url)) as backend, closing(backend.reader()) as reader:
        answers = Answers(reader, system.name)
        mine = (("correlation-id", dict(answers.headers)["correlation-id"]),)
        ended = encode(RetryEnded(outcome="applied"))
        with closing(backend.appender()) as appender:
            topic = f"{system.name}.replies"
            appender.append([Output(topic, 0, b"k", value, mine) for value in (*VALUES.values(), ended)])
        assert answers.ended() == RetryEnded(outcome="applied")
        assert next(answers.follow(time.monotonic() + 60)) == RetryEnded(outcome="applied")
