"""Effects that write to a file what they do, and misbehave as they are told: for tests on every log, and in nodes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from repertory import (
    ActorSystem,
    Backoff,
    Command,
    Context,
    EffectContext,
    Entity,
    Event,
    Request,
    Undelivered,
    command,
    effect,
    event,
    reply,
    restart,
)
from repertory.bridge.system.settings import Settings

#: Where each attempt writes a line: key, number, id, attempt, epoch.
DIARY = "ERRANDS_DIARY"


class Go(Command):
    """Run an errand. ``how``: "" succeeds, "late" at the third attempt; or "fail", "hang", "exit", "crash".

    Also "wait", "nap", and "block", which are over when somebody says so.
    """

    number: int
    how: str = ""


class Errand(Request):
    """What is to be done."""

    number: int
    how: str


class Went(Event):
    """It was done, at that attempt."""

    number: int
    attempt: int


class Heard(Event):
    """The entity has heard of it."""

    number: int


class GivenUp(Event):
    """An operator has given it up."""

    reason: str


class Desk:
    """A resource."""

    entered = 0

    def note(self, do: Errand, fx: EffectContext) -> None:
        """Write down an attempt."""
        line = f"{fx.key} {do.number} {fx.id} {fx.attempt} {fx.epoch}\n"
        with Path(os.environ[DIARY]).open("a", encoding="utf-8") as diary:
            diary.write(line)


@asynccontextmanager
async def lifespan() -> AsyncIterator[Desk]:
    """Enter once, unless it is broken."""
    if Path(f"{os.environ[DIARY]}.broken").exists():  # noqa: ASYNC240
        raise OSError("no desk")
    Desk.entered += 1
    try:
        yield Desk()
    finally:
        Desk.entered -= 1


#: In a build that does not have `run`, it has another name.
RUN = os.environ.get("ERRANDS_RUN", "errands.run")


@effect(timeout_s=0.5, attempts=3, backoff=Backoff(first_s=0.02, max_s=0.1), name=RUN)
async def run(do: Errand, fx: EffectContext) -> Went:
    """Run an errand."""
    fx.get(Desk).note(do, fx)
    match do.how:
        case "fail":
            raise OSError("the door was closed")
        case "late" if fx.attempt < 3:
            raise OSError("nobody is there yet")
        case "hang":
            await asyncio.sleep(3_600)
        case "exit":
            os._exit(17)
        case "crash":
            ctypes.string_at(0)
        case "block":
            _block()
        case "slow":
            await asyncio.sleep(0.2)
    return Went(number=do.number, attempt=fx.attempt)


@effect(timeout_s=60, name="errands.wait")
async def wait(do: Errand, fx: EffectContext) -> Went:
    """Run an errand that is over when somebody says so."""
    return await _until_over(do, fx)


@effect(timeout_s=4, attempts=1_000, backoff=Backoff(first_s=0.02, max_s=0.1), name="errands.nap")
async def nap(do: Errand, fx: EffectContext) -> Went:
    """Run an errand that is over when somebody says so, which may be longer than it may take."""
    return await _until_over(do, fx)


def _block() -> None:
    """Block the event loop until somebody says that it is over."""
    while not Path(f"{os.environ[DIARY]}.over").exists():
        time.sleep(0.01)


async def _until_over(do: Errand, fx: EffectContext) -> Went:
    fx.get(Desk).note(do, fx)
    over = Path(f"{os.environ[DIARY]}.over")
    while not over.exists():  # noqa: ASYNC110, ASYNC240  another thread, or process, says so
        await asyncio.sleep(0.01)
    return Went(number=do.number, attempt=fx.attempt)


class Boy(Entity):
    """An errand boy."""

    heard: tuple[int, ...] = ()

    @command
    def go(self, cmd: Go, ctx: Context) -> None:
        """Go."""
        ctx.perform({"wait": wait, "nap": nap}.get(cmd.how, run), Errand(number=cmd.number, how=cmd.how))

    @reply
    def went(self, evt: Went) -> Heard:
        """Hear of it."""
        return Heard(number=evt.number)

    @reply
    def undelivered(self, rejection: Undelivered) -> GivenUp:
        """Nobody went."""
        return GivenUp(reason=rejection.reason)

    @event
    def has_heard(self, evt: Heard) -> Self:
        """Remember."""
        return self.replace(heard=(*self.heard, evt.number))

    @event
    def was_given_up(self, evt: GivenUp) -> Self:
        """Remember."""
        return self.replace(heard=(*self.heard, -1))


def made(name: str, delivery: str, *, partitions: int = 2, **settings: float) -> ActorSystem:
    """Return a system of errand boys."""
    workers = restart(max_restarts=1_000, within_s=60, backoff=Backoff(first_s=0.02, max_s=1))
    found = ActorSystem(
        name, settings=Settings(delivery=delivery, **settings), workers=workers, lifespan=lifespan  # type: ignore[arg-type]
    )  # fmt: skip
    found.host(Boy, partitions=partitions)
    return found


def configured() -> ActorSystem:
    """Return the system of the environment; ``ERRANDS_SETTINGS`` are names and numbers, as in ``ping_timeout_s=5``."""
    variables = {name: os.environ.get(f"ERRANDS_{name}", "") for name in ("NAME", "DELIVERY", "PARTITIONS", "SETTINGS")}
    settings = {name: float(value) for name, value in (each.split("=") for each in variables["SETTINGS"].split())}
    return made(
        variables["NAME"] or "errands", variables["DELIVERY"] or "exactly-once",
        partitions=int(variables["PARTITIONS"] or 2), **settings,
    )  # fmt: skip


#: For nodes; see ``tests.support.nodes.trial``.
system = configured()
