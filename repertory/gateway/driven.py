"""A system on ``memory:`` beside its gateway: one thread drives it, and others ask for the gateway."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, Self, TypeVar

from repertory.actors.asks import AskId
from repertory.actors.message import Message
from repertory.bridge.log.errors import LogUnavailable
from repertory.gateway.asking import Answered, BlockingAsker, Fetched

logger = logging.getLogger("repertory.gateway")

T = TypeVar("T")

#: How long the thread of an idle system waits before it looks after its shards again: timers, stashed commands.
_IDLE_S = 0.02
#: Asks that wait for their answers at the same time.
_THREADS_MAX = 32


class Drivable(Protocol):
    """A system in this process: ``Running``, which several threads may tick and ask."""

    @property
    def client(self) -> BlockingAsker:
        """Asks, and drives the loop while it waits."""
        ...

    def tick(self) -> bool:
        """Run one tick of the loop; return whether anything happened."""
        ...

    def close(self) -> None:
        """Close the worker and its log."""
        ...


class DrivenAsker:
    """Asks a system in this process, and drives it from a thread of its own: for ``memory:``, where one tries it.

    ``on_end`` is called in that thread if the system fails: nothing can be asked afterwards.
    """

    def __init__(self, running: Drivable, on_end: Callable[[], None] = lambda: None) -> None:
        self._running, self._on_end = running, on_end
        self._stopping, self._has_failed = threading.Event(), False
        self._pool = ThreadPoolExecutor(_THREADS_MAX, "repertory-asks")
        self._thread = threading.Thread(target=self._drive, name="repertory-driven", daemon=True)

    def start(self) -> Self:
        """Begin to drive the system."""
        self._thread.start()
        return self

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
        return await self._call(
            partial(self._running.client.ask_result, handler, key, message, timeout_s=timeout_s, id=id)
        )

    async def answer(self, handler: Any, key: str, id: AskId, *, timeout_s: float) -> Fetched:  # noqa: A002
        """Return what is known of an ask by its id."""
        return await self._call(partial(self._running.client.answer, handler, key, id, timeout_s=timeout_s))

    async def query(self, handler: Any, key: str, query: Any, *, timeout_s: float) -> Message:
        """Ask a query and return its answer."""
        return await self._call(partial(self._running.client.query, handler, key, query, timeout_s=timeout_s))

    def stop(self) -> None:
        """Stop the system; asks that wait raise OutcomeUnknown. Blocks."""
        self._stopping.set()
        self._thread.join()
        self._running.client.close()
        self._pool.shutdown(cancel_futures=True)
        self._running.close()

    async def close(self) -> None:
        """Stop without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    async def _call(self, call: Callable[[], T]) -> T:
        if self._has_failed:
            raise LogUnavailable("the system in this process has failed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def _drive(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self._running.tick():
                    self._stopping.wait(_IDLE_S)
        except Exception:
            self._has_failed = True
            logger.exception("the system in this process failed, and with it all that was in memory")
            self._on_end()
