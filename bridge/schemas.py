"""The catalogue of a system: the messages and states that its builds know, in the topic ``{system}.schemas``.

A node writes the names and fields of its build there *before* it joins the group. So whoever meets a name in a record
that its own build lacks can ask whether another build has it (it is then older, and gives the shards up), or nobody has
(the record is wrong). Each variant of a message is a record of its own: two builds never overwrite each other's.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Collection, Iterable

import msgspec

from repertory.actors.entity import Behaviour
from repertory.actors.message import Message, Unknown, wire_name
from repertory.bridge.log.errors import OutcomeUnknown
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.log.record import Output, Record

#: An append whose outcome is unknown is looked for, and repeated, so many times.
_TRIES = 3


class Kind(enum.Enum):
    """Where an entity meets a message or a state."""

    TAKEN = "taken"
    """Among its commands: a command, a query, or the answer to a command that it asked."""
    EVENT = "event"
    """In its journal."""
    STATE = "state"
    """In a snapshot."""
    ANSWER = "answer"
    """Nowhere: others get it, as the answer to a command or a query."""


class Schema(msgspec.Struct, frozen=True, tag_field="type", tag="Schema"):
    """One variant of a message or a state of an entity: its wire name, and its fields.

    ``fields``: each with whether a record must have it. ``retired``: no build has it any more, says an operator.
    """

    entity: str
    kind: Kind
    name: str
    fields: dict[str, bool]
    retired: bool = False

    @classmethod
    def of(cls, behaviour: Behaviour, kind: Kind, message: type[Message]) -> Schema:
        """Return that of a class of this build."""
        fields = {field.encode_name: field.required for field in msgspec.structs.fields(message)}
        return cls(behaviour.name, kind, wire_name(message), fields)

    @property
    def key(self) -> bytes:
        """The key of its record: the name, and a number for the rest."""
        rest = msgspec.json.encode([self.entity, self.kind, sorted(self.fields.items())])
        return f"{self.name}/{zlib.crc32(rest):08x}".encode()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Schema).decode


def schemas_of(behaviours: Iterable[Behaviour]) -> dict[bytes, Schema]:
    """Return what a build knows, by the keys of the records."""
    found = {}
    for behaviour in behaviours:
        others = [each for each in behaviour.messages.values() if each not in {**behaviour.taken, **behaviour.events}]
        kinds: dict[Kind, Iterable[type[Message]]] = {
            Kind.TAKEN: behaviour.taken, Kind.EVENT: behaviour.events, Kind.STATE: [behaviour.entity],
            Kind.ANSWER: others,
        }  # fmt: skip
        for kind, messages in kinds.items():
            for each in messages:
                schema = Schema.of(behaviour, kind, each)
                found[schema.key] = schema
    return found


class Catalogue:
    """The schemas that a log knows. Reads what is new at each question; one thread uses it."""

    def __init__(self, reader: Callable[[], Reader], topic: str) -> None:
        """``reader`` is opened at the first question."""
        self._open, self._topic = reader, topic
        self._reader: Reader | None = None
        self._next = 0
        self._schemas: dict[bytes, Schema] = {}

    def schemas(self) -> Collection[Schema]:
        """Return all schemas; none if there is no catalogue yet. Raises LogError."""
        if self._reader is None:
            self._reader = self._open()
        if self._reader.partition_count(self._topic) is not None:
            for record in self._reader.read(self._topic, 0, self._next):
                self._next = record.offset + 1
                self._take(record)
        return self._schemas.values()

    def _take(self, record: Record) -> None:
        if record.key is None:
            return
        if record.value is None:
            self._schemas.pop(record.key, None)
            return
        try:
            self._schemas[record.key] = _decode(record.value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # Of a later version of this runtime: it knows more, and says nothing to us.

    def known(self, entity: str, kind: Kind, wanted: Iterable[Unknown]) -> Unknown | None:
        """Return the first of these that some build knows of an entity; None if none does. Raises LogError."""
        schemas = [each for each in self.schemas() if (each.entity, each.kind, each.retired) == (entity, kind, False)]
        names = {schema.name for schema in schemas}
        fields = {(schema.name, field) for schema in schemas for field in schema.fields}
        return next((each for each in wanted if (each in fields if each.field else each.name in names)), None)

    def close(self) -> None:
        """Close the reader."""
        if self._reader is not None:
            self._reader.close()


def announce(backend: Backend, topic: str, schemas: dict[bytes, Schema]) -> None:
    """Write what a build knows, as far as the log does not have it; before its node joins. Raises LogError."""
    for tries in range(_TRIES):
        catalogue = Catalogue(backend.reader, topic)
        try:
            known = {schema.key for schema in catalogue.schemas() if not schema.retired}
        finally:
            catalogue.close()
        missing = [Output(topic, 0, key, _encode(schema), ()) for key, schema in schemas.items() if key not in known]
        if not missing:
            return
        appender = backend.appender()
        try:
            appender.append(missing)
        except OutcomeUnknown:
            if tries == _TRIES - 1:
                raise
        else:
            return
        finally:
            appender.close()


def retire(backend: Backend, topic: str, entity: str, name: str) -> int:
    """Note that no build knows a name of an entity any more, and return how many variants of it there were.

    Until a node that knows it starts again, its records are dead letters, as those of a name that never was. Raises
    LogError.
    """
    catalogue = Catalogue(backend.reader, topic)
    appender = backend.appender()
    try:
        found = [
            each for each in catalogue.schemas() if (each.entity, each.name, each.retired) == (entity, name, False)
        ]
        retired = [msgspec.structs.replace(each, retired=True) for each in found]
        if retired:
            appender.append([Output(topic, 0, each.key, _encode(each), ()) for each in retired])
    finally:
        appender.close()
        catalogue.close()
    return len(retired)
