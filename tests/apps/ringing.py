"""Clocks that ring, for tests on every log."""

from __future__ import annotations

import os
from typing import Any, Self

from repertory import (
    ActorSystem,
    Answer,
    Backoff,
    Command,
    Context,
    Directive,
    Entity,
    Event,
    Query,
    command,
    event,
    query,
    restart,
)
from repertory.bridge.system.settings import Settings


class Set(Command):
    """Set an alarm."""

    name: str
    after_s: float
    every_s: float | None = None
    number: int = 0


class Unset(Command):
    """Take it back."""

    name: str


class Ring(Command):
    """Sent by an alarm. That of ``UNLUCKY`` fails until it is mended."""

    name: str
    number: int = 0


class Remind(Command):
    """Send a delayed message to the clock ``key``."""

    key: str
    after_s: float


class Rung(Event):
    """It rang."""

    name: str
    number: int
    due_ms: int | None


class Count(Query):
    """How often it rang."""


class Counted(Answer):
    """So often."""

    rung: int


UNLUCKY = -13


class Mended:
    """Whether what fails is mended."""

    yes = False


class Clock(Entity):
    """Rings."""

    rung: int = 0

    @command
    def set(self, cmd: Set, ctx: Context) -> None:
        """Set an alarm."""
        ring = Ring(name=cmd.name, number=cmd.number)
        ctx.schedule(cmd.name, Clock.ring, ring, after_s=cmd.after_s, every_s=cmd.every_s)

    @command
    def unset(self, cmd: Unset, ctx: Context) -> None:
        """Take it back."""
        ctx.cancel(cmd.name)

    @command
    def ring(self, cmd: Ring, ctx: Context) -> Rung:
        """Ring."""
        if cmd.number == UNLUCKY and not Mended.yes:
            raise ValueError("unlucky")
        return Rung(name=cmd.name, number=cmd.number, due_ms=ctx.due_ms)

    @command
    def remind(self, cmd: Remind, ctx: Context) -> None:
        """Remind another clock."""
        ctx.tell(Clock.ring, cmd.key, Ring(name="reminder"), after_s=cmd.after_s)

    @query
    def count(self, _ask: Count) -> Counted:
        """Count."""
        return Counted(rung=self.rung)

    @event
    def rang(self, _evt: Rung) -> Self:
        """Count it."""
        return self.replace(rung=self.rung + 1)


def made(name: str, delivery: str, *, partitions: int = 2, **settings: Any) -> ActorSystem:
    """Return a system of clocks."""
    workers = restart(max_restarts=1_000, within_s=60, backoff=Backoff(first_s=0.02, max_s=1))
    found = ActorSystem(name, settings=Settings(delivery=delivery, **settings), workers=workers)
    policy = restart(max_restarts=0, backoff=Backoff(first_s=0.02, jitter=0), on={ValueError: Directive.STOP})
    found.host(Clock, partitions=partitions, supervise=policy)
    return found


def configured() -> ActorSystem:
    """Return the system of the environment; ``RINGING_SETTINGS`` are names and numbers, as in ``ping_timeout_s=5``."""
    variables = {name: os.environ.get(f"RINGING_{name}", "") for name in ("NAME", "DELIVERY", "PARTITIONS", "SETTINGS")}
    settings = {name: float(value) for name, value in (each.split("=") for each in variables["SETTINGS"].split())}
    return made(
        variables["NAME"] or "ringing", variables["DELIVERY"] or "exactly-once",
        partitions=int(variables["PARTITIONS"] or 2), timers_per_turn_max=5, **settings,
    )  # fmt: skip


#: For nodes; see ``tests.support.nodes.trial``.
system = configured()
