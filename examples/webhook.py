"""Example 5, a webhook with retries: an effect; run it with ``python -m examples.webhook http://127.0.0.1:8000/``."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import httpx

import repertory
from repertory import ActorSystem, Command, Context, Entity, Event, Request, Undelivered, command, effect, reply


class Place(Command):
    """Place an order."""

    item: str
    hook: str


class Notify(Request):
    """Tell the shop's webhook."""

    url: str
    item: str


class Notified(Event):
    """The webhook has taken it, at that attempt."""

    attempt: int


@effect(timeout_s=5, attempts=10, backoff=repertory.Backoff(first_s=0.05, max_s=60))
async def notify(do: Notify, fx: repertory.EffectContext) -> Notified:
    """Run after the commit, as often as it takes. The receiver tells repetitions by their key."""
    client = fx.get(httpx.AsyncClient)
    answer = await client.post(do.url, json={"item": do.item}, headers={"Idempotency-Key": fx.id})
    answer.raise_for_status()
    return Notified(attempt=fx.attempt)


class Order(Entity):
    """An order; its key is its number."""

    item: str = ""
    notified: int = 0

    @command
    def place(self, cmd: Place, ctx: Context) -> Self:
        ctx.perform(notify, Notify(url=cmd.hook, item=cmd.item))
        return self.replace(item=cmd.item)

    @reply
    def was_notified(self, evt: Notified) -> Self:
        return self.replace(notified=evt.attempt)

    @reply
    def was_dropped(self, _rejection: Undelivered) -> None:
        """An operator has given it up: ``repertory effects drop``."""


@asynccontextmanager
async def lifespan() -> AsyncIterator[httpx.AsyncClient]:
    """Once in each worker: what the effects share."""
    async with httpx.AsyncClient() as client:
        yield client


system = ActorSystem("hooks", lifespan=lifespan)
system.host(Order, partitions=2)


def main(hook: str) -> None:
    """Place an order, and let a minute pass: a webhook that is away is tried again, with increasing delays."""
    with system.start("memory:") as running:
        running.client.ask(Order.place, "o-1", Place(item="tea", hook=hook))
        running.advance(60)
        print(running.state(Order, "o-1"))
        for open_effect in running.effects():
            print(open_effect.address, open_effect.record.attempt, open_effect.record.reason)


if __name__ == "__main__":
    main(sys.argv[1])
