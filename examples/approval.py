"""Example 10, expenses: a saga with a signal and a deadline; run it with ``python -m examples.approval``."""

from typing import Self

import repertory
from repertory import ActorSystem, Cancelled, Command, Entity, Event, Rejection, Saga, SagaContext, Undelivered, signal


class Claim(Command):
    """Claim an expense, in whole cents."""

    amount: int


class Approve(Command):
    """Agree to it."""

    by: str


class Move(Command):
    """Take from a budget, or, with a negative amount, give back."""

    amount: int


class Paid(Event):
    """Somebody has agreed in time."""

    by: str


class Overspent(Rejection):
    """There is not so much left."""


class NobodyAgreed(Rejection):
    """The week is over."""


class Budget(Entity):
    """What a department may spend."""

    left: int = 1_000

    @repertory.command
    def move(self, cmd: Move) -> Self | Overspent:
        return Overspent() if cmd.amount > self.left else self.replace(left=self.left - cmd.amount)


class Expense(Saga):
    """An expense; its key is its number."""

    approve = signal(Approve)

    @repertory.run
    async def claim(self, cmd: Claim, ctx: SagaContext) -> Paid | Overspent | NobodyAgreed | Undelivered | Cancelled:
        """Reserve the money, and wait a week for somebody who agrees; without one it is given back."""
        back = ctx.call(Budget.move, "sales", Move(amount=-cmd.amount))
        await ctx.require(Budget.move, "sales", Move(amount=cmd.amount), undo=back)
        agreed = await ctx.first(ctx.signal(Approve), ctx.sleep(7 * 86_400))
        return NobodyAgreed() if agreed is None else Paid(by=agreed.by)


system = ActorSystem("expenses")
system.host(Budget, partitions=1)
system.host(Expense, partitions=2)


def main() -> None:
    """Claim two expenses, agree to one, and let a week pass: on ``memory:`` it need not be waited for."""
    with system.start("memory:") as running:
        for number in ("e-1", "e-2"):
            running.client.tell(Expense.claim, number, Claim(amount=400))
        running.advance(3 * 86_400)
        print(running.client.ask(Expense.approve, "e-1", Approve(by="Ada")), running.state(Budget, "sales"))
        running.advance(4 * 86_400)
        print(running.client.ask(Expense.claim, "e-2", Claim(amount=400)), running.state(Budget, "sales"))


if __name__ == "__main__":
    main()
