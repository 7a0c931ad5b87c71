"""Entities, shards and the results of their turns: pure. No clock, no I/O, no logging; time is passed as ``now_ms``.

An entity is an immutable value. Its handlers return events, the next state, or a rejection; :class:`Context` collects
the messages that they send. This package sends nothing: the result of a shard's turn is a value (``TurnResult``) that
is committed as one transaction, or not at all.
"""

from repertory.actors.context import Context, ContractViolation, OutputTooLarge
from repertory.actors.entity import Entity
from repertory.actors.handler import command, event, reply
from repertory.actors.message import (
    Answer,
    Command,
    DefinitionError,
    Done,
    Event,
    Message,
    Query,
    Rejection,
    Sender,
    Stopped,
    Undelivered,
)
from repertory.actors.query import query
from repertory.actors.testkit import TestKit

__all__ = [
    "Answer",
    "Command",
    "Context",
    "ContractViolation",
    "DefinitionError",
    "Done",
    "Entity",
    "Event",
    "Message",
    "OutputTooLarge",
    "Query",
    "Rejection",
    "Sender",
    "Stopped",
    "TestKit",
    "Undelivered",
    "command",
    "event",
    "query",
    "reply",
]
