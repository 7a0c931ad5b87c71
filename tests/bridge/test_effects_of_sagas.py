"""Effects that sagas perform: nobody but the saga takes their results, and those that it gathers run at once."""

from __future__ import annotations

import asyncio

import pytest

from repertory import (
    ActorSystem,
    Cancelled,
    Command,
    Event,
    Request,
    Running,
    Saga,
    SagaContext,
    Undelivered,
    effect,
    run,
)
from repertory.actors import effect as effects_of_this_build
from tests.bridge.test_effects import until


class Begin(Command):
    """Call some numbers at once."""

    numbers: int


class Call(Request):
    """Call one."""

    number: int


class Called(Event):
    """It was called."""

    number: int


class Over(Event):
    """All were called; the sum of their numbers."""

    total: int


class Line:
    """How many call now."""

    now = most = 0


@effect(timeout_s=60, name="tests.sagas.call")
async def call(do: Call) -> Called:
    """Call: all who wait for the same are let through together."""
    Line.now += 1
    Line.most = max(Line.most, Line.now)
    while Line.most < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    Line.now -= 1
    return Called(number=do.number)


class Caller(Saga):
    """Calls."""

    @run
    async def call(self, cmd: Begin, ctx: SagaContext) -> Over | Cancelled:
        """Call all of them."""
        steps = [ctx.perform(call, Call(number=number), undo=None) for number in range(cmd.numbers)]
        answers = await ctx.gather(*steps)
        return Over(total=sum(-1 if isinstance(each, Undelivered) else each.number for each in answers))


@pytest.fixture
def running() -> Running:
    """Run sagas in memory."""
    Line.now = Line.most = 0
    system = ActorSystem("callers")
    system.host(Caller, partitions=1)
    return system.start()


def test_what_a_saga_gathers_runs_at_once_and_over_crashes(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they are of one key and function; one owner lacks the function, another one dies before they start."""
    with running:
        running._effects._is_sure = lambda: False  # None starts yet.
        running.client.tell(Caller.call, "c", Begin(numbers=3))
        until(running, lambda: len(running.effects()) == 3, "all are performed")
        with monkeypatch.context() as patch:
            patch.delitem(effects_of_this_build._effects, "tests.sagas.call")
            running.crash()
            until(running, lambda: all(each.not_in_build for each in running.effects()), "they wait")
        running.crash()
        running.settle()
        assert running.client.ask(Caller.call, "c", Begin(numbers=3), timeout_s=60) == Over(total=3)
        assert Line.most == 3
        assert running.effects() == []
        assert running.dead_letters() == []
