"""Example 6, a job that recurs: interest every month; run it with ``python -m examples.recurring``."""

from typing import Self

from repertory import ActorSystem, Command, Context, Entity, Event, Rejection, command, event

MONTH_S = 30 * 86_400.0


class Open(Command):
    """Open an account with so much on it."""

    amount: int


class PayInterest(Command):
    """Sent by a timer, every month."""


class Close(Command):
    """Close the account."""


class Opened(Event):
    """It is open."""

    amount: int


class InterestPaid(Event):
    """One per cent, for the month that ended then (epoch)."""

    amount: int
    month_ms: int | None


class IsOpen(Rejection):
    """It is open already."""


class Savings(Entity):
    """An account; its key is its owner."""

    balance: int = 0

    @command
    def open(self, cmd: Open, ctx: Context) -> Opened | IsOpen:
        if self.balance:
            return IsOpen()
        ctx.schedule("interest", Savings.pay_interest, PayInterest(), every_s=MONTH_S)
        return Opened(amount=cmd.amount)

    @command
    def pay_interest(self, _cmd: PayInterest, ctx: Context) -> InterestPaid:
        return InterestPaid(amount=self.balance // 100, month_ms=ctx.due_ms)

    @command
    def close(self, _cmd: Close, ctx: Context) -> None:
        ctx.stop()  # The timers of an entity end with its life.

    @event
    def opened(self, evt: Opened) -> Self:
        return self.replace(balance=evt.amount)

    @event
    def interest_paid(self, evt: InterestPaid) -> Self:
        return self.replace(balance=self.balance + evt.amount)


system = ActorSystem("savings")
system.host(Savings, partitions=2)


def main() -> None:
    """Open an account, and let half a year pass."""
    with system.start("memory:") as running:
        running.client.ask(Savings.open, "ann", Open(amount=10_000))
        running.advance(6 * MONTH_S)
        print(running.state(Savings, "ann"))
        running.client.ask(Savings.close, "ann", Close())
        running.advance(MONTH_S)
        print(running.state(Savings, "ann"), running.timers())


if __name__ == "__main__":
    main()
