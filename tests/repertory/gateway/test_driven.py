"""A system in this process behind a gateway: it is driven while nobody asks, asks run side by side, and it ends."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from repertory import Done, Undelivered
from repertory.bridge.log.errors import LogUnavailable, OutcomeUnknown
from repertory.gateway.driven import DrivenAsker
from tests.repertory.gateway.in_memory import Answer

END_S = 30.0


class Ticking:
    """A system that answers an ask when it has ticked after it; ``Running`` asks so from branch ``ask`` on."""

    def __init__(self) -> None:
        self.client = self
        self.ticks, self.ticked = 0, threading.Condition()
        self.failure: Exception | None = None
        self.is_answering, self.is_closed = True, False
        self.asking = threading.Barrier(2)

    def tick(self) -> bool:
        with self.ticked:
            if self.failure is not None:
                raise self.failure
            self.ticks += 1
            self.ticked.notify_all()
        return False

    def ask_result(self, handler: Any, key: str, message: Any, *, timeout_s: float, id: Any = None) -> Answer:  # noqa: A002
        if key == "together":
            self.asking.wait(END_S)
        with self.ticked:
            before = self.ticks
            self.ticked.wait_for(lambda: self.is_closed or (self.is_answering and self.ticks > before), END_S)
        if self.is_closed:
            raise OutcomeUnknown("its client was closed")
        return Answer(Done(), f"{key}/0/1")

    def query(self, handler: Any, key: str, query: Any, *, timeout_s: float) -> Any:
        return Undelivered(reason=key)

    def close(self) -> None:
        with self.ticked:
            self.is_closed = True
            self.ticked.notify_all()


def ask(asker: DrivenAsker, *keys: str) -> list[Any]:
    """Ask for some keys at once; return answers and errors."""

    async def asked() -> list[Any]:
        asks = (asker.ask_result(None, key, None, timeout_s=END_S) for key in keys)
        return await asyncio.gather(*asks, return_exceptions=True)

    return asyncio.run(asked())


def test_it_works_while_nobody_asks_and_several_ask_at_once() -> None:
    """Two asks that wait for one another are both answered."""
    asker = DrivenAsker(Ticking()).start()
    try:
        assert [each.position for each in ask(asker, "together", "together")] == ["together/0/1"] * 2
        assert asyncio.run(asker.query(None, "k", None, timeout_s=1)) == Undelivered(reason="k")
    finally:
        asker.stop()


def test_its_end_does_not_wait_for_answers() -> None:
    """An ask that is open is told that its outcome is unknown."""
    running = Ticking()
    running.is_answering = False
    asker = DrivenAsker(running).start()

    async def talk() -> Any:
        asked = asyncio.create_task(asker.ask_result(None, "together", None, timeout_s=END_S))
        await asyncio.to_thread(running.asking.wait, END_S)
        await asker.close()
        return await asyncio.gather(asked, return_exceptions=True)

    (found,) = asyncio.run(talk())
    assert isinstance(found, OutcomeUnknown)
    assert running.is_closed


def test_a_failure_is_reported_and_refuses_what_comes(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever serves learns of it, and later asks are told that nothing was done."""
    running, ended = Ticking(), threading.Event()
    asker = DrivenAsker(running, ended.set).start()
    running.failure = RuntimeError("it broke")
    assert ended.wait(END_S)
    (found,) = ask(asker, "k")
    assert isinstance(found, LogUnavailable)
    assert "it broke" in caplog.text
    asker.stop()
