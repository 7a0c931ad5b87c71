"""The messages of entities: commands, events, rejections, queries and their answers, requests to effects; the envelope.

All are frozen, keyword-only structs. Each has a *wire name* in the ``type`` field of its MessagePack map: the name of
the class, or ``class Created(Event, name="account-created")``, and from version 2 on with that, ``account-created@2``.
What was written under an earlier version or name is brought up to the current one as it is read (``actors.evolution``).
"""

from __future__ import annotations

import contextlib
import re
import sys
from types import FrameType
from typing import Annotated, Any, NamedTuple, dataclass_transform

import msgspec

from repertory.actors.fields import flaw
from repertory.actors.headers import Headers
from repertory.actors.timer import FiredTimer

TYPE_FIELD = "type"

#: Prefix of the wire names of the runtime's own messages; applications must not use it.
RESERVED_PREFIX = "repertory."
_RUNTIME_MODULES = frozenset(
    {f"repertory.actors.{name}" for name in ("control", "saga.inner", "saga.messages", "saga.progress")}
)

#: Longest wire name: every record contains it.
_NAME_CHARS_MAX = 200

#: A wire name with a version; version 1 has none.
_VERSIONED = re.compile(r"(.+)@([2-9]|[1-9][0-9]{1,5})", re.DOTALL)

#: As much as `_VERSIONED` takes.
VERSION_MAX = 999_999


class DefinitionError(TypeError):
    """A mistake in a class definition; the message is one sentence with the class, the member and the remedy."""


class WireName(NamedTuple):
    """The parts of a wire name: the name without a version, the version, and the names that the class had before."""

    name: str
    version: int = 1
    was: tuple[str, ...] = ()

    @classmethod
    def parse(cls, written: str) -> WireName:
        """Return the parts of a name as it is written."""
        if found := _VERSIONED.fullmatch(written):
            return cls(found[1], int(found[2]))
        return cls(written)

    def __str__(self) -> str:
        return self.name if self.version == 1 else f"{self.name}@{self.version}"


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class MessageMeta(msgspec.StructMeta):
    """Makes each class frozen, keyword-only and tagged with its wire name. It defines messages and entities alike.

    msgspec inherits ``frozen`` but not ``kw_only``, and type checkers inherit neither, hence a metaclass. A derived one
    adds its rules in ``_check_statement`` and ``_check_class``.
    """

    #: The parts of the wire name.
    wire: WireName

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        name: str | None = None,
        version: int = 1,
        was: tuple[str, ...] = (),
        **options: Any,
    ) -> MessageMeta:
        """Define one class, under the wire name ``name`` in its ``version``; ``was``: the names it had before."""
        mcls._check_statement(class_name, bases, namespace, options)
        if TYPE_FIELD in namespace.get("__annotations__", {}):
            raise DefinitionError(
                f"{class_name}.{TYPE_FIELD}: no field can be called {TYPE_FIELD!r}, the wire format uses it for "
                "the wire name of the message; choose another name."
            )
        if options.get("array_like"):
            raise DefinitionError(f"{class_name}: a message is written as a map of its fields; drop array_like.")
        wire = _wire(class_name, class_name if name is None else name, version, was)
        if (name or class_name).startswith(RESERVED_PREFIX) and namespace["__module__"] not in _RUNTIME_MODULES:
            raise DefinitionError(
                f"{class_name}: names that begin with {RESERVED_PREFIX!r} are the runtime's own; choose another."
            )
        options |= {"frozen": True, "kw_only": True, "tag_field": TYPE_FIELD, "tag": str(wire)}
        try:
            made: MessageMeta = super().__new__(mcls, class_name, bases, namespace, **options)
        except ValueError as error:  # The error of msgspec if `rename` produces a second `type`.
            raise DefinitionError(f"{class_name}: {error}; rename the field differently.") from error
        made.wire = wire
        with contextlib.suppress(NameError, AttributeError):  # Defined later: an entity that takes it checks it again.
            if reason := flaw(made):  # type: ignore[arg-type]  # This metaclass only makes struct classes.
                raise DefinitionError(f"{reason}.")
        mcls._check_class(made, sys._getframe(1))  # noqa: SLF001
        return made

    @classmethod
    def _check_statement(
        cls, class_name: str, bases: tuple[type, ...], namespace: dict[str, Any], options: dict[str, Any]
    ) -> None:
        """Check a class statement before its class is made, and complete its ``options``."""

    @classmethod
    def _check_class(cls, made: type, statement: FrameType) -> None:
        """Check a class as it is made; ``statement`` is the frame of its class statement."""


def _wire(class_name: str, name: str, version: int, was: tuple[str, ...]) -> WireName:
    """Return the parts of a class's wire name; DefinitionError if one of them is wrong."""
    if type(version) is not int or not 1 <= version <= VERSION_MAX:
        raise DefinitionError(
            f"{class_name}: version={version!r:.100} is not a version; use a number from 1 to {VERSION_MAX:,}."
        )
    if not isinstance(was, tuple):
        raise DefinitionError(f"{class_name}: was={was!r:.100} is not a tuple of names; write was=(…,).")
    for each, what in ((name, "name"), *((each, "was") for each in was)):
        if not isinstance(each, str) or not each.isprintable() or not 1 <= len(each) <= _NAME_CHARS_MAX:
            raise DefinitionError(
                f"{class_name}: {what}={each!r:.100} is not a wire name; "
                f"use 1 to {_NAME_CHARS_MAX} printable characters."
            )
        if _VERSIONED.fullmatch(each):
            raise DefinitionError(
                f"{class_name}: {what}={each!r:.100} ends with a version; write the name alone, and version=…."
            )
    if name in was or len({*was}) < len(was):
        raise DefinitionError(f"{class_name}: was={was!r:.100} has a name twice, or its own; drop it.")
    wire = WireName(name, version, was)
    if len(str(wire)) > _NAME_CHARS_MAX:
        raise DefinitionError(f"{class_name}: name={name!r:.100} is too long with its version; shorten it.")
    return wire


