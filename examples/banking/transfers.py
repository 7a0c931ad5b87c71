"""Transfers of money between two accounts, as sagas. ``examples.transfer_by_hand`` is what this replaces.

Each step is in the log before the next one, so that after a crash the transfer continues from its last commit. Money
that has left the source is held by the transfer until one of the two accounts has it; the transfer is not over before.
"""

from typing import Annotated

from msgspec import Meta

from examples.banking.accounts import Account, AccountClosed, Cents, Deposit, InsufficientFunds, Refund, Withdraw
from repertory import PIVOT, Cancelled, Command, Event, Saga, SagaContext, Undelivered, run

AccountNumber = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9.-]{1,64}\Z")]


class StartTransfer(Command):
    """Move ``amount`` from one account to another: once, even if this command is sent several times."""

    source: AccountNumber
    target: AccountNumber
    amount: Cents


class Transferred(Event):
    """The target has the money."""

    amount: int


class Transfer(Saga):
    """A transfer of money; its key is the transfer's id."""

    @run
    async def transfer(
        self, cmd: StartTransfer, ctx: SagaContext
    ) -> Transferred | InsufficientFunds | AccountClosed | Undelivered | Cancelled:
        """Take the money from the source, and give it to the target; what is rejected there goes back."""
        refund = ctx.call(Account.refund, cmd.source, Refund(amount=cmd.amount, transfer=ctx.key))
        withdraw = Withdraw(amount=cmd.amount, transfer=ctx.key)
        await ctx.require(Account.withdraw, cmd.source, withdraw, undo=refund)
        await ctx.require(Account.deposit, cmd.target, Deposit(amount=cmd.amount, transfer=ctx.key), undo=PIVOT)
        return Transferred(amount=cmd.amount)
