"""``Entity``: a keyed actor as an immutable value, and ``Behaviour``: what its class definition means."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any, Self, dataclass_transform

import msgspec

from repertory.actors.control import CONTROL
from repertory.actors.fields import flaw, is_mutable
from repertory.actors.handler import EventHandler, Handler, NextState
from repertory.actors.message import (
    DefinitionError,
    Done,
    Event,
    Message,
    MessageMeta,
    Rejection,
    Stopped,
    Undelivered,
    wire_name,
)
from repertory.actors.wire import MessageDecoder, by_wire_name, encode

_RESERVED = frozenset({"replace"})

#: Kafka allows 249 characters for a topic; the system's name and a suffix are in it too.
_NAME_CHARS_MAX = 100


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class EntityMeta(MessageMeta):
    """Checks an entity class as soon as its annotations can be read."""

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
        """Define one entity class; ``name`` is its wire name and, in lower case with dashes, its topics' name."""
        _check_names(class_name, bases, namespace)
        options.setdefault("forbid_unknown_fields", True)
        made = super().__new__(mcls, class_name, bases, namespace, name=name, **options)
        if bases and bases != (Message,):
            # The frame of the class statement: classes defined within a function name each other by its locals.
            _frames[made] = sys._getframe(1)  # noqa: SLF001
            try:
                behaviour(made)
            except NameError:
                pass  # What an annotation names may be defined later: asked again at the first host or TestKit.
            except DefinitionError:
                del _frames[made]
                raise
        return made


def _check_names(class_name: str, bases: tuple[type, ...], namespace: Mapping[str, Any]) -> None:
    handlers = {name for name, value in namespace.items() if isinstance(value, Handler)}
    inherited = {field for base in bases for field in getattr(base, "__struct_fields__", ())}
    fields = {*namespace.get("__annotations__", {}), *inherited}
    for name in sorted(handlers & fields):
        raise DefinitionError(f"{class_name}.{name} is a field and a handler; give one of them another name.")
    for name, value in namespace.items():
        if isinstance(value, Handler) and value.owner is not object:
            raise DefinitionError(
                f"{class_name}.{name} belongs to {value.owner.__name__}, and a handler has one entity; write a method."
            )
    for base in bases:
        for name, value in vars(base).items():
            if isinstance(value, Handler) and not isinstance(base, EntityMeta):
                raise DefinitionError(
                    f"{class_name}.{name} is a handler of {base.__name__}, which is no entity; a handler belongs to "
                    "one entity, so share plain functions."
                )
        if isinstance(base, EntityMeta) and base.__name__ != "Entity":
            raise DefinitionError(
                f"{class_name} derives from the entity {base.__name__}; a handler belongs to one entity, so derive "
                "from Entity and share plain functions."
            )
    if class_name != "Entity" and (mine := _RESERVED & {*namespace, *namespace.get("__annotations__", {})}):
        name = min(mine)
        raise DefinitionError(f"{class_name}.{name} overrides Entity.{name}; choose another name.")


class Entity(Message, metaclass=EntityMeta):
    """A keyed actor whose state is an immutable value with a default for each field.

    Journaled: its handlers return events, ``@event`` methods evolve the state, the journal is its history.
    Stateful: its handlers return ``Self``, and its state topic is its history. A class is one or the other; one
    that returns neither is a router and keeps nothing.
    """

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)


