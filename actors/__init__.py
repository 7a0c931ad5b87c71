"""Entities, shards and what they want: pure. No clock, no I/O, no logging; time arrives as ``now_ms``.

An entity is an immutable value; handlers return events, the next state, or a refusal; :class:`Context` collects
what else shall happen. Nothing is sent from here: a shard's turn is a value (``TurnResult``) that
becomes true as one transaction, or never.
"""

from repertory.actors.context import Context, ContractViolation, OutputTooLarge
from repertory.actors.entity import Entity
from repertory.actors.handler import command, event, reply
from repertory.actors.message import (
    Command,
    DefinitionError,
    Done,
    Event,
    Message,
    Rejection,
    Sender,
    Stopped,
    Undelivered,
)
from repertory.actors.testkit import TestKit

__all__ = [
    "Command",
    "Context",
    "ContractViolation",
    "DefinitionError",
    "Done",
    "Entity",
    "Event",
    "Message",
    "OutputTooLarge",
    "Rejection",
    "Sender",
    "Stopped",
    "TestKit",
    "Undelivered",
    "command",
    "event",
    "reply",
]
