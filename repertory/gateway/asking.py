"""What a gateway asks: the client, as far as the gateway knows it."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from repertory.actors.asks import AskId
from repertory.actors.control import NotAsked, StillOpen
from repertory.actors.handler import Handler
from repertory.actors.message import Message


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


#: What is known of an ask by its id: its answer, that there is none yet, or that nothing was asked with it.
Fetched: TypeAlias = Answered | StillOpen | NotAsked


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

    async def answer(self, handler: Any, key: str, id: AskId, *, timeout_s: float) -> Fetched:  # noqa: A002
        """Return what is known of an ask by its id."""
        ...

    async def query(self, handler: Any, key: str, query: Any, *, timeout_s: float) -> Message:
        """Ask a query and return its answer."""
        ...

    async def close(self) -> None:
        """Close the connection to the log."""
        ...


class BlockingAsker(Protocol):
    """A client that blocks: that of ``Running``, which drives its loop meanwhile."""

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

    def answer(self, handler: Any, key: str, id: AskId, *, timeout_s: float) -> Fetched:  # noqa: A002
        """Return what is known of an ask by its id."""
        ...

    def query(self, handler: Any, key: str, query: Any, *, timeout_s: float) -> Message:
        """Ask a query and return its answer."""
        ...

    def close(self) -> None:
        """Close it: asks that wait in other threads raise OutcomeUnknown at once. May be called again."""
        ...


def is_query(handler: Handler) -> bool:
    """Return whether a handler answers a query, and so writes nothing."""
    return handler.kind == "@query"
