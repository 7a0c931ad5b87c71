"""Control commands: an operator's requests to a shard, as records in its commands topic.

The command line writes to no other topic of a shard. Each request names a stashed command by its source offset, so a
request that arrives twice or late does no harm.
"""

from __future__ import annotations

from repertory.actors.message import Command, Envelope, Event, Undecodable


class RetryParked(Command, name="repertory.retry-parked"):
    """Run the parked command ``offset`` of this key again, as attempt 1, and then the commands behind it in order."""

    offset: int


class DropParked(Command, name="repertory.drop-parked"):
    """Dead-letter the parked command ``offset`` of this key for ``reason``; the commands behind it run in order."""

    offset: int
    reason: str


class RetryEnded(Event, name="repertory.retry-ended"):
    """How a command ended that an operator retried: the answer to the operator, in the transaction of that end.

    ``outcome``: applied, rejected, parked or dead-lettered; ``error`` and ``reason`` say why it was one of the last
    two. ``reply`` is the encoded answer of the handler, b"" if it gave none.
    """

    outcome: str
    error: str = ""
    reason: str = ""
    reply: bytes = b""


CONTROL: tuple[type[Command], ...] = (RetryParked, DropParked)


def is_control(delivery: Envelope | Undecodable) -> bool:
    """Return whether a delivery is an operator's request."""
    return isinstance(delivery, Envelope) and isinstance(delivery.message, CONTROL)
