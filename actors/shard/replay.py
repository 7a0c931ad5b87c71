"""Restore an entity from its records: its snapshot, and then each journal record after it. Pure.

What an entity is after its committed records is defined here and in ``decision.evolve``, for everyone who asks: the
recovery of a shard, ``Running.state`` and ``repertory state``, and ``verify``.
"""

from __future__ import annotations

from typing import NamedTuple

from repertory.actors.entity import Behaviour, Entity
from repertory.actors.message import Message, Stopped
from repertory.actors.shard.decision import evolve
from repertory.actors.wire import encode, refuse_unknown_fields

#: What is in the log was within the limit when it was written.
_NO_LIMIT_BYTES = 1 << 62


class FoldedEvent(NamedTuple):
    """A journal record's event, and the entity after it as a state and its bytes; the first state if its life ended."""

    event: Message
    state: Entity
    data: bytes

    @property
    def ends(self) -> bool:
        """Whether the event is the end of a life."""
        return type(self.event) is Stopped


def restore(behaviour: Behaviour, snapshot: bytes) -> tuple[Entity, bytes]:
    """Return the entity of a snapshot, and its bytes. Raises what the decoder or a ``__post_init__`` raises."""
    entity = behaviour.state_decode(snapshot)
    refuse_unknown_fields(snapshot, entity)
    return entity, encode(entity) if behaviour.has_mutable_fields else snapshot


def fold(behaviour: Behaviour, state: Entity, event_data: bytes, *, strict: bool = True) -> FoldedEvent:
    """Return the entity after one journal record. Raises DecodeError, and what the ``@event`` method raises.

    ``strict``: refuse fields that this code does not know. The shard does, since they would be lost from the state.
    """
    event: Message = behaviour.journal.decode(event_data)
    if strict:
        refuse_unknown_fields(event_data, event)
    if type(event) is Stopped:
        return FoldedEvent(event, behaviour.initial(), behaviour.initial_data)
    return FoldedEvent(event, *evolve(behaviour, state, event_data, type(event), _NO_LIMIT_BYTES))
