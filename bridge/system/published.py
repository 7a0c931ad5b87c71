"""Reads the records of a topic outside the system, as ``Context.publish`` wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from repertory.actors.headers import Headers
from repertory.actors.message import Message
from repertory.actors.wire import DecodeError, MessageDecoder
from repertory.bridge.log.port import Reader
from repertory.bridge.system.definition import SystemDefinition


class PublishedRecord(msgspec.Struct, frozen=True):
    """A committed record of a topic outside the system.

    ``key``: bytes that are not UTF-8 are escaped; None if it has none. ``value`` is a message where the bytes are one,
    else the bytes; None is a tombstone.
    """

    topic: str
    partition: int
    offset: int
    key: str | None
    value: Message | bytes | None
    headers: Headers


def published_records(
    reader: Reader, system: SystemDefinition, topic: str, message_types: Iterable[type[Message]] = ()
) -> Iterator[PublishedRecord]:
    """Yield the committed records of a topic, by partition and offset.

    A value is decoded if it is a message of a hosted entity, or of ``message_types``: these have precedence.

    Raises LookupError if there is no such topic, DefinitionError if two of ``message_types`` have one wire name.
    """
    count = reader.partition_count(topic)
    if count is None:
        declared = ", ".join(system.publishes) or "no topic"
        raise LookupError(f"there is no topic {topic!r} in this log; {system.name} publishes to {declared}")
    own = MessageDecoder(message_types)
    hosted = MessageDecoder(
        {name: known for each in system.hosted.values() for name, known in each.behaviour.messages.items()}.values()
    )
    for partition in range(count):
        for record in reader.read(topic, partition, reader.bounds(topic, partition)[0]):
            key = None if record.key is None else record.key.decode("utf-8", "backslashreplace")
            value = record.value if record.value is None else _decoded(record.value, own, hosted)
            yield PublishedRecord(topic, partition, record.offset, key, value, record.headers)


def _decoded(data: bytes, *decoders: MessageDecoder) -> Message | bytes:
    for decoder in decoders:
        try:
            message: Message = decoder.decode(data)
        except DecodeError:
            continue
        return message
    return data
