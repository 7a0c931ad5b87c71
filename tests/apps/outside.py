"""A system of effects for the simulator: their results are heard, or fail; timers and stops come between."""

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
    EffectContext,
    Entity,
    Event,
    Rejection,
    Request,
    Undelivered,
    command,
    effect,
    event,
    reply,
    restart,
)
from repertory.bridge.system.settings import Settings


class Charge(Request):
    """Take money."""

    amount: int


class Write(Request):
    """Write a letter."""

    text: str


class Charged(Event):
    """It was taken."""

    receipt: str


class Declined(Rejection):
    """It was not."""

    why: str


@effect(timeout_s=5, attempts=4, backoff=Backoff(first_s=0.05, max_s=1.0), name="outside.charge")
async def charge(do: Charge, fx: EffectContext) -> Charged | Declined:
    """Simulated: its results are drawn."""
    return Charged(receipt=fx.id)


@effect(timeout_s=2, attempts=2, backoff=Backoff(first_s=0.01, max_s=0.1), name="outside.write")
async def write(do: Write) -> Charged | None:
    """Simulated: its results are drawn."""
    return None


class Buy(Command):
    """Perform `charge` that often, and `write`."""

    times: int = 1
    writes: int = 0
    about: str = ""
    then: str = ""


class Bought(Event):
    """A result was heard."""

    about: str
    good: bool


class Cart(Entity):
    """Journals the results of its effects."""

    bought: int = 0

    @command
    def buy(self, cmd: Buy, ctx: Context) -> Bought | None:
        """Perform; or as it says."""
        for number in range(cmd.times):
            ctx.perform(charge, Charge(amount=number), about=cmd.about)
        for _ in range(cmd.writes):
            ctx.perform(write, Write(text=cmd.about))
        match cmd.then:
            case "stop":
                ctx.stop()
            case "later":
                ctx.schedule("again", Cart.buy, Buy(about="later"), after_s=0.2)
            case "fail":
                raise ValueError("it is not bought")
            case "event":
                return Bought(about="at once", good=True)
            case "post":
                ctx.tell(Ledger.enter, ctx.key, Buy(about="posted"), after_s=0.1)
        return None

    @reply
    def charged(self, evt: Charged | Declined | Undelivered, ctx: Context) -> Bought:
        """Hear a result; or fail once, or always, as it is about."""
        if ctx.about == "once" and ctx.attempt == 1:
            raise RuntimeError("not at once")
        if ctx.about == "hopeless":
            raise KeyError("never")
        if ctx.about == "more":
            ctx.perform(write, Write(text="more"))
        return Bought(about=ctx.about, good=isinstance(evt, Charged))

    @event
    def was_bought(self, evt: Bought) -> Self:
        """Count it."""
        return self.replace(bought=self.bought + 1)


class Ledger(Entity):
    """Stateful: counts what it hears."""

    entries: tuple[str, ...] = ()

    @command
    def enter(self, cmd: Buy, ctx: Context) -> Self:
        """Write it down, outside too."""
        ctx.perform(charge, Charge(amount=0), about=cmd.about)
        return self.replace(entries=(*self.entries, cmd.about)[-5:])

    @reply
    def entered(self, evt: Charged | Declined | Undelivered, ctx: Context) -> Self | None:
        """Hear it; a full ledger ends."""
        if len(self.entries) == 5:
            ctx.stop()
            return None
        return self.replace(entries=(*self.entries, type(evt).__name__))


POLICY = restart(
    max_restarts=2,
    within_s=60,
    backoff=Backoff(first_s=0.02, max_s=1.0),
    on={KeyError: Directive.RESUME, ValueError: Directive.STOP},
)
#: What handlers raise without an injected fault.
allowed_errors = (ValueError, KeyError, RuntimeError)

#: Turns that settle few effects, so that more of them can end between two; few run at a time.
system = ActorSystem("outside", settings=Settings(timers_per_turn_max=3, effects_running_max=5))
system.host(Cart, partitions=2, supervise=POLICY)
system.host(Ledger, partitions=2, supervise=POLICY)

_ABOUT = ("", "", "rent", "once", "hopeless", "more")
_THEN = ("", "", "", "stop", "later", "fail", "event", "post")


def commands(random: Random, count: int = 120) -> Iterator[tuple[Any, str, Command]]:
    """Yield the commands of one run: few keys, so that their effects wait for each other."""
    for _ in range(count):
        key, about = f"k{random.randrange(5)}", random.choice(_ABOUT)
        buy = Buy(times=random.randrange(3), writes=random.randrange(2), about=about, then=random.choice(_THEN))
        yield (Cart.buy if random.randrange(3) else Ledger.enter), key, buy
