"""What the id of an ask belongs to: the key, the name and the bytes of its command, whether they can be decoded or not.

A command that cannot be decoded is decided like any other: it is a dead letter. So its bytes must be known again by a
build that can decode them, and the bytes of a command that was applied by one that cannot.
"""

from __future__ import annotations

from hashlib import blake2b

from repertory.actors.message import Envelope, WireName, wire_name
from repertory.actors.placement import key_of
from repertory.actors.shard.changelog import AnswerRecord
from repertory.actors.shard.mailbox import Delivery
from repertory.actors.wire import written_name

#: Longer names are those of no message (``actors.message``).
_NAME_CHARS_MAX = 200


def key_in(delivery: Delivery) -> str | None:
    """Return the entity key of a command; None if there is no such entity, so that it can never be applied."""
    if isinstance(delivery, Envelope):
        return delivery.key
    try:
        return None if delivery.key is None else key_of(delivery.key)
    except ValueError:
        return None


def name_in(delivery: Delivery) -> str:
    """Return the wire name of a command as it is written, "" if its bytes have none."""
    if isinstance(delivery, Envelope):
        return wire_name(type(delivery.message))
    name = written_name(delivery.value or b"") or ""
    return name if len(name) <= _NAME_CHARS_MAX else ""


def digest_in(delivery: Delivery) -> bytes:
    """Return a hash of a command's bytes, by which another one with the same id is told from it."""
    return blake2b(delivery.value or b"", digest_size=8).digest()


def is_same(known: AnswerRecord, delivery: Delivery) -> bool:
    """Return whether a command is the one that an id belongs to. Other versions of one message cannot be compared."""
    name = name_in(delivery)
    if known.name == name or not (known.name and name):
        return known.digest == digest_in(delivery)
    return WireName.parse(known.name).name == WireName.parse(name).name
