"""When two values of a log are the same: the rule of `verify` for states, events, messages and replies.

The bytes of a value depend on the build that wrote it: one with ``amount: int`` wrote ``2`` where one with
``amount: float`` writes ``2.0``, and both read ``2.0``. So values are compared as this code reads them: each is decoded
by the type that its receiver has now, and two are the same if they are equal in value *and in type*, at every depth.
2 is not 2.0 and True is not 1 where the type leaves both open (``int | float``, ``Any``) or where a state was never
encoded; and what a build changed without changing what is read is no damage: ``int`` to ``float`` or ``Decimal``, a new
field with a default, an optional or wider type, a list that is a tuple now, text that is an ``Enum`` or a ``datetime``
now.

What cannot be decoded by this code is compared byte by byte. A field that this code does not have is ignored here,
because a receiver of a command ignores it; a shard refuses it in its state and in the tail of its journal, and the
check of the restore says so. Copies (dead letters, stashed commands) are compared byte by byte: nobody decodes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import msgspec

from repertory.actors.entity import Behaviour, Entity
from repertory.actors.message import Message
from repertory.actors.wire import MessageDecoder, encode
from repertory.bridge.hosted_entity import HostedEntity

Decode = Callable[[bytes], Message]


def alike(one: object, other: object) -> bool:
    """Whether two values are equal and of the same types, at every depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, msgspec.Struct):
        return all(alike(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[key]) for key, value in one.items())
    return encode(one) == encode(other)  # Deterministic, also for sets; and NaN is NaN, unlike ``==``.


def as_read(decode: Decode | None, data: bytes | None) -> bytes | None:
    """Return the encoding of a value as its receiver decodes it; the bytes themselves if it cannot."""
    if decode is None or data is None:
        return data
    try:
        return encode(decode(data))
    except Exception:  # noqa: BLE001  DecodeError, or whatever a __post_init__ raises
        return data


def state_of(behaviour: Behaviour, snapshot: bytes) -> Entity:
    """Return the entity of a snapshot without the fields that this code does not have. Raises as the decoder does."""
    try:
        return behaviour.state_decode(snapshot)
    except msgspec.ValidationError:
        current = behaviour.snapshot.current(snapshot)
        raw, tag = msgspec.msgpack.decode(current), behaviour.entity.__struct_config__.tag_field
        if not isinstance(raw, dict):
            raise
        known = {tag, *behaviour.entity.__struct_encode_fields__}
        return behaviour.state_decode(encode({name: value for name, value in raw.items() if name in known}))


class Receivers:
    """How each output of a system is decoded by its receiver."""

    def __init__(self, entities: Mapping[str, HostedEntity], replies: str) -> None:
        """``entities``: by commands topic; ``replies``: the topic of the clients' replies."""
        self._of_topic: dict[str, Decode] = {topic: each.behaviour.decoder.decode for topic, each in entities.items()}
        #: What an entity answers, by its commands topic.
        self._answers: dict[str, Decode] = {
            topic: MessageDecoder(each.behaviour.messages.values()).decode for topic, each in entities.items()
        }
        for each in entities.values():
            self._of_topic[each.codec.events] = each.behaviour.journal.decode
        self._replies = replies

    def of(self, topic: str, source: str) -> Decode | None:
        """Return the decoder for an output in ``topic`` of an entity with the commands topic ``source``."""
        return self._answers.get(source) if topic == self._replies else self._of_topic.get(topic)

    @staticmethod
    def of_value(value: Message | bytes) -> Decode | None:
        """Return the decoder for a published value: readers outside are assumed to know its type; None for bytes."""
        return None if isinstance(value, bytes) else _decoder(type(value))


@cache
def _decoder(message_type: type[Message]) -> Decode:
    return MessageDecoder([message_type]).decode
