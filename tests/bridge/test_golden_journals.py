"""The bytes that a system writes for the same commands stay the same from version to version.

``tests/bridge/golden_journals.json`` has, for each partition, how many records there are and a digest of their keys,
values and headers. To write it anew, after a change of the wire format that is meant:
``python -m tests.bridge.test_golden_journals``. State and stash topics are left out: when snapshots are due may change.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Self

import pytest

from benchmarks.job import ledger_system, preload
from repertory import (
    ActorSystem,
    Backoff,
    Command,
    Context,
    Directive,
    Done,
    Entity,
    Event,
    Publishes,
    Rejection,
    Undelivered,
    command,
    event,
    reply,
    restart,
)
from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Output
from repertory.bridge.system.running import Running
from repertory.simulation.virtual import VirtualClock

GOLDEN = Path(__file__).with_name("golden_journals.json")

#: By topic and partition: how many records, and the digest of their keys, values and headers.
Digests = dict[str, list[object]]

#: The first depends on line numbers and on the version of Python; a client draws the second.
VARYING = frozenset({"error-traceback", "message-id"})


class Put(Command):
    """Put words into a notebook; ``times`` events."""

    words: tuple[str, ...] = ()
    times: int = 1


class Weigh(Command):
    """Ask the scale for a weight."""

    grams: float = 0


class Tear(Command):
    """End the notebook's life."""


class Break(Command):
    """Fail with ``error`` until the ``until``-th attempt."""

    error: str
    until: int = 99


class Written(Event):
    """Words were written."""

    words: tuple[str, ...]
    at: str
    ids: dict[str, int] = {}  # noqa: RUF012  msgspec copies it


class Weighed(Event):
    """The scale has answered."""

    about: str
    grams: float


class TooHeavy(Rejection):
    """The scale breaks."""

    grams: float


class Measure(Command):
    """Measure a weight."""

    grams: float


class Measured(Event):
    """It was measured."""

    grams: float


class Scale(Entity):
    """Stateful."""

    measured: int = 0
    last: float = 0

    @command
    def measure(self, cmd: Measure) -> Self | TooHeavy:
        """Reject what is too heavy."""
        if cmd.grams > 1_000:
            return TooHeavy(grams=cmd.grams)
        return self.replace(measured=self.measured + 1, last=cmd.grams)


class Note(Entity):
    """Journaled, with everything that a handler can do."""

    words: list[str] = []  # noqa: RUF012
    count: int = 0
    grams: dict[str, float] = {}  # noqa: RUF012

    @command
    def put(self, cmd: Put, ctx: Context) -> tuple[Written, ...] | None:
        """Write none, one or several events; draw from what the context gives."""
        ids = {ctx.new_id(): ctx.random.randrange(1_000)} if cmd.times == 1 else {}
        return tuple(Written(words=cmd.words, at=ctx.timestamp.isoformat(), ids=ids) for _ in range(cmd.times)) or None

    @command
    def weigh(self, cmd: Weigh, ctx: Context) -> None:
        """Ask, tell and publish."""
        ctx.ask(Scale.measure, f"scale-{len(self.words) % 3}", Measure(grams=cmd.grams), about=f"{cmd.grams:g} grams")
        ctx.tell(Scale.measure, "told", Measure(grams=1))
        ctx.publish("weights", Measured(grams=cmd.grams), key=ctx.key)
        ctx.publish("weights", b"keyless")

    @command
    def tear(self, _: Tear, ctx: Context) -> Written:
        """Write a last word."""
        ctx.stop()
        return Written(words=("torn",), at="")

    @command
    def fail(self, cmd: Break, ctx: Context) -> Written:
        """Fail as the command says."""
        if ctx.attempt < cmd.until:
            raise {"restart": ValueError, "resume": KeyError, "stop": ArithmeticError}[cmd.error](cmd.error)
        return Written(words=(cmd.error, f"{ctx.attempt}"), at="")

    @reply
    def weighed(self, _: Done, ctx: Context) -> Weighed:
        """Note that there is a weight."""
        return Weighed(about=ctx.about, grams=1)

    @reply
    def refused(self, _: TooHeavy | Undelivered, ctx: Context) -> Weighed:
        """Note that there is none."""
        return Weighed(about=ctx.about, grams=-1)

    @event
    def written(self, evt: Written) -> Self:
        """Keep the last words."""
        return self.replace(words=[*self.words[-5:], *evt.words], count=self.count + 1)

    @event
    def was_weighed(self, evt: Weighed) -> Self:
        """Keep the last weights."""
        return self.replace(grams={**dict(list(self.grams.items())[-3:]), evt.about: evt.grams})


