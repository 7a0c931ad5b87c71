"""A system whose handlers see the types of its state: an int that was written to a float field is a float."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Self

from repertory import ActorSystem, Command, Context, Entity, Event, command, event


class Fill(Command):
    """Set the level."""

    level: int


class Filled(Event):
    """The level is set. ``before`` is the text of the level before."""

    level: int
    before: str


class Gauge(Entity):
    """Journaled. Its event handler puts an int into a float field."""

    level: float = 0.0

    @command
    def fill(self, cmd: Fill) -> Filled:
        """Set the level, and say what it was."""
        return Filled(level=cmd.level, before=str(self.level))

    @event
    def filled(self, evt: Filled) -> Self:
        """Set the level."""
        return self.replace(level=evt.level)


class Dial(Entity):
    """The same, stateful; ``before`` is part of its state."""

    level: float = 0.0
    before: str = ""

    @command
    def fill(self, cmd: Fill, _ctx: Context) -> Self:
        """Set the level, and keep what it was."""
        return self.replace(level=cmd.level, before=str(self.level))


system = ActorSystem("gauges")
for entity in (Gauge, Dial):
    system.host(entity, partitions=2)


def commands(random: Random) -> Iterator[tuple[Any, str, Command]]:
    """Yield the commands of one run."""
    for _ in range(60):
        key, level = f"g{random.randrange(4)}", random.randrange(5)
        yield random.choice((Gauge.fill, Dial.fill)), key, Fill(level=level)
