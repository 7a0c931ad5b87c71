"""What a gateway asks: the client, as far as the gateway knows it.

The values are those of branch ``ask``, and stand here until it is merged. Then ``AskId`` is that of ``actors.asks``,
``IdConflict`` and ``ClockAhead`` those of ``actors.message``; `IdTooOld` has to be raised by its client and moves to
``bridge.log.errors``; and the protocols of the clients remain.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

import msgspec

from repertory.actors.handler import Handler
from repertory.actors.message import Message, Rejection
from repertory.bridge.log.errors import OutcomeUnknown


class AskId(msgspec.Struct, frozen=True):
    """The id of an ask, and the aware time of its first attempt."""

    id: str
    made_at: datetime


class IdConflict(Rejection):
    """The id was used for another message."""

    reason: str = ""


class ClockAhead(Rejection):
    """The id's time is ahead of the log's."""

    reason: str = ""


class IdTooOld(OutcomeUnknown):
    """The id is older than the oldest answer that is still kept: the message may have been applied, or not."""


class Answered(Protocol):
    """The answer to an ask."""

    @property
    def value(self) -> Message:
        """The first decision about the id: an event, a rejection, or ``Undelivered``."""
        ...

    @property
    def position(self) -> object | None:
        """``entity/partition/seq`` as text."""
        ...

    @property
    def again(self) -> bool:
        """Whether the answer was given before."""
        ...


class Asker(Protocol):
    """An asynchronous client.

    Raises OutcomeUnknown, LogUnavailable, Refused, or ValueError where the call is wrong. Not bound to an event loop.
    """

    async def ask_result(
        self,
        handler: Any,
        key: str,
        message: Any,
        *,
        timeout_s: float,
        id: AskId | None = None,  # noqa: A002
    ) -> Answered:
        """Ask a command and return the answer to it."""
        ...

    async def query(self, handler: Any, key: str, query: Any, *, timeout_s: float) -> Message:
        """Ask a query and return its answer."""
        ...

    async def close(self) -> None:
        """Close the connection to the log."""
        ...


class BlockingAsker(Protocol):
    """A client that blocks: that of ``Running``, which drives its loop meanwhile, as branch ``ask`` has it."""

    def ask_result(
        self,
        handler: Any,
        key: str,
        message: Any,
        *,
        timeout_s: float,
        id: AskId | None = None,  # noqa: A002
    ) -> Answered:
        """Ask a command and return the answer to it."""
        ...

    def query(self, handler: Any, key: str, query: Any, *, timeout_s: float) -> Message:
        """Ask a query and return its answer."""
        ...

    def close(self) -> None:
        """Close it: asks that wait in other threads raise OutcomeUnknown at once. May be called again."""
        ...


class Asks(Protocol):
    """A system whose clients ask: ``ActorSystem`` as branch ``ask`` has it."""

    def async_client(self, log: str, *, kafka_config: str | None = None) -> Asker:
        """Connect to a log. Blocks; raises LogError."""
        ...


def is_query(handler: Handler) -> bool:
    """Return whether a handler answers a query, and so writes nothing."""
    return handler.kind == "@query"