# As on the metaclass: mypy reads the nearest decorated base, and msgspec.Struct is decorated too, with other defaults.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, metaclass=MessageMeta):
    """A value that can be written to a log under a wire name."""


class Command(Message):
    """A request to an entity. The entity can reject it."""


class Event(Message):
    """A fact. It is never rejected and never changed."""


class Rejection(Message):
    """The answer of an entity that rejects a command. The command has no other effect."""


class Query(Message):
    """A question to an entity. It changes nothing, and is answered from the last applied state."""


class Request(Message):
    """What an effect is to do in the world outside. It is data, so a decision that performs it can be repeated."""


class Answer(Message):
    """What an entity answers to a query. It is sent to the asker and kept nowhere."""


class Done(Event):
    """The answer to a command whose handler returned ``None`` or a new state."""


class Undelivered(Rejection):
    """The answer to a command that is not applied and never will be; the command is a dead letter.

    Of one that was applied it says that there will be no answer: its entity kept the asker, and stopped. ``reason`` is
    one sentence for human readers.
    """

    reason: str


class IdConflict(Rejection):
    """The answer to an ask whose id belongs to another command, of another type or with other fields.

    The command is not applied. ``reason`` is one sentence for human readers.
    """

    reason: str = ""


class ClockAhead(Rejection):
    """The answer to an ask whose id was made in the future, by the clock of the log. The command is not applied.

    ``reason`` is one sentence for human readers. ``log_ms``: the log's time (epoch) of the command, 0 if not said.
    """

    reason: str = ""
    log_ms: int = 0


class TooOld(Message):
    """On the wire, the answer to an ask with an id that the shard may have forgotten: it may have been applied.

    The client raises OutcomeUnknown for it. ``reason`` is one sentence for human readers. ``log_ms`` (epoch): from when
    on an id is not too old, by the log's time of the command and what the shard has forgotten; 0 if it is not said.
    """

    reason: str = ""
    log_ms: int = 0


class Stopped(Event):
    """The last journal record of one life of an entity; the next command begins a new life."""


class Sender(msgspec.Struct, frozen=True, omit_defaults=True):
    """The asker of a command: a plain value that can be kept in state and answered later, ``ctx.reply(…, to=sender)``.

    A client names the ``partition`` of the replies topic that it reads; an entity names its ``key``. ``ask`` is the
    header of an ask with an id, so that the answer is remembered (``actors.shard.answers``).
    """

    topic: str
    partition: int | None = None
    key: str | None = None
    correlation_id: str = ""
    about: str = ""
    ask: str = ""


class RetryRequest(msgspec.Struct, frozen=True, gc=False):
    """The last retry of a command by an operator, who waits for the outcome while it is ``open``.

    ``offset``: of the record that requests it, in the commands partition of the command: the control command, or the
    command itself if it was a dead letter. Requests up to there are executed: one may be read again after a crash.
    """

    offset: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
    topic: str
    partition: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
    correlation_id: str
    open: bool = True

    @property
    def to(self) -> Sender:
        """The address of the operator."""
        return Sender(self.topic, self.partition, None, self.correlation_id)

    def closed(self) -> RetryRequest:
        """Return it without anybody who waits."""
        return msgspec.structs.replace(self, open=False)


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A decoded command (or reply) and its origin.

    ``value`` and ``headers`` are those of the record at ``offset``, unchanged: they are kept if the command is stashed
    or becomes a dead letter. ``retry``: the operator who waits for the outcome. ``timer``: the timer that sent it.
    ``drops_start``: it cancels a saga that has not begun, and whose starts in the stash its shard drops with it.
    """

    offset: int
    key: str
    message: Message
    value: bytes
    headers: Headers
    timestamp_ms: int
    sender: Sender | None = None
    about: str = ""
    retry: RetryRequest | None = None
    timer: FiredTimer | None = None
    drops_start: bool = False


class Unknown(NamedTuple):
    """What this build does not have and another may: a message or a state by its wire name, or a field of one."""

    name: str
    field: str = ""


class Undecodable(msgspec.Struct, frozen=True, gc=False):
    """A record that cannot be decoded; ``error`` and ``reason`` say why. It becomes a dead letter.

    ``traceback``: that of user code (a ``__post_init__``) that refused it, else "". ``unknown``: what this
    build lacks, if that is all that is wrong.
    """

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    error: str
    reason: str
    sender: Sender | None = None
    traceback: str = ""
    retry: RetryRequest | None = None
    unknown: Unknown | None = None
    timer: FiredTimer | None = None


def wire_name(message_type: type[Message]) -> str:
    """Return the name under which messages of this class are written, with its version from 2 on."""
    return str(message_type.__struct_config__.tag)
