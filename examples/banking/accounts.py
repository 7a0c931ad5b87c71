"""Accounts: their commands, events and state. Amounts are in whole cents."""

from typing import Annotated, Self

from msgspec import Meta

from repertory import Command, Context, Entity, Event, Rejection, command, event

#: A positive amount. A command with another amount is dead-lettered before a handler sees it.
Cents = Annotated[int, Meta(gt=0)]


class Open(Command):
    """Open the account with a first payment, or open a closed one again."""

    initial: Annotated[int, Meta(ge=0)] = 0


class Close(Command):
    """Refuse deposits from now on. The balance can still be withdrawn at any time, which ends the account's life."""


class Deposit(Command):
    """Pay in. ``transfer`` is the id of the transfer that the money belongs to, or "" for cash."""

    amount: Cents
    transfer: str = ""


class Withdraw(Command):
    """Pay out. ``transfer`` as in `Deposit`."""

    amount: Cents
    transfer: str = ""


class Refund(Command):
    """Return the money of a transfer that failed. No account refuses it, not even a closed one."""

    amount: Cents
    transfer: str


class Opened(Event):
    """The account accepts deposits."""

    initial: int


class Closed(Event):
    """The account refuses deposits."""


class Deposited(Event):
    """Money was paid in."""

    amount: int
    transfer: str


class Withdrawn(Event):
    """Money was paid out."""

    amount: int
    transfer: str


class Refunded(Event):
    """The money of a failed transfer was returned."""

    amount: int
    transfer: str


class AlreadyOpen(Rejection):
    """The account is open already."""


class AccountClosed(Rejection):
    """The account was never opened, or is closed."""


class InsufficientFunds(Rejection):
    """The balance is less than the amount."""

    balance: int


class Account(Entity):
    """A bank account; its key is the account number."""

    balance: int = 0
    is_open: bool = False

    @command
    def open(self, cmd: Open) -> Opened | AlreadyOpen:
        if self.is_open:
            return AlreadyOpen()
        return Opened(initial=cmd.initial)

    @command
    def close(self, _cmd: Close, ctx: Context) -> Closed | AccountClosed:
        if not self.is_open:
            return AccountClosed()
        if not self.balance:
            ctx.stop()  # As if it had never been: it takes no memory, and may be opened again.
        return Closed()

    @command
    def deposit(self, cmd: Deposit) -> Deposited | AccountClosed:
        if not self.is_open:
            return AccountClosed()
        return Deposited(amount=cmd.amount, transfer=cmd.transfer)

    @command
    def withdraw(self, cmd: Withdraw, ctx: Context) -> Withdrawn | InsufficientFunds:
        if cmd.amount > self.balance:
            return InsufficientFunds(balance=self.balance)
        if cmd.amount == self.balance and not self.is_open:
            ctx.stop()
        return Withdrawn(amount=cmd.amount, transfer=cmd.transfer)

    @command
    def refund(self, cmd: Refund) -> Refunded:
        return Refunded(amount=cmd.amount, transfer=cmd.transfer)

    @event
    def opened(self, evt: Opened) -> Self:
        return self.replace(balance=self.balance + evt.initial, is_open=True)

    @event
    def closed(self, _evt: Closed) -> Self:
        return self.replace(is_open=False)

    @event
    def deposited(self, evt: Deposited) -> Self:
        return self.replace(balance=self.balance + evt.amount)

    @event
    def withdrawn(self, evt: Withdrawn) -> Self:
        return self.replace(balance=self.balance - evt.amount)

    @event
    def refunded(self, evt: Refunded) -> Self:
        return self.replace(balance=self.balance + evt.amount)
