"""What an operator tells a shard, as records among its commands: the command line writes no shard's topics itself.

Each names the waiting command that it means by its source offset, so it may come twice, or late, and does no harm.
"""

from __future__ import annotations

from repertory.actors.message import Command, Envelope, Undecodable


class RetryParked(Command, name="repertory.retry-parked"):
    """Run the parked command ``offset`` of this key again, as its first attempt, and then those behind it in order."""

    offset: int


class DropParked(Command, name="repertory.drop-parked"):
    """Make the parked command ``offset`` of this key a dead letter for ``reason``; those behind it run in order."""

    offset: int
    reason: str


CONTROL: tuple[type[Command], ...] = (RetryParked, DropParked)


def is_control(delivery: Envelope | Undecodable) -> bool:
    """Tell whether a command comes from an operator."""
    return isinstance(delivery, Envelope) and isinstance(delivery.message, CONTROL)
