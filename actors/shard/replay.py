"""Restore an entity from its records: its snapshot, and then each journal record after it. Pure.

What an entity is after its committed records is defined here and in ``decision.evolve``, for everyone who asks: the
recovery of a shard, ``Running.state`` and ``repertory state``, and ``verify``.
"""

from __future__ import annotations

import msgspec

from repertory.actors.entity import Behaviour, Entity
from repertory.actors.message import Message, Stopped
from repertory.actors.shard.decision import evolve
from repertory.actors.wire import encode, refuse_unknown_fields

#: What is in the log was within the limit when it was written.
_NO_LIMIT_BYTES = 1 << 62


def restore(behaviour: Behaviour, snapshot: bytes) -> tuple[Entity, bytes]:
    """Return the entity of a snapshot, and its bytes. Raises what the decoder or a ``__post_init__`` raises."""
    try:
        entity = behaviour.state_decode(snapshot)
    except msgspec.ValidationError:
        entity = behaviour.snapshot.decode(snapshot)
        return entity, encode(entity)  # What is of an earlier version is written as the current one from now on.
    refuse_unknown_fields(snapshot, entity, behaviour.snapshot)
    return entity, encode(entity) if behaviour.has_mutable_fields else snapshot


def fold(
    behaviour: Behaviour, state: Entity, event_data: bytes, *, strict: bool = True
) -> tuple[Message, Entity, bytes]:
    """Return the event of one journal record, and the entity after it as a state and its bytes.

    After ``Stopped``, the end of a life, that is the first state. ``strict``: refuse fields that this code does not
    know. The shard does, since they would be lost from the state. Raises DecodeError, and what the ``@event`` method
    raises.
    """
    event: Message = behaviour.journal.decode(event_data)
    if strict:
        refuse_unknown_fields(event_data, event, behaviour.journal)
    if type(event) is Stopped:
        return event, behaviour.initial(), behaviour.initial_data
    return event, *evolve(behaviour, state, event, _NO_LIMIT_BYTES)