class Behaviour:
    """What the runtime needs to know of one entity class. Immutable after construction.

    ``handlers`` by message class for commands and replies; ``events`` by event class; ``evolve`` the function and
    the decoder of each event; ``decoder`` for all that the entity takes; ``journal`` for its events.
    """

    def __init__(self, entity: type[Entity]) -> None:
        self.entity = entity
        self.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", wire_name(entity)).lower()
        self.handlers: dict[type[Message], Handler] = {}
        self.events: dict[type[Message], Handler] = {}
        for handler in _handlers(entity):
            self._add(handler)
        self.journaled = bool(self.events)
        self.stateful = any(NextState in handler.results for handler in self.handlers.values())
        self._check()
        self.decoder = MessageDecoder([*self.handlers, *CONTROL])
        self.journal = MessageDecoder([*self.events, Stopped])
        self.evolve = {
            event: (handler.function, msgspec.msgpack.Decoder(event).decode) for event, handler in self.events.items()
        }
        self.state_decode = msgspec.msgpack.Decoder(entity).decode
        self._first = self._defaults()
        #: The encoding of the state in which each life begins.
        self.initial_data = encode(self._first)
        #: Whether a state could be changed in place. Then its bytes, which tell, are always those of its own encoding.
        self.has_mutable_fields = is_mutable(entity)

    def _add(self, handler: Handler) -> None:
        table = self.events if isinstance(handler, EventHandler) else self.handlers
        for message_type in handler.message_types:
            other = table.setdefault(message_type, handler)
            if other is not handler:
                raise handler.refusal(
                    f"takes {message_type.__qualname__}, and so does {self.entity.__name__}.{other.name}; "
                    "a message has one handler"
                )

    def _check(self) -> None:
        name = self.entity.__name__
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name) or len(self.name) > _NAME_CHARS_MAX:
            raise DefinitionError(
                f"{name}: its topics would be called {self.name!r}; use letters, digits and dashes, at most "
                f"{_NAME_CHARS_MAX}."
            )
        if not self.handlers:
            raise DefinitionError(f"{name} has no @command method, so it could do nothing; write one.")
        if self.journaled and self.stateful:
            raise DefinitionError(
                f"{name} has @event methods and a handler that returns Self; journaled or stateful, never both: "
                "return events, or drop the @event methods."
            )
        for handler in self.handlers.values():
            for result in handler.results:
                if issubclass(result, Event) and result not in self.events:
                    raise handler.refusal(f"returns {result.__qualname__}, which no @event method of {name} takes")
        said = [result for handler in self.handlers.values() for result in handler.results]
        rejections = [result for result in said if issubclass(result, Rejection)]
        for message_type in (*self.handlers, *self.events, *rejections, self.entity):
            if reason := flaw(message_type):  # Not yet known where an annotation named what was defined later.
                raise DefinitionError(f"{reason}.")
        #: All that this entity takes and says, by wire name.
        self.messages = by_wire_name([*self.handlers, *self.events, *rejections, Done, Undelivered, Stopped])

    def initial(self) -> Entity:
        """Return the state in which each life begins; a fresh copy where it could be changed in place."""
        return self.state_decode(self.initial_data) if self.has_mutable_fields else self._first

    def _defaults(self) -> Entity:
        missing = [field.name for field in msgspec.structs.fields(self.entity) if field.required]
        if missing:
            raise DefinitionError(
                f"{self.entity.__name__}.{missing[0]} has no default; an entity's life begins from its defaults."
            )
        try:
            # Decoded, so that the first state too is what a restore would see: a float field with 0 holds 0.0.
            return self.state_decode(encode(self.entity()))
        except Exception as error:
            raise DefinitionError(
                f"{self.entity.__name__}: its defaults do not fit its annotations: {error}."
            ) from error


#: What is known of each class, and until then the frame whose names its annotations may use.
_behaviours: dict[type, Behaviour] = {}
_frames: dict[type, FrameType] = {}


def behaviour(entity: type) -> Behaviour:
    """Return what an entity class means; DefinitionError, or NameError for an annotation not yet resolvable."""
    if not issubclass(entity, Entity) or entity is Entity:
        raise DefinitionError(f"{entity!r} is not an Entity class.")
    found = _behaviours.get(entity)
    if found is None:
        names = _frames[entity].f_locals
        for handler in _handlers(entity):
            handler.resolve(names)
        found = _behaviours[entity] = Behaviour(entity)
        del _frames[entity]
    return found


def resolved(entity: type) -> Behaviour:
    """Return what an entity class means, now that all it names must exist; DefinitionError else."""
    try:
        return behaviour(entity)
    except NameError as error:
        raise DefinitionError(
            f"{entity.__name__}: an annotation names {error.name!r}, which does not exist; define or import it."
        ) from error


def _handlers(entity: type) -> list[Handler]:
    return [value for value in vars(entity).values() if isinstance(value, Handler)]
