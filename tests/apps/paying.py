"""An application for tests of asks with an id: each answer and each event says which decision made it.

Run as a program it asks once, as a client that a test may kill: ``paying.py URL KEY ID MADE_AT_MS NUMBER AMOUNT``.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Self

from repertory import (
    ActorSystem,
    AskId,
    Backoff,
    Command,
    Context,
    Directive,
    Entity,
    Event,
    Rejection,
    Sender,
    command,
    event,
    restart,
)
from repertory.bridge.system.settings import Settings

#: This amount fails, with a directive each, until it is mended: its key is parked, it is a dead letter, it is retried.
UNLUCKY, HOPELESS, CLUMSY = 13, 14, 15


class Mended:
    """Whether what fails is mended, in this process."""

    yes = False


class Pay(Command):
    """Pay. A negative amount is rejected; 0 only counts the decision, as an event."""

    number: int
    amount: int = 1


class Hold(Command):
    """Be answered later."""

    number: int


class Release(Command):
    """Answer who is held."""


class Paid(Event):
    """The ``count``-th decision that changed this purse."""

    number: int
    count: int


class Held(Event):
    """Somebody waits."""

    number: int
    sender: Sender | None


class Released(Event):
    """Nobody waits any more."""

    number: int
    count: int


class Poor(Rejection):
    """Not payable, after so many decisions: decided again, it may read otherwise."""

    number: int
    count: int


class Purse(Entity):
    """Journaled."""

    count: int = 0
    held: tuple[int, Sender | None] | None = None

    @command
    def pay(self, cmd: Pay) -> Paid | Poor:
        """Pay, refuse, or fail."""
        if cmd.amount == UNLUCKY and not Mended.yes:
            raise ValueError("unlucky")
        if cmd.amount == HOPELESS and not Mended.yes:
            raise KeyError("hopeless")
        if cmd.amount == CLUMSY and not Mended.yes:
            raise RuntimeError("clumsy")
        if cmd.amount < 0:
            return Poor(number=cmd.number, count=self.count)
        return Paid(number=cmd.number, count=self.count + 1)

    @command
    def hold(self, cmd: Hold, ctx: Context) -> Held:
        """Keep the sender."""
        return Held(number=cmd.number, sender=ctx.sender)

    @command
    def release(self, _cmd: Release, ctx: Context) -> Released | None:
        """Answer it."""
        if self.held is None:
            return None
        number, sender = self.held
        released = Released(number=number, count=self.count + 1)
        if sender is not None:
            ctx.reply(released, to=sender)
        return released

    @event
    def paid(self, evt: Paid) -> Self:
        """Count."""
        return self.replace(count=evt.count)

    @event
    def was_held(self, evt: Held) -> Self:
        """Keep."""
        return self.replace(held=(evt.number, evt.sender))

    @event
    def was_released(self, evt: Released) -> Self:
        """Forget."""
        return self.replace(count=evt.count, held=None)


def made(
    name: str,
    delivery: str,
    *,
    partitions: int = 2,
    answers_max: int = 100_000,
    kept_s: float = 86_400.0,
    batch: int = 30_000,
    retry_s: float | None = None,
) -> ActorSystem:
    """Return a system with these entities. ``retry_s``: delay before a command that has failed is tried once more.

    A restart counts for twice that time: a test that sets a worker's clock to the retry leaves the log's time behind,
    by which ``verify`` tells which restarts are forgotten.
    """
    found = ActorSystem(
        name,
        settings=Settings(
            delivery=delivery,
            answers_per_shard_max=answers_max,
            answers_kept_s=kept_s,
            batch_records_max=batch,
            snapshot_window_records=50,
        ),
        workers=restart(max_restarts=1_000, within_s=60, backoff=Backoff(first_s=0.02, max_s=1)),
    )
    directives = {ValueError: Directive.STOP, KeyError: Directive.RESUME}
    backoff = (
        Backoff() if retry_s is None else Backoff(first_s=retry_s, max_s=retry_s, jitter=0, reset_after_s=2 * retry_s)
    )
    policy = restart(
        max_restarts=0 if retry_s is None else 1,
        within_s=60.0 if retry_s is None else 2 * retry_s,
        backoff=backoff,
        on=directives,
    )
    found.host(Purse, partitions=partitions, supervise=policy)
    return found


#: Small transactions, so that there are many.
system = made(
    os.environ.get("PAYING_NAME", "paying"),
    os.environ.get("PAYING_DELIVERY", "exactly-once"),
    answers_max=int(os.environ.get("PAYING_ANSWERS_MAX", "100000")),
    batch=10,
)


def main(url: str, key: str, ask_id: str, made_at_ms: str, number: str, amount: str) -> None:
    """Ask once, and say the answer."""
    made_at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(made_at_ms))
    with system.client(url) as client:
        result = client.ask_result(
            Purse.pay, key, Pay(number=int(number), amount=int(amount)), id=AskId(ask_id, made_at), timeout_s=60
        )
    print(result.value, result.again, flush=True)  # noqa: T201  the test reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
