"""Example 4, orders that expire: a timer, and one taken back in time; run it with ``python -m examples.expiry``."""

from typing import Literal, Self

from repertory import ActorSystem, Command, Context, Entity, Event, Rejection, command, event


class Place(Command):
    """Place an order."""

    item: str


class Pay(Command):
    """Pay for it."""


class Expire(Command):
    """Sent by the timer of an order."""


class Placed(Event):
    """It is placed."""

    item: str


class Paid(Event):
    """It is paid."""


class Expired(Event):
    """Nobody has paid for it in time."""


class NotOpen(Rejection):
    """There is nothing to pay."""


class Order(Entity):
    """An order; its key is its number."""

    item: str = ""
    state: Literal["new", "open", "paid", "expired"] = "new"

    @command
    def place(self, cmd: Place, ctx: Context) -> Placed:
        ctx.schedule("expire", Order.expire, Expire(), after_s=900)
        return Placed(item=cmd.item)

    @command
    def pay(self, _cmd: Pay, ctx: Context) -> Paid | NotOpen:
        if self.state != "open":
            return NotOpen()
        ctx.cancel("expire")  # Certain, also if it has fired: its command is dropped.
        return Paid()

    @command
    def expire(self, _cmd: Expire) -> Expired:
        return Expired()

    @event
    def placed(self, evt: Placed) -> Self:
        return self.replace(item=evt.item, state="open")

    @event
    def paid(self, _evt: Paid) -> Self:
        return self.replace(state="paid")

    @event
    def expired(self, _evt: Expired) -> Self:
        return self.replace(state="expired")


system = ActorSystem("orders")
system.host(Order, partitions=2)


def main() -> None:
    """Place two orders, pay one, and let time pass: on ``memory:`` it need not be waited for."""
    with system.start("memory:") as running:
        for number in ("o-1", "o-2"):
            running.client.ask(Order.place, number, Place(item="tea"))
        running.advance(600)
        print(running.client.ask(Order.pay, "o-1", Pay()))
        running.advance(600)
        print(running.state(Order, "o-1"), running.state(Order, "o-2"))
        print(running.client.ask(Order.pay, "o-2", Pay()))


if __name__ == "__main__":
    main()
