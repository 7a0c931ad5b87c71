"""What a handler collects in its `Context`, as ``TestKit`` shows it: messages to send, timers, and effects."""

from __future__ import annotations

from typing import Any

import msgspec

from repertory.actors.effect import Effect
from repertory.actors.handler import Handler
from repertory.actors.message import Message, Request, Sender


class Tell(msgspec.Struct, frozen=True):
    """A collected ``tell`` (``asked`` False) or ``ask``, as ``TestKit`` shows it.

    ``due_ms`` (epoch): when a delayed one is sent; None for one that is sent with the command's other outputs.
    """

    handler: Handler
    key: str
    message: Message
    asked: bool = False
    about: str = ""
    due_ms: int | None = None


class Publish(msgspec.Struct, frozen=True):
    """A collected ``publish``."""

    topic: str
    value: Message | bytes
    key: str | None = None


class Send(msgspec.Struct, frozen=True):
    """A message that a saga sends as it was written down: an undo, or a revoke. ``entity``: by its name in topics."""

    entity: str
    key: str
    message: bytes
    about: str


class Reply(msgspec.Struct, frozen=True):
    """A collected ``reply``; that of a saga is encoded already, and ``rejected`` says what it is."""

    to: Sender
    value: Message | bytes
    rejected: bool = False


class Alert(msgspec.Struct, frozen=True):
    """What an operator must know of what a saga has done: ``error`` names it, ``next`` says what to do."""

    error: str
    reason: str
    next: str


class Schedule(msgspec.Struct, frozen=True):
    """A collected ``schedule``: the command, when it is due (epoch), and the period of a recurring one (0: once)."""

    name: str
    handler: Handler
    message: Message
    due_ms: int
    every_ms: int = 0


class Cancel(msgspec.Struct, frozen=True):
    """A collected ``cancel``."""

    name: str


class Perform(msgspec.Struct, frozen=True):
    """A collected ``perform``; the request of an undo is encoded already."""

    effect: Effect[Any, Any]
    request: Request | bytes
    about: str = ""


#: What is sent with the outputs of a command.
Collected = Tell | Send | Publish | Reply
#: What is for later: timers that are scheduled and cancelled, delayed messages, effects.
LaterItem = Schedule | Cancel | Tell | Perform
