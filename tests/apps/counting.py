"""An application for tests of whole nodes: counters that can be told to fail, kill or hang their worker."""

from __future__ import annotations

import os
from typing import Self

from actors import Command, Entity, Event, command, event
from bridge import ActorSystem
from bridge.settings import Settings
from supervision import Backoff, Directive, restart


class Add(Command):
    """Count ``by`` more."""

    by: int = 1


class Break(Command):
    """Raise an error of a kind: ``restart`` or ``stop``."""

    how: str


class Added(Event):
    """Counted."""

    by: int


class Counter(Entity):
    """Counts."""

    total: int = 0

    @command
    def add(self, cmd: Add) -> Added:
        """Count."""
        return Added(by=cmd.by)

    @command
    def break_down(self, cmd: Break) -> Added:
        """Fail as told."""
        if cmd.how == "stop":
            raise ValueError("told to stop")
        raise RuntimeError("told to fail")

    @event
    def added(self, evt: Added) -> Self:
        """Add up."""
        return self.replace(total=self.total + evt.by)


# A name and a lease of its own for each test, inherited by the workers.
system = ActorSystem(
    os.environ.get("COUNTING_NAME", "counting"),
    settings=Settings(
        session_timeout_s=float(os.environ.get("COUNTING_SESSION_S", "6")),
        ping_timeout_s=float(os.environ.get("COUNTING_PING_S", "15")),
    ),
)
system.host(
    Counter,
    partitions=int(os.environ.get("COUNTING_PARTITIONS", "4")),
    supervise=restart(max_restarts=1, backoff=Backoff(first_s=0.01), on={ValueError: Directive.STOP}),
)
