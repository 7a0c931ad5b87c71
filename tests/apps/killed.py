"""An application for tests that kill its workers: numbers that are counted, told on, and interrupted by failures."""

from __future__ import annotations

import os
from typing import Self

from repertory import ActorSystem, Backoff, Command, Context, Directive, Entity, Event, command, event, restart
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import IN_A_NODE


class Add(Command):
    """Count ``by`` once, and have a tally note it."""

    by: int


class Note(Command):
    """Add up."""

    by: int


class Fail(Command):
    """Raise: ``restart`` until the key is parked, ``stop``, ``resume``, or ``escalate`` once in each process."""

    how: str


class Close(Command):
    """End this counter's life; the next command begins another."""


class Added(Event):
    """Counted."""

    by: int


class Stumble(Exception):
    """Fails the whole shard."""


class _Stumbled:
    """What no restart of a shard undoes: a process stumbles once. Who verifies is no worker, and decides calmly."""

    done = IN_A_NODE not in os.environ


class Tally(Entity):
    """Stateful: what the counters told."""

    total: int = 0

    @command
    def note(self, cmd: Note) -> Self:
        """Add up."""
        return self.replace(total=self.total + cmd.by)


class Counter(Entity):
    """Journaled."""

    total: int = 0

    @command
    def add(self, cmd: Add, ctx: Context) -> Added:
        """Count, and tell a tally."""
        ctx.tell(Tally.note, f"t-{cmd.by % 10}", Note(by=cmd.by))
        return Added(by=cmd.by)

    @command
    def fail(self, cmd: Fail) -> Added | None:
        """Fail as told."""
        match cmd.how:
            case "stop":
                raise ValueError("told to stop")
            case "resume":
                raise KeyError("told to go on")
            case "escalate":
                if not _Stumbled.done:
                    _Stumbled.done = True
                    raise Stumble("told to stumble")
                return None
        raise RuntimeError("told to fail")

    @command
    def close(self, _cmd: Close, ctx: Context) -> None:
        """End."""
        ctx.stop()

    @event
    def added(self, evt: Added) -> Self:
        """Add up."""
        return self.replace(total=self.total + evt.by)


# Small transactions, so that there are many; a short window, so that snapshots are in most of them.
system = ActorSystem(
    os.environ.get("KILLED_NAME", "killed"),
    settings=Settings(
        delivery=os.environ.get("KILLED_DELIVERY", "exactly-once"),
        batch_records_max=int(os.environ.get("KILLED_BATCH", "10")),
        snapshot_window_bytes_max=1,
        snapshot_window_records=50,
        session_timeout_s=float(os.environ.get("KILLED_SESSION_S", "6")),
        transaction_timeout_s=float(os.environ.get("KILLED_TRANSACTION_S", "10")),
        ping_timeout_s=float(os.environ.get("KILLED_PING_S", "15")),
    ),
    workers=restart(max_restarts=1_000, within_s=60, backoff=Backoff(first_s=0.02, max_s=1)),
)
for entity in (Counter, Tally):
    system.host(
        entity,
        partitions=2,
        supervise=restart(
            max_restarts=1,
            backoff=Backoff(first_s=0.01),
            on={ValueError: Directive.STOP, KeyError: Directive.RESUME, Stumble: Directive.ESCALATE},
        ),
    )
