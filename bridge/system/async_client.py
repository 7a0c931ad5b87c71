"""``AsyncClient``: the client for asyncio. It waits for the log in threads of its own, never in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from repertory.actors.asks import AskId, Position
from repertory.actors.handler import CommandHandler
from repertory.actors.message import Answer, Command, Message, Query, Rejection, Undelivered
from repertory.actors.query import QueryHandler
from repertory.actors.saga.saga import Saga
from repertory.bridge.log.errors import OutcomeUnknown
from repertory.bridge.log.port import Backend
from repertory.bridge.system.ask import TIMEOUT_S, Ask, AskOptions, AskResult
from repertory.bridge.system.asking import AsyncAsking
from repertory.bridge.system.by_id import Found, RevokeResult, fetching, found, revoked, revoking
from repertory.bridge.system.cancelling import CancelResult, cancelling
from repertory.bridge.system.client_core import ClientCore, Told
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.projected import Projectable
from repertory.bridge.system.waiting import Waiting

C = TypeVar("C", bound=Command)
Q = TypeVar("Q", bound=Query)
A = TypeVar("A", bound=Answer | Rejection)


class AsyncClient(AsyncAsking):
    """Sends commands. Tasks of any event loop may use it, in any thread. Close it, or use ``async with``.

    ``system.async_client(URL)`` makes one. That call waits for the log, so make it before the event loop runs, or with
    ``asyncio.to_thread``. As with ``Client``, none survives a fork.
    """

    def __init__(self, system: SystemDefinition, backend: Backend, *, owns_backend: bool = False) -> None:
        """``owns_backend``: ``close`` closes the backend too."""
        self._core = ClientCore(system, backend, owns_backend=owns_backend, drive=None)

    async def tell(self, handler: CommandHandler[Any, C, Any], key: str, message: C) -> str:
        """Append a command durably and return its message id; raises what ``Client.tell`` does.

        A task that is cancelled meanwhile may have appended it.
        """
        return (await self.tell_all([(handler, key, message)]))[0]

    async def tell_all(self, commands: Iterable[Told]) -> list[str]:
        """Append many commands at once, and keep their order per key; raises what ``Client.tell_all`` does."""
        message_ids, outputs = self._core.told(commands)
        sent = self._core.submit(outputs)
        await _first_done([sent], None)
        try:
            sent.result()
        except OutcomeUnknown as error:  # Appended together with those of other tasks.
            raise OutcomeUnknown(str(error), message_ids[0] if message_ids else None) from error
        return message_ids

    async def _asked(
        self, handler: CommandHandler[Any, Any, Any], key: str, message: Command, options: AskOptions
    ) -> AskResult[Message]:
        return await self._wait(self._core.ask(handler, key, message, options))

    async def query(
        self, handler: QueryHandler[Any, Q, A], key: str, message: Q, *, timeout_s: float = TIMEOUT_S
    ) -> A | Undelivered:
        """Ask an entity through the log; see ``Client.query``."""
        result = await self._wait(self._core.query(handler, key, message, timeout_s))
        return result.value  # type: ignore[return-value]  # decoded as one of the entity's answers

    async def answer(
        self,
        handler: CommandHandler[Any, Any, Any],
        key: str,
        id: AskId,  # noqa: A002  named as the option of ask is
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> Found:
        """Return the answer to an ask that was made with this id; see ``Client.answer``."""
        ask = fetching(self._core, handler, key, id, timeout_s)
        return found(ask, await self._wait(ask))

    async def revoke(
        self,
        handler: CommandHandler[Any, Any, Any],
        key: str,
        id: AskId,  # noqa: A002  named as the option of ask is
        *,
        timeout_s: float = TIMEOUT_S,
    ) -> RevokeResult:
        """Revoke the ask that was made with this id, unless a handler has taken it; see ``Client.revoke``."""
        ask = revoking(self._core, handler, key, id, timeout_s)
        return revoked(ask, await self._wait(ask))

    async def cancel(
        self, saga: type[Saga], key: str, *, reason: str = "", timeout_s: float = TIMEOUT_S
    ) -> CancelResult:
        """Cancel a saga; see ``Client.cancel``."""
        return cast(CancelResult, (await self._wait(cancelling(self._core, saga, key, reason, timeout_s))).value)

    async def _wait(self, ask: Ask) -> AskResult[Message]:
        with closing(self._core.steps(ask)) as steps:
            for futures, timeout_s in steps:
                await _first_done(futures, timeout_s)
        return ask.answer.result()

    async def wait(
        self, projection: type[Projectable], position: Position | None, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        """Wait until the tables of a projection hold everything up to a position; see ``Client.wait``."""
        with closing(Waiting(self._core, projection, position, timeout_s)) as waiting:
            while not await asyncio.to_thread(waiting.reached):  # noqa: ASYNC110  a database is asked
                await asyncio.sleep(waiting.pause_s)

    def database(self, projection: type[Projectable]) -> str:
        """Return the URL of the database that holds a projection; see ``Client.database``."""
        return self._core.system.projections.of(projection).url(self._core.log)

    async def close(self) -> None:
        """Close the connection to the log, after the appends of other tasks. Later calls raise ClientClosed.

        An ask that waits for its answer in another task raises OutcomeUnknown at once.
        """
        self._core.fail_asks()
        await asyncio.to_thread(self._core.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _first_done(futures: Sequence[Future[Any]], timeout_s: float | None) -> None:
    """Wait until one of the futures is done, for ``timeout_s`` at most. Other threads wake this task in its loop."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake(_: Future[Any]) -> None:
        with suppress(RuntimeError):  # The loop is closed, and nobody waits.
            loop.call_soon_threadsafe(woken.set)

    for future in futures:
        future.add_done_callback(wake)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await woken.wait()
