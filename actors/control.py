"""Control commands: requests to a shard itself, as records in its commands topic, and the runtime's answers to them.

Those of an operator name a stashed command by its source offset, those of a client an ask by its id, those of a saga
its own ask. So a request that arrives twice or late does no harm. The command line and the clients write to no other
topic of a shard.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from repertory.actors.message import Command, Event

_OFFSET_DIGITS_MAX = 19
_TimeMs = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class RetryParked(Command, name="repertory.retry-parked"):
    """Run the parked command ``offset`` of this key again, as attempt 1, and then the commands behind it in order."""

    offset: int


class DropParked(Command, name="repertory.drop-parked"):
    """Dead-letter the parked command ``offset`` of this key for ``reason``; the commands behind it run in order."""

    offset: int
    reason: str


class CancelTimer(Command, name="repertory.cancel-timer"):
    """Cancel the timer ``timer`` of this key, if there is one."""

    timer: str


class RetryEffect(Command, name="repertory.retry-effect"):
    """Have the parked effect of the cause ``offset``/``index`` of this key tried again, at once and as attempt 1."""

    offset: int
    index: int


class DropEffect(Command, name="repertory.drop-effect"):
    """Give up the effect of the cause ``offset``/``index`` of this key; its entity is answered ``Undelivered``."""

    offset: int
    index: int
    reason: str


class RetryEnded(Event, name="repertory.retry-ended"):
    """How a command ended that an operator retried: the answer to the operator, in the transaction of that end.

    ``outcome``: applied, rejected, parked, dead-lettered, or dropped since its timer was cancelled; ``error`` and
    ``reason`` say why it was one of the last three. ``reply`` is the encoded answer of the handler, or b"".
    """

    outcome: str
    error: str = ""
    reason: str = ""
    reply: bytes = b""


class FetchAnswer(Command, name="repertory.fetch-answer"):
    """Answer what is known of the ask ``id`` of this key; nothing changes. ``made_at_ms``: the id's own time."""

    id: str
    made_at_ms: _TimeMs


class Revoke(Command, name="repertory.revoke"):
    """Dead-letter the ask ``id`` of this key if it is in the stash, and answer what is known of it then."""

    id: str
    made_at_ms: _TimeMs


class RevokeAsk(Command, name="repertory.revoke-ask"):
    """Dead-letter the ask ``about`` of the same sender, if this key has it in the stash.

    A saga sends it for a step that it does not wait for any more. A saga that was started by that ask is cancelled. It
    has an ``about`` of its own, so that what becomes of it is never taken for the answer to the step.
    """

    about: str


class StillOpen(Event, name="repertory.still-open"):
    """What ``client.answer`` and ``client.revoke`` return for an ask that has no answer yet.

    ``state``: ``waiting``, its command is stashed and will be tried by itself; ``parked``, it is stashed, and an
    operator must act on its key; ``kept``, a handler took it and will answer the sender later: it cannot be revoked.
    """

    state: Literal["waiting", "parked", "kept"]


class NotAsked(Event, name="repertory.not-asked"):
    """What ``client.answer`` and ``client.revoke`` return for an id that the shard does not know.

    Nothing was applied under it, up to this request's place in the log. A command that is appended later is applied.
    """


class Revoked(Event, name="repertory.revoked"):
    """What ``client.revoke`` returns for an ask that is revoked: it is not applied, and never will be."""


#: The requests of clients, which name an ask by its id, and what only they are answered.
OF_ASKS = (FetchAnswer, Revoke)
ABOUT_ASKS: tuple[type[Event], ...] = (StillOpen, NotAsked, Revoked)
CONTROL: tuple[type[Command], ...] = (
    RetryParked,
    DropParked,
    CancelTimer,
    RetryEffect,
    DropEffect,
    RevokeAsk,
    *OF_ASKS,
)


#: The error of the dead letter of a start whose saga was cancelled before it could begin.
CANCELLED = "Cancelled"
_BY = "by command "


def by_cancel(offset: int, reason: str) -> str:
    """Return the reason of such a dead letter. ``offset`` and ``reason``: of the command that cancels."""
    return f"{_BY}{offset}: {reason}" if reason else f"{_BY}{offset}"


def cancel_of(error: str, reason: str) -> int | None:
    """Return the offset of the command that has cancelled the start of a dead letter; None if none has."""
    offset = reason.removeprefix(_BY).partition(":")[0]
    return int(offset) if error == CANCELLED and offset.isdigit() and len(offset) <= _OFFSET_DIGITS_MAX else None


def cancelled_timer(data: bytes) -> str | None:
    """Return the name of the timer that an encoded request cancels; None if it cannot be decoded."""
    try:
        return msgspec.msgpack.decode(data, type=CancelTimer).timer
    except msgspec.DecodeError:
        return None
