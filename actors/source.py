"""What a source's function takes and returns: a record of a foreign topic, and the commands that it becomes.

The relay (``bridge.sources``) calls the function once for each record, in order, and again after a crash: it decides
from the record alone, and does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

import msgspec

from repertory.actors.entity import resolved
from repertory.actors.handler import CommandHandler, Handler
from repertory.actors.headers import Headers
from repertory.actors.headers import value as header_value
from repertory.actors.message import Command
from repertory.actors.placement import checked_key
from repertory.actors.wire import DecodeError

C = TypeVar("C", bound=Command)
T = TypeVar("T")


class SourceRecord(msgspec.Struct, frozen=True):
    """A committed record of a foreign topic: its place and its bytes. ``timestamp_ms``: since 1970 (UTC)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    @overload
    def json(self) -> object: ...
    @overload
    def json(self, type: type[T]) -> T: ...
    def json(self, type: Any = object) -> Any:  # noqa: A002
        """Return the value, which is JSON, as an instance of ``type``; without one as dicts, lists and scalars.

        Raises msgspec.DecodeError, a ValueError, if the value is null, is not JSON, is nested too deeply, or does not
        fit the type: the record then becomes a dead letter.
        """
        if self.value is None:
            raise DecodeError("the value is null, where JSON is expected")
        try:
            return msgspec.json.decode(self.value, type=Any if type is object else type)
        except RecursionError:
            raise DecodeError("the value is nested too deeply") from None

    def header(self, name: str) -> bytes | None:
        """Return the value of the last header of a name, None if there is none."""
        return header_value(self.headers, name)

    @property
    def place(self) -> str:
        """The record's place in messages: ``topic/partition@offset``."""
        return f"{self.topic}/{self.partition}@{self.offset}"


class Route(msgspec.Struct, frozen=True):
    """A command on its way to an entity. Made by `route`, which checks it."""

    handler: Handler
    key: str
    command: Command


#: A source's function. ``[]`` and None: the record means nothing here, and is passed.
DecodeRecord = Callable[[SourceRecord], "list[Route] | tuple[Route, ...] | Route | None"]


def route(handler: CommandHandler[Any, C, Any], key: str, command: C) -> Route:
    """Return the command for the entity ``key`` of the class that ``handler`` belongs to.

    Raises ValueError for an invalid key (empty, over 255 bytes of UTF-8, with a NUL), which makes the record a dead
    letter; TypeError where the code is wrong: ``handler`` is no @command method, or does not take the command.
    """
    if not isinstance(handler, CommandHandler):
        raise TypeError(f"{handler!r} is not a @command method of an entity, such as Account.deposit")
    resolved(handler.owner)
    if type(command) not in handler.message_types:
        raise TypeError(f"{handler!r} does not take {type(command).__name__}")
    return Route(handler, checked_key(key), command)
