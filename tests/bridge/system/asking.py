"""An application that answers in every way, and shards that a test plays itself, record by record."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Self

from repertory import (
    ActorSystem,
    Command,
    Directive,
    Entity,
    Event,
    LogError,
    LogUnavailable,
    Message,
    OutcomeUnknown,
    Rejection,
    Settings,
    command,
    event,
    restart,
)
from repertory.actors.headers import CORRELATION_ID, REPLY_TO, Headers
from repertory.actors.wire import encode
from repertory.bridge.log.port import Appender, Backend, Reader
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.topics import commands_topic


class Write(Command):
    """Write something down."""

    text: str


class Erase(Command):
    """Erase the last text."""


class Look(Command):
    """Do nothing."""


class Fail(Command):
    """Fail."""


class Copy(Command):
    """Write something down twice."""

    text: str


class Written(Event):
    """Something is written down."""

    text: str


class Erased(Event):
    """The last text is gone."""


class NothingThere(Rejection):
    """There is no text."""

    key: str = ""


class Notebook(Entity):
    """Answers with events, rejections and Done, or fails."""

    texts: tuple[str, ...] = ()

    @command
    def note(self, cmd: Write) -> Written:
        """Write down."""
        return Written(text=cmd.text)

    @command
    def erase(self, _cmd: Erase) -> Erased | NothingThere:
        """Erase."""
        return Erased() if self.texts else NothingThere(key="k")

    @command
    def look(self, _cmd: Look) -> None:
        """Look."""

    @command
    def fail(self, _cmd: Fail) -> Written:
        """Fail."""
        raise ValueError("torn")

    @command
    def copy(self, cmd: Copy) -> tuple[Written, ...]:
        """Write down twice."""
        return (Written(text=cmd.text), Written(text=cmd.text.upper()))

    @event
    def noted(self, evt: Written) -> Self:
        """Keep it."""
        return self.replace(texts=(*self.texts, evt.text))

    @event
    def erased(self, _evt: Erased) -> Self:
        """Drop it."""
        return self.replace(texts=self.texts[:-1])


class Increase(Command):
    """Count."""

    number: int


class Full(Rejection):
    """Counts no further."""


class Meter(Entity):
    """A stateful entity: it answers with its next state."""

    total: int = 0

    @command
    def add(self, cmd: Increase) -> Self | Full:
        """Count."""
        return Full() if self.total + cmd.number > 10 else self.replace(total=self.total + cmd.number)


class Stranger(Entity):
    """Is hosted by no system."""

    @command
    def greet(self, _cmd: Look) -> None:
        """Greet."""


def made() -> ActorSystem:
    """Return a system with a name of its own: the tests share one Kafka."""
    system = ActorSystem(f"asked-{uuid.uuid4().hex[:12]}", settings=Settings(input_bytes_max=10_000))
    system.host(Notebook, partitions=2, supervise=restart(on={ValueError: Directive.RESUME}))
    system.host(Meter, partitions=1)
    return system


def commands(reader: Reader, system: SystemDefinition) -> list[Record]:
    """Return the commands in the log."""
    topic = commands_topic(system.name, "notebook")
    return [record for partition in range(2) for record in reader.read(topic, partition)]


def reply(asked: Output | Record, answer: Message | bytes | None, *, headers: Headers = (), to: bytes = b"") -> Output:
    """Return the reply to a command as its shard writes it; ``to`` is another correlation id."""
    found = dict(asked.headers)
    topic, _, partition = found[REPLY_TO].decode().partition("/")
    correlation_id = to or found[CORRELATION_ID]
    value = encode(answer) if isinstance(answer, Message) else answer
    return Output(topic, int(partition), correlation_id, value, ((CORRELATION_ID, correlation_id), *headers))


class Played:
    """A log whose shards are played by a test: ``on_append`` is called with each append of a client.

    It returns what is appended instead, replies included; an error that it returns is raised after that. ``on_bounds``
    is called before a reader says where a partition ends.
    """

    def __init__(self, backend: Backend) -> None:
        self.url = backend.url
        self.inner = backend
        self.on_append: Callable[[Sequence[Output]], tuple[Sequence[Output], LogError | None]] = lambda outputs: (
            outputs,
            None,
        )

        self.on_bounds: Callable[[], object] = lambda: None

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def reader(self) -> PlayedReader:
        """Return a reader that tells the test."""
        return PlayedReader(self.inner.reader(), self)

    def appender(self) -> Appender:
        """Return an appender that asks the test."""
        return PlayedAppender(self.inner.appender(), self)


class PlayedReader:
    """A reader of a played log."""

    def __init__(self, inner: Reader, played: Played) -> None:
        self._inner, self._played = inner, played

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """Tell the test first."""
        self._played.on_bounds()
        return self._inner.bounds(topic, partition)


class PlayedAppender:
    """The appender of a played log."""

    def __init__(self, inner: Appender, played: Played) -> None:
        self._inner, self._played = inner, played

    def append(self, outputs: Sequence[Output]) -> Sequence[int]:
        """Append what the test says."""
        taken, error = self._played.on_append(outputs)
        offsets = self._inner.append(taken) if taken else []
        if error is not None:
            raise error
        return offsets

    def close(self) -> None:
        """Release all resources."""
        self._inner.close()


def unanswered(ask: Callable[..., object], *what: object, timeout_s: float, **options: object) -> OutcomeUnknown:
    """Ask where nobody answers, and return the error. A log that does not take the command in time gets more of it."""
    for step in range(5):
        try:
            ask(*what, timeout_s=timeout_s * 4**step, **options)
        except LogUnavailable:
            continue
        except OutcomeUnknown as unknown:
            return unknown
        else:
            raise AssertionError("somebody has answered")
    raise AssertionError("the log takes nothing")