def notes_system() -> ActorSystem:
    """Return the system; one partition each, so that the order of all records follows from the commands alone."""
    system = ActorSystem("notes", publishes={"weights": Publishes(partitions=2)})
    rules = {KeyError: Directive.RESUME, ArithmeticError: Directive.STOP}
    policy = restart(max_restarts=3, within_s=3_600, backoff=Backoff(first_s=1, max_s=1, jitter=0), on=rules)
    system.host(Note, partitions=1, supervise=policy)
    system.host(Scale, partitions=1)
    return system


def notes() -> Digests:
    """Play all commands, with a crash in between."""
    clock = VirtualClock()
    running = Running(notes_system(), EmbeddedBackend("memory:", notes_system().settings, clock=clock), clock)
    client, keys = running.client, [f"n-{number}" for number in range(7)]

    def work(seconds: float = 3) -> None:
        for _ in range(round(seconds * 10)):
            while running.tick():
                pass
            clock.advance(0.1)

    for number in range(300):
        key = keys[number % len(keys)]
        match number % 10:
            case 3:
                client.tell(Note.weigh, key, Weigh(grams=number * 7.5))
            case 5:
                client.tell(Note.put, key, Put(words=("two", "ways"), times=number % 4))
            case 7 if number % 3 == 0:
                client.tell(Note.tear, key, Tear())
            case 8:
                client.tell(Note.fail, key, Break(error=("restart", "resume")[number % 3 % 2], until=1 + number % 4))
            case _:
                client.tell(Note.put, key, Put(words=(f"word {number}", "ü" * (number % 40))))
        if number == 150:
            work()
            running.crash()
    client.tell(Note.fail, "n-0", Break(error="stop"))
    client.tell(Note.put, "n-0", Put(words=("waits",)))
    foreign = Output("notes.note.commands", 0, b"n-1", b"\x81\xa4type\xa4Nope", (("mine", b"1"), ("cause", b"theirs")))
    appender = running._backend.appender()
    appender.append([foreign, Output("notes.note.commands", 0, None, b"no key")])
    appender.close()
    work()
    topics = [topic for topic in running._backend.topics() if not topic.endswith((".state", ".schemas"))]
    found = {name: digest for topic in topics for name, digest in digests(running.reader, topic).items()}
    running.close()
    return found


def ledger(url: str) -> Digests:
    """Play the benchmark's job."""
    system = ledger_system(f"golden-{hashlib.sha256(url.encode()).hexdigest()[:6]}")
    backend = connect(url, system.settings)
    running = Running(system, backend)
    preload(backend, f"{system.name}.account.commands", 30_000)
    running.settle()
    found = digests(running.reader, f"{system.name}.account.events", system.name)
    running.close()
    return found


def digests(reader: Reader, topic: str, system: str = "") -> Digests:
    """Return the digest of each partition of a topic; the system's own name is replaced."""
    found: Digests = {}
    for partition in range(reader.partition_count(topic) or 0):
        count, digest = 0, hashlib.sha256()
        for record in reader.read(topic, partition):
            headers = [(name, value) for name, value in record.headers if name not in VARYING]
            digest.update(repr((record.key, record.value, headers)).replace(f"{system}.", "").encode())
            count += 1
        if count:
            found[f"{topic.removeprefix(f'{system}.')}/{partition}"] = [count, digest.hexdigest()]
    return found


@pytest.mark.parametrize("log", ["memory", pytest.param("sqlite"), pytest.param("kafka", marks=pytest.mark.kafka)])
def test_the_ledger_writes_the_same_journal(log: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """On every log, and as the version before did."""
    url = {"memory": lambda: "memory:", "sqlite": lambda: f"sqlite:{tmp_path / 'ledger.db'}"}.get(
        log, lambda: str(request.getfixturevalue("kafka_url"))
    )()
    assert ledger(url) == json.loads(GOLDEN.read_text())["ledger"]


def test_everything_that_a_handler_can_do_writes_the_same_records() -> None:
    """Journal, commands, replies, dead letters and published records."""
    assert notes() == json.loads(GOLDEN.read_text())["notes"]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({"ledger": ledger("memory:"), "notes": notes()}, indent=1) + "\n")
