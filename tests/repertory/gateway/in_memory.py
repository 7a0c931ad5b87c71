"""A client without a log: entities, answers and ids in memory, decided by the kernel. For one event loop."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from repertory import TestKit, Undelivered
from repertory.actors.asks import AskId
from repertory.actors.control import NotAsked, StillOpen
from repertory.actors.message import ClockAhead, IdConflict
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.errors import IdTooOld, OutcomeUnknown
from repertory.gateway.server import GatewayServer, HttpAddress, bound
from tests.apps.fronted import OrderStatus

AHEAD_MAX = timedelta(seconds=300)


class Answer(msgspec.Struct, frozen=True):
    """An answer to an ask."""

    value: Any
    position: str
    again: bool = False


class InMemoryAsker:
    """Asks entities in this process. ``horizon``: ids made until then are too old. ``failure`` is raised by each ask.

    While ``released`` is not set, commands wait: they are applied then, as commands in a log are. ``arrivals`` counts
    the asks that have begun.
    """

    def __init__(self) -> None:
        self._kits: dict[tuple[type, str], TestKit[Any]] = {}
        self._answers: dict[tuple[type, str, str], tuple[bytes, asyncio.Future[Answer]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seq = 0
        self.released = asyncio.Event()
        self.released.set()
        self.arrivals = asyncio.Semaphore(0)
        self.horizon = datetime(2020, 1, 1, tzinfo=UTC)
        self.failure: Exception | None = None
        self.asked = 0
        self.is_closed = False

    async def ask_result(
        self,
        handler: Any,
        key: str,
        message: Any,
        *,
        timeout_s: float,
        id: AskId | None = None,  # noqa: A002
    ) -> Answer:
        """Decide once for each id."""
        self.asked += 1
        self.arrivals.release()
        if self.failure is not None:
            raise self.failure
        assert id is not None, "the gateway makes an id for each command"
        place, digest = (handler.owner, key, id.id), encode(message)
        if place in self._answers:
            known, answered = self._answers[place]
            if known != digest:
                return Answer(IdConflict(), "")
            found = await self._awaited(answered, timeout_s)
            return msgspec.structs.replace(found, again=True)
        if id.made_at <= self.horizon:
            raise IdTooOld("too old")
        if id.made_at > datetime.now(UTC) + AHEAD_MAX:
            return Answer(ClockAhead(), "")
        answered = asyncio.get_running_loop().create_future()
        self._answers[place] = digest, answered
        task = asyncio.create_task(self._decide(handler, key, message, answered))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await self._awaited(answered, timeout_s)

    async def answer(self, handler: Any, key: str, id: AskId, *, timeout_s: float) -> Any:  # noqa: A002
        """Return the answer to an id, or that there is none yet, or no such ask."""
        if self.failure is not None:
            raise self.failure
        _, answered = self._answers.get((handler.owner, key, id.id), (b"", None))
        if answered is None:
            return NotAsked()
        return msgspec.structs.replace(answered.result(), again=True) if answered.done() else StillOpen(state="kept")

    async def _awaited(self, answered: asyncio.Future[Answer], timeout_s: float) -> Answer:
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(answered)
        except TimeoutError:
            raise OutcomeUnknown("no answer") from None

    async def _decide(self, handler: Any, key: str, message: Any, answered: asyncio.Future[Answer]) -> None:
        await self.released.wait()
        kit = self._kits.setdefault((handler.owner, key), TestKit(handler.owner(), key=key))
        try:
            value = kit.run(message).reply
        except Exception as error:  # noqa: BLE001  as a shard does
            value = Undelivered(reason=str(error))
        self._seq += 1
        position = f"{handler.owner.__name__.lower()}/{partition_of(key.encode(), 4)}/{self._seq}"
        answered.set_result(Answer(value, position))

    async def query(self, handler: Any, key: str, query: Any, *, timeout_s: float) -> Any:
        """Answer from the last state; for the key ``waiting``, with the number of commands that are not decided."""
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        if key == "waiting":
            return OrderStatus(lines=len(self._tasks), detailed=False, since=None)
        kit = self._kits.setdefault((handler.owner, key), TestKit(handler.owner(), key=key))
        return handler.function(kit.state, query)

    async def close(self) -> None:
        """Close."""
        self.is_closed = True


def main() -> None:
    """Serve the application of ``tests.apps.fronted``. With ``hold`` as an argument no command is decided."""
    from repertory.gateway import Gateway  # noqa: PLC0415
    from tests.apps.fronted import system  # noqa: PLC0415

    asker = InMemoryAsker()
    if "hold" in sys.argv:
        asker.released.clear()

    with bound(HttpAddress("127.0.0.1", 0)) as taken:
        server = GatewayServer(Gateway(system, client=asker), taken, is_local=True)
        server.run(lambda: print(taken.getsockname()[1], flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
