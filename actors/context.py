"""``Context``: the facts that a handler can read beside its command, and the messages that it sends."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec

from repertory.actors.entity import Behaviour, resolved
from repertory.actors.handler import CommandHandler, Handler
from repertory.actors.message import Envelope, Event, Message, Rejection, Sender
from repertory.actors.placement import checked_key

C = TypeVar("C")


class ContractViolation(Exception):
    """A handler broke its contract; this is a failure of the entity."""


#: Longest ``about`` and correlation id in bytes of UTF-8: the headers of an ask and of its reply carry them.
TAG_BYTES_MAX = 255


class OutputTooLarge(ContractViolation):
    """A command would produce a record over ``output_bytes_max``. By default the command is dead-lettered."""


class OutputRefused(Exception):
    """The log refuses a record of a command for good. By default the command is dead-lettered.

    Nothing raises it: it is the name of the failure in policies and dead letters. Reasons are a record larger than its
    topic takes, one without a key for a compacted topic, a topic that was deleted or that this user may not write.
    """


class Directory(msgspec.Struct, frozen=True):
    """What a handler can address: the hosted entities by class, topics by name, and those declared to publish to."""

    hosted: Callable[[type], bool]
    partition_count: Callable[[str], int | None]
    publishes: Callable[[str], bool] = lambda _topic: False


class Tell(msgspec.Struct, frozen=True):
    """A collected ``tell`` (``asked`` False) or ``ask``, as ``TestKit`` shows it."""

    handler: Handler
    key: str
    message: Message
    asked: bool = False
    about: str = ""


class Publish(msgspec.Struct, frozen=True):
    """A collected ``publish``."""

    topic: str
    value: Message | bytes
    key: str | None = None


class Reply(msgspec.Struct, frozen=True):
    """A collected ``reply``."""

    to: Sender
    value: Message


class Context:
    """Belongs to one handler call. It collects messages and sends none; all of them are committed, or none is."""

    __slots__ = (
        "_behaviour", "_directory", "_envelope", "_handler", "_ids", "_random", "_sender_read",
        "attempt", "cause", "collected", "replied", "stopped",
    )  # fmt: skip

    def __init__(
        self, behaviour: Behaviour, handler: Handler, envelope: Envelope, directory: Directory, cause: str, attempt: int
    ) -> None:
        self._behaviour = behaviour
        self._handler = handler
        self._envelope = envelope
        self._directory = directory
        self._random: random.Random | None = None
        self._ids = 0
        self._sender_read = False
        #: ``topic/partition/offset`` of the command: the same at every attempt, in every replay.
        self.cause = cause
        #: 1 + the restarts of this entity because of this command.
        self.attempt = attempt
        self.collected: list[Tell | Publish | Reply] = []
        self.replied = False
        self.stopped = False

    # --- facts ------------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """The entity's key."""
        return self._envelope.key

    @property
    def sender(self) -> Sender | None:
        """The asker, None for a tell. It can be kept in state or events, and answered later."""
        self._sender_read = True
        return self._envelope.sender

    @property
    def about(self) -> str:
        """In a ``@reply`` method: the ``about`` that was passed to ``ask``."""
        return self._envelope.about

    @property
    def timestamp(self) -> datetime:
        """When the command was appended to the log (UTC). It is read from the record, not from a clock."""
        return datetime.fromtimestamp(self._envelope.timestamp_ms / 1000, UTC)

    @property
    def random(self) -> random.Random:
        """A generator seeded from the cause: the same draws at every attempt."""
        if self._random is None:
            self._random = random.Random(self.cause)  # noqa: S311  reproducible on purpose
        return self._random

    def new_id(self) -> str:
        """Return an identifier made from the cause: 32 hex digits, the same at every attempt."""
        self._ids += 1
        return blake2b(f"{self.cause}#{self._ids}".encode(), digest_size=16).hexdigest()

    # --- outputs ----------------------------------------------------------------------------------------------

    def tell(self, handler: CommandHandler[Any, C, Any], key: str, message: C) -> None:
        """Send ``message`` to the entity ``key`` of the class that ``handler`` belongs to."""
        self.collected.append(Tell(self._addressed(handler, message), checked_key(key), self._message(message)))

    def ask(self, handler: CommandHandler[Any, C, Any], key: str, message: C, *, about: str = "") -> None:
        """Send ``message`` as ``tell`` does; the answer goes to the ``@reply`` method of this entity that takes it.

        ContractViolation if this entity has no ``@reply`` method for a possible answer, ``Undelivered`` included.
        """
        for answer in self._addressed(handler, message).answers:
            if answer not in self._behaviour.handlers:
                raise ContractViolation(
                    f"{self._behaviour.entity.__name__} asks {handler.owner.__name__}.{handler.name}, which may answer "
                    f"{answer.__qualname__}; write a @reply method that takes it"
                )
        if len(about.encode()) > TAG_BYTES_MAX:
            raise ContractViolation(f"about has at most {TAG_BYTES_MAX} bytes of UTF-8: {about!r:.100}")
        self.collected.append(Tell(handler, checked_key(key), self._message(message), asked=True, about=about))

    def publish(self, topic: str, value: Message | bytes, *, key: str | None = None) -> None:
        """Append to a topic outside the system that ``ActorSystem(publishes=…)`` declares.

        A record with a ``key`` goes to the partition that Java's default partitioner chooses for it, one without to the
        partition that follows from its cause. What the log refuses for good is a failure of the command: OutputRefused.
        """
        if not isinstance(value, Message | bytes):
            raise ContractViolation(f"publish takes a message or bytes, not {type(value).__name__}")
        if not self._directory.publishes(topic):
            raise ContractViolation(
                f"publish to {topic!r}: the system does not declare it; say "
                f"ActorSystem(…, publishes={{{topic!r}: Publishes()}})"
            )
        self.collected.append(Publish(topic, value, None if key is None else checked_key(key)))

    def reply(self, value: Event | Rejection, *, to: Sender | None = None) -> None:
        """Answer the asker (or ``to``, kept from an earlier command); the value that the handler returns is not sent.

        The value must be of a type that the handler's annotation names. Without an asker this does nothing.
        """
        allowed = self._handler.replies
        if type(value) not in allowed:
            raise ContractViolation(
                f"{self._handler!r} replies {type(value).__name__}; its annotation names "
                f"{', '.join(answer.__name__ for answer in allowed)}"
            )
        to = to or self._envelope.sender
        if to is None:
            return
        if to == self._envelope.sender:
            if self.replied:
                raise ContractViolation(f"{self._handler!r} replies twice; an ask has one answer")
            self.replied = True
        else:
            self._check_sender(to)
        self.collected.append(Reply(to, value))

    def stop(self) -> None:
        """End this entity's life after this command; the next command begins a new one from the defaults."""
        self.stopped = True

    def keeps_sender(self, kept: object) -> bool:
        """Return whether the result contains the sender: then the entity answers later, and nothing is sent now."""
        return self._sender_read and self._envelope.sender is not None and _holds(kept, self._envelope.sender)

    def _addressed(self, handler: CommandHandler[Any, C, Any], message: object) -> CommandHandler[Any, C, Any]:
        if not isinstance(handler, CommandHandler):
            raise ContractViolation(f"{handler!r} is not a @command method of an entity, such as Account.deposit")
        resolved(handler.owner)
        if not self._directory.hosted(handler.owner):
            raise ContractViolation(f"{handler.owner.__name__} is not hosted by this system; add system.host(…)")
        if type(message) not in handler.message_types:
            raise ContractViolation(f"{handler!r} does not take {type(message).__name__}")
        return handler

    def _check_sender(self, to: Sender) -> None:
        """Refuse a sender that cannot come from an ask: a reply to it could never be written."""
        count = self._directory.partition_count(to.topic)
        if to.key is not None:
            checked_key(to.key)
        elif to.partition is None or count is None or not 0 <= to.partition < count:
            count = None
        if count is None or max(len(to.correlation_id.encode()), len(to.about.encode())) > TAG_BYTES_MAX:
            raise ContractViolation(f"{self._handler!r} replies to {to!r:.300}, not a valid sender; keep ctx.sender")

    @staticmethod
    def _message(message: object) -> Message:
        assert isinstance(message, Message), message
        return message


def _holds(value: object, sender: Sender) -> bool:
    if value == sender:
        return True
    if isinstance(value, tuple | frozenset | list | set):
        return any(_holds(item, sender) for item in value)
    if isinstance(value, dict):
        return any(_holds(item, sender) for item in value.values())
    if isinstance(value, msgspec.Struct):
        return any(_holds(getattr(value, name), sender) for name in value.__struct_fields__)
    return False
