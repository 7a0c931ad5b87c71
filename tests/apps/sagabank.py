"""A bank whose transfers are sagas, for tests: the accounts are those of ``examples.banking``."""

from __future__ import annotations

from examples.banking.accounts import Account, AccountClosed, Deposit, InsufficientFunds, Refund, Withdraw
from repertory import PIVOT, ActorSystem, Cancelled, Command, Event, Saga, SagaContext, Undelivered, run


class Start(Command):
    """Move an amount of cents."""

    source: str
    target: str
    amount: int


class Transferred(Event):
    """The target has the money."""

    amount: int


class Transfer(Saga):
    """A transfer of money; its key is the transfer's id."""

    @run
    async def transfer(
        self, cmd: Start, ctx: SagaContext
    ) -> Transferred | InsufficientFunds | AccountClosed | Undelivered | Cancelled:
        """Take the money from the source, and give it to the target."""
        refund = ctx.call(Account.refund, cmd.source, Refund(amount=cmd.amount, transfer=ctx.key))
        await ctx.require(Account.withdraw, cmd.source, Withdraw(amount=cmd.amount, transfer=ctx.key), undo=refund)
        await ctx.require(Account.deposit, cmd.target, Deposit(amount=cmd.amount, transfer=ctx.key), undo=PIVOT)
        return Transferred(amount=cmd.amount)


system = ActorSystem("saga-bank")
system.host(Account, partitions=2)
system.host(Transfer, partitions=2)
