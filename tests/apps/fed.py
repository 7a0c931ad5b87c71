"""A system that is fed from a foreign topic: its books write down which records they were told of, in which order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import msgspec

from repertory import ActorSystem, Command, Entity, Event, Route, SourceRecord, command, event, route
from repertory.bridge.system.settings import Settings

TOPIC = "fed-lines"
#: A file that, while it exists, mends what is broken.
MENDED = "FED_MENDED"


class Line(msgspec.Struct):
    """A record of the topic: who is told, and what it does to its source's function: see `from_line`."""

    keys: list[str]
    how: str = ""
    size: int = 0


class Note(Command):
    """Write down a record: its partition, its offset, and which of its commands this is. ``text``: so large it is."""

    partition: int
    offset: int
    index: int
    text: str = ""


class Noted(Event):
    """It was written down."""

    partition: int
    offset: int
    index: int


class Book(Entity):
    """What it was told, in order."""

    pages: tuple[tuple[int, int, int], ...] = ()

    @command
    def note(self, cmd: Note) -> Noted:
        """Write down."""
        return Noted(partition=cmd.partition, offset=cmd.offset, index=cmd.index)

    @event
    def noted(self, evt: Noted) -> Self:
        """Keep."""
        return self.replace(pages=(*self.pages, (evt.partition, evt.offset, evt.index)))


class Stranger(Entity):
    """Not hosted."""

    @command
    def note(self, cmd: Note) -> None:
        """Write nothing down."""


def is_mended() -> bool:
    """Return whether what is broken was mended."""
    return Path(os.environ.get(MENDED, "/nowhere")).exists()


def from_line(record: SourceRecord) -> list[Route] | Route | None:
    """Tell each of its keys, or misbehave: "value", "boom", "exit", "hang", "stranger", "none", "odd"."""
    line = record.json(Line)
    match "" if is_mended() else line.how:
        case "value":
            raise ValueError(f"line {record.offset} means nothing")
        case "boom":
            raise RuntimeError("out of order")
        case "exit":
            os._exit(13)
        case "hang":
            time.sleep(3600)
        case "stranger":
            return route(Stranger.note, "s", Note(partition=0, offset=0, index=0))
        case "none":
            return None
        case "odd":
            return "a text"  # type: ignore[return-value]
    return [
        route(Book.note, key, Note(partition=record.partition, offset=record.offset, index=index, text="x" * line.size))
        for index, key in enumerate(line.keys)
    ]


def line(keys: Iterable[str], how: str = "", size: int = 0) -> bytes:
    """Return the bytes of a record."""
    return msgspec.json.encode(Line([*keys], how, size))


def made(
    name: str,
    delivery: str = "exactly-once",
    topic: str = TOPIC,
    *,
    from_: str = "earliest",
    cluster: str | None = None,
) -> ActorSystem:
    """Return the system."""
    found = ActorSystem(name, settings=Settings(delivery=delivery, session_timeout_s=6.0))
    found.host(Book, partitions=2)
    found.source("lines", topic, from_line, from_=from_, cluster=cluster)
    return found


system = made("fed")
