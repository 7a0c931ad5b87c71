"""A system of timers for the simulator: set, replaced, cancelled, recurring, stopped, failing; and delayed messages."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Self

from repertory import (
    ActorSystem,
    Backoff,
    Command,
    Context,
    Directive,
    Entity,
    Event,
    Rejection,
    command,
    event,
    restart,
)
from repertory.bridge.system.settings import Settings


class Start(Command):
    """Schedule a timer of that name; ``then`` is what its command says."""

    name: str
    after_s: float
    every_s: float | None = None
    then: str = ""


class Quit(Command):
    """Cancel a timer."""

    name: str


class Tick(Command):
    """What timers send."""

    name: str
    then: str = ""


class Post(Command):
    """Send a delayed message to ``key``."""

    key: str
    after_s: float


class Leave(Command):
    """End the life of the entity."""


class Ticked(Event):
    """A timer was heard."""

    name: str
    due_ms: int | None


class Busy(Rejection):
    """It is not heard."""


class Alarm(Entity):
    """Journals what its timers send."""

    heard: int = 0

    @command
    def start(self, cmd: Start, ctx: Context) -> None:
        """Schedule."""
        ctx.schedule(cmd.name, Alarm.tick, Tick(name=cmd.name, then=cmd.then), after_s=cmd.after_s, every_s=cmd.every_s)

    @command
    def quit(self, cmd: Quit, ctx: Context) -> None:
        """Cancel."""
        ctx.cancel(cmd.name)

    @command
    def tick(self, cmd: Tick, ctx: Context) -> Ticked | Busy:
        """Journal it; or as it says."""
        match cmd.then:
            case "fail":
                raise ValueError("it does not tick")
            case "hopeless":
                raise KeyError("it never ticks")
            case "once" if ctx.attempt == 1:
                raise RuntimeError("not at once")
            case "reject":
                return Busy()
            case "again":
                ctx.schedule(cmd.name, Alarm.tick, Tick(name=cmd.name), after_s=0.3)
            case "cancel":
                ctx.cancel("b")
            case "post":
                ctx.tell(Shelf.put, ctx.key, Tick(name=cmd.name), after_s=0.1)
        return Ticked(name=cmd.name, due_ms=ctx.due_ms)

    @command
    def post(self, cmd: Post, ctx: Context) -> None:
        """Send a delayed message."""
        ctx.tell(Shelf.put, cmd.key, Tick(name="post"), after_s=cmd.after_s)

    @command
    def leave(self, cmd: Leave, ctx: Context) -> None:
        """End."""
        ctx.stop()

    @event
    def ticked(self, evt: Ticked) -> Self:
        """Count it."""
        return self.replace(heard=self.heard + 1)


class Shelf(Entity):
    """Stateful: keeps what it is sent for a time."""

    names: tuple[str, ...] = ()

    @command
    def put(self, cmd: Tick, ctx: Context) -> Self:
        """Keep it, and forget it after a time."""
        ctx.schedule(f"forget-{len(self.names) % 3}", Shelf.forget, Quit(name=cmd.name), after_s=0.4)
        return self.replace(names=(*self.names, cmd.name)[-5:])

    @command
    def forget(self, cmd: Quit, ctx: Context) -> Self | None:
        """Forget it; an empty shelf ends."""
        if self.names == (cmd.name,):
            ctx.stop()
            return None
        return self.replace(names=tuple(name for name in self.names if name != cmd.name))


POLICY = restart(
    max_restarts=2,
    within_s=60,
    backoff=Backoff(first_s=0.02, max_s=1.0),
    on={KeyError: Directive.RESUME, ValueError: Directive.STOP},
)
#: What handlers raise without an injected fault.
allowed_errors = (ValueError, KeyError, RuntimeError)

#: Turns that fire few timers, so that more of them can end between two.
system = ActorSystem("timing", settings=Settings(timers_per_turn_max=3))
system.host(Alarm, partitions=2, supervise=POLICY)
system.host(Shelf, partitions=2, supervise=POLICY)

_THEN = ("", "", "", "fail", "hopeless", "once", "reject", "again", "cancel", "post")


def commands(random: Random, count: int = 150) -> Iterator[tuple[Any, str, Command]]:
    """Yield the commands of one run: few keys and names, so that they meet."""
    for _ in range(count):
        key, name = f"k{random.randrange(5)}", random.choice("abc")
        after_s = random.choice((0, 0.001, 0.05, 0.5, 3.0, 1_000.0))
        every_s = random.choice((None, None, None, 0.7, 5.0))
        start = Start(name=name, after_s=after_s, every_s=every_s, then=random.choice(_THEN))
        yield random.choices(
            (
                (Alarm.start, key, start),
                (Alarm.quit, key, Quit(name=name)),
                (Alarm.tick, key, Tick(name=name)),
                (Alarm.post, key, Post(key=f"k{random.randrange(5)}", after_s=after_s)),
                (Alarm.leave, key, Leave()),
                (Shelf.put, key, Tick(name=name)),
            ),
            weights=(8, 3, 2, 2, 1, 2),
        )[0]
