"""What entities say: commands, events, rejections, and the envelope that a shard hands to a handler.

All are frozen, keyword-only structs. Each has a *wire name*, by default its class name, which stands in the
``type`` field of its MessagePack map: ``class Created(Event, name="account-created")`` overrides it.
"""

from __future__ import annotations

import contextlib
from typing import Any, dataclass_transform

import msgspec

from repertory.actors.fields import flaw
from repertory.actors.headers import Headers

TYPE_FIELD = "type"

#: Wire names of the runtime's own messages; no application may use the prefix.
RESERVED_PREFIX = "repertory."

#: Longest wire name: it stands in every record.
_NAME_CHARS_MAX = 200


class DefinitionError(TypeError):
    """A mistake in a class definition; the message is one sentence that names class, member and mend."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class MessageMeta(msgspec.StructMeta):
    """Makes every class of the family frozen, keyword-only and tagged with its wire name.

    msgspec inherits ``frozen`` but not ``kw_only``, and type checkers inherit neither: hence one metaclass.
    """

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        name: str | None = None,
        **options: Any,
    ) -> MessageMeta:
        """Define one message class; ``name`` is its wire name."""
        if TYPE_FIELD in namespace.get("__annotations__", {}):
            raise DefinitionError(
                f"{class_name}.{TYPE_FIELD}: no field can be called {TYPE_FIELD!r}, the wire format uses it for "
                "the name of the message; choose another name."
            )
        if options.get("array_like"):
            raise DefinitionError(f"{class_name}: a message is written as a map of its fields; drop array_like.")
        if name is not None and not _is_wire_name(name):
            raise DefinitionError(
                f"{class_name}: name={name!r:.100} is no wire name; it has 1 to {_NAME_CHARS_MAX} printable characters."
            )
        if (name or class_name).startswith(RESERVED_PREFIX) and namespace["__module__"] != "repertory.actors.control":
            raise DefinitionError(
                f"{class_name}: names that begin with {RESERVED_PREFIX!r} are the runtime's own; choose another."
            )
        options |= {"frozen": True, "kw_only": True, "tag_field": TYPE_FIELD, "tag": name or class_name}
        try:
            made: MessageMeta = super().__new__(mcls, class_name, bases, namespace, **options)
        except ValueError as error:  # How msgspec says that `rename` leads to a second `type`.
            raise DefinitionError(f"{class_name}: {error}; rename it otherwise.") from error
        with contextlib.suppress(NameError, AttributeError):  # Defined later: an entity that takes it looks again.
            if reason := flaw(made):  # type: ignore[arg-type]  # a struct class, as all that this metaclass makes
                raise DefinitionError(f"{reason}.")
        return made


def _is_wire_name(name: object) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= _NAME_CHARS_MAX and name.isprintable()


# As on the metaclass: mypy asks the nearest base that says it, and msgspec.Struct says it too, with other defaults.
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, metaclass=MessageMeta):
    """What can be written to a log under a wire name."""


class Command(Message):
    """Something that an entity is asked to do. It may refuse."""


class Event(Message):
    """Something that happened. It is never refused and never changed."""


class Rejection(Message):
    """The answer of an entity that refuses a command. Nothing happened."""


class Done(Event):
    """The answer to a command whose handler returned ``None`` or a new state."""


class Undelivered(Rejection):
    """The answer to a command that was not applied and never will be; it is a dead letter.

    ``reason`` is one sentence for people.
    """

    reason: str


class Stopped(Event):
    """The journal's last word on one life of an entity; the next command begins a new one."""


class Sender(msgspec.Struct, frozen=True):
    """Who asked: a plain value that may be kept in state and answered later with ``ctx.reply(…, to=sender)``.

    A client names the ``partition`` of the replies topic that it reads; an entity names its ``key``.
    """

    topic: str
    partition: int | None = None
    key: str | None = None
    correlation_id: str = ""
    about: str = ""


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A decoded command (or reply) and where it came from.

    ``value`` and ``headers`` are the bytes as they stood in the record at ``offset``: what is kept when the
    command has to wait or becomes a dead letter.
    """

    offset: int
    key: str
    message: Message
    value: bytes
    headers: Headers
    timestamp_ms: int
    sender: Sender | None = None
    about: str = ""


class Undecodable(msgspec.Struct, frozen=True, gc=False):
    """A record that cannot become an envelope; ``error`` and ``reason`` say why. It becomes a dead letter."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    error: str
    reason: str
    sender: Sender | None = None


def wire_name(message_type: type[Message]) -> str:
    """Return the name under which messages of this class are written."""
    return str(message_type.__struct_config__.tag)
