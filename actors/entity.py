"""``Entity``: a keyed actor as an immutable value, and ``Behaviour``: the meaning of its class definition."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from repertory.actors.control import CONTROL
from repertory.actors.fields import flaw, is_mutable
from repertory.actors.handler import EventHandler, Handler, NextState
from repertory.actors.message import (
    Answer,
    ClockAhead,
    DefinitionError,
    Done,
    Envelope,
    Event,
    IdConflict,
    Message,
    MessageMeta,
    Rejection,
    Stopped,
    TooOld,
    Undecodable,
    Undelivered,
)
from repertory.actors.query import QueryHandler
from repertory.actors.wire import MessageDecoder, by_wire_name, encode
from repertory.supervision.traceback_text import message_of

_RESERVED = frozenset({"replace"})
#: The classes that others derive from.
_BASES = frozenset({"Entity", "Saga"})

#: What the runtime answers or writes by itself: every entity has these, and no application class can have their names.
_RUNTIME_MESSAGES = (Done, Undelivered, IdConflict, ClockAhead, TooOld, Stopped)

#: Kafka allows 249 characters for a topic's name, which also contains the system's name and a suffix.
_NAME_CHARS_MAX = 100


class EntityMeta(MessageMeta):
    """Checks an entity class as soon as its annotations can be read.

    ``name`` in a class statement is the wire name and, in lower case with dashes, the name in the entity's topics.
    """

    #: What makes a behaviour of a class: `Behaviour`, or that of sagas.
    behaviour_type: type[Behaviour]

    @classmethod
    def _check_statement(
        cls, class_name: str, bases: tuple[type, ...], namespace: dict[str, Any], options: dict[str, Any]
    ) -> None:
        _check_names(class_name, bases, namespace)
        options.setdefault("forbid_unknown_fields", True)

    @classmethod
    def _check_class(cls, made: type, statement: FrameType) -> None:
        if isinstance(made, MessageMeta) and made.wire.was:
            raise DefinitionError(
                f"{made.__name__}: was={made.wire.was!r} would leave its topics behind, which have the entity's name; "
                f"write class {made.__name__}(Entity, name={made.wire.was[0]!r})."
            )
        if made.__name__ in _BASES:
            return
        # Classes that are defined in a function name each other by its local variables.
        _frames[made] = statement
        try:
            behaviour(made)
        except NameError:
            pass  # An annotation can name a class that is defined later: it is read again at the first host or TestKit.
        except DefinitionError:
            del _frames[made]
            raise


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
                    f"{class_name}.{name} is a handler of {base.__name__}, which is not an entity; a handler belongs "
                    "to one entity, so share plain functions."
                )
        if isinstance(base, EntityMeta) and base.__name__ not in _BASES:
            raise DefinitionError(
                f"{class_name} derives from the entity {base.__name__}; a handler belongs to one entity, so derive "
                "from Entity and share plain functions."
            )
    if class_name not in _BASES and (mine := _RESERVED & {*namespace, *namespace.get("__annotations__", {})}):
        name = min(mine)
        raise DefinitionError(f"{class_name}.{name} overrides Entity.{name}; choose another name.")


class Entity(Message, metaclass=EntityMeta):
    """A keyed actor whose state is an immutable value with a default for each field.

    Journaled: its handlers return events, ``@event`` methods evolve the state, and the journal is its history.
    Stateful: its handlers return ``Self``, and its state topic is its history. A class is one or the other; a class
    whose handlers return neither is a router and keeps no state.
    """

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> Self:
            """Return a copy with some fields changed."""

    else:
        #: msgspec's own method: a function around it took as long as the rest of a command's handler (0.15 µs).
        replace = msgspec.Struct.__replace__


class Behaviour:
    """What the runtime needs to know about one entity class. Immutable after construction.

    ``handlers``: by message class, for commands and replies. ``queries``: by message class. ``events``: by event class.
    ``evolve`` and ``event_decode``: the function and the decoder of each event. ``decoder``: for all messages that the
    entity takes. ``journal``: for its events, and ``snapshot`` for its states; both read those of earlier versions too.
    """

    def __init__(self, entity: type[Entity]) -> None:
        self.entity = entity
        self.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", entity.wire.name).lower()
        self.handlers: dict[type[Message], Handler] = {}
        self.queries: dict[type[Message], Handler] = {}
        self.events: dict[type[Message], Handler] = {}
        self._declare(_handlers(entity))
        self.journaled = bool(self.events)
        self.stateful = any(NextState in handler.results for handler in self.handlers.values())
        self._check()
        self.decoder = MessageDecoder(dict.fromkeys([*self.wire_types, *CONTROL]))
        self.journal = MessageDecoder([*self.events, Stopped])
        self.evolve = {event: handler.function for event, handler in self.events.items()}
        self.event_decode = {event: msgspec.msgpack.Decoder(event).decode for event in self.events}
        #: For states that this build has encoded.
        self.state_decode = msgspec.msgpack.Decoder(entity).decode
        #: For snapshots, whatever build wrote them.
        self.snapshot = MessageDecoder([entity])
        self._first = self._defaults()
        #: The encoded state in which each life begins.
        self.initial_data = encode(self._first)
        #: Whether a state can be changed in place. The encoding shows such a change, so the bytes kept beside a state
        #: are always those of its own encoding.
        self.has_mutable_fields = is_mutable(entity)

    @property
    def taken(self) -> Mapping[type[Message], Handler]:
        """The handlers of all messages that it takes from its commands topic: commands, replies and queries."""
        return {**self.handlers, **self.queries}

    @property
    def wire_types(self) -> Collection[type[Message]]:
        """The messages that are read from its commands topic, beside requests to the shard."""
        return self.taken

    #: Whether no state can nest too deep for a decoder, whatever is in it: that takes long to see in a large one.
    is_shallow = False
    #: The messages that never become dead letters: those that a saga waits for.
    owed: Collection[type[Message]] = frozenset()
    #: The messages that are handled when they are taken, before those of their key that are stashed.
    urgent: Collection[type[Message]] = frozenset()
    #: The messages that begin a saga; and those that cancel one, with its starts in the stash if it has not begun.
    starts: Collection[type[Message]] = frozenset()
    cancels: Collection[type[Message]] = frozenset()
    #: The kinds of results that are no events of its journal.
    _answers: tuple[type[Message], ...] = (Answer, Rejection)
    #: The requests that its shard carries out, and no handler.
    control: tuple[type[Message], ...] = CONTROL
    #: Whether its effects of one key and function run one after the other.
    orders_effects = True

    def _answering(self) -> Collection[Handler]:
        """Return the handlers whose results may be answers."""
        return self.taken.values()

    def has_begun(self, state: Entity) -> bool:  # noqa: ARG002  a saga's
        """Return whether an entity is more than its key; only a saga can be less."""
        return True

    def is_control(self, delivery: Envelope | Undecodable) -> bool:
        """Return whether a delivery is a request to the shard itself."""
        return isinstance(delivery, Envelope) and isinstance(delivery.message, self.control)

    def answer(self, about: str, value: bytes, *, rejected: bool) -> Message | None:  # noqa: ARG002  a saga's
        """Return the message for a record that answers what it has asked ``about``; None: it is decoded as it is."""
        return None

    def _declare(self, declared: Sequence[Handler]) -> None:
        for handler in declared:
            self._add(handler)

    def _add(self, handler: Handler) -> None:
        table = self.handlers
        if isinstance(handler, EventHandler | QueryHandler):
            table = self.events if isinstance(handler, EventHandler) else self.queries
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
                f"{_NAME_CHARS_MAX} characters."
            )
        if self.queries and not self.handlers:
            first = next(iter(self.queries.values()))
            raise first.refusal("is of an entity without a @command method, whose state never changes; write one")
        if not self.handlers:
            raise DefinitionError(f"{name} has no @command method, so it can handle nothing; write one.")
        if self.journaled and self.stateful:
            raise DefinitionError(
                f"{name} has @event methods and a handler that returns Self; an entity is journaled or stateful, never "
                "both: return events, or drop the @event methods."
            )
        for handler in self.handlers.values():
            for result in handler.results:
                if issubclass(result, Event) and result not in self.events:
                    raise handler.refusal(
                        f"returns {result.__qualname__}, which no @event method of {name} takes; write one"
                    )
        results = [result for handler in self._answering() for result in handler.results]
        answers = [result for result in results if issubclass(result, self._answers)]
        for message_type in (*self.taken, *self.events, *answers, self.entity):
            if reason := flaw(message_type):  # Checked again: its annotations may have named classes defined later.
                raise DefinitionError(f"{reason}.")
        #: All messages that this entity takes or answers, and its events, by wire name.
        self.messages = by_wire_name([*self.taken, *self.events, *answers, *_RUNTIME_MESSAGES])

    def initial(self) -> Entity:
        """Return the state in which each life begins; a new copy if it could be changed in place."""
        return self.state_decode(self.initial_data) if self.has_mutable_fields else self._first

    def _defaults(self) -> Entity:
        missing = [field.name for field in msgspec.structs.fields(self.entity) if field.required]
        if missing:
            raise DefinitionError(
                f"{self.entity.__name__}.{missing[0]} has no default; add one, an entity's life begins from defaults."
            )
        try:
            # Decoded, so that the first state is what a restore would return: a float field with default 0 holds 0.0.
            return self.state_decode(encode(self.entity()))
        except Exception as error:
            raise DefinitionError(
                f"{self.entity.__name__}: its defaults do not match its annotations: {message_of(error)}."
            ) from error


EntityMeta.behaviour_type = Behaviour

#: The behaviour of each class, and until it is known the frame whose names the annotations can use.
_behaviours: dict[type, Behaviour] = {}
_frames: dict[type, FrameType] = {}


def behaviour(entity: type) -> Behaviour:
    """Return the behaviour of an entity class; DefinitionError, or NameError if an annotation cannot be read yet."""
    found = _behaviours.get(entity)
    if found is None:
        if not issubclass(entity, Entity) or entity.__name__ in _BASES:
            raise DefinitionError(f"{entity!r} is not an Entity class.")
        names = _frames[entity].f_locals
        for handler in _handlers(entity):
            handler.resolve(names)
        found = _behaviours[entity] = type(entity).behaviour_type(entity)
        del _frames[entity]
    return found


def resolved(entity: type) -> Behaviour:
    """Return the behaviour of an entity class; DefinitionError also if an annotation cannot be read."""
    try:
        return behaviour(entity)
    except NameError as error:
        raise DefinitionError(
            f"{entity.__name__}: an annotation names {error.name!r}, which does not exist; define or import it."
        ) from error


def _handlers(entity: type) -> list[Handler]:
    return [value for value in vars(entity).values() if isinstance(value, Handler)]
