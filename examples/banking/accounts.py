"""Accounts: what the bank keeps, and what can happen to it. Money is a whole number of cents."""

from typing import Annotated, Self

from msgspec import Meta

from repertory import Command, Entity, Event, Rejection, command, event

#: An amount that moves. What comes in with another one is a dead letter before any handler sees it.
Cents = Annotated[int, Meta(gt=0)]


class Open(Command):
    """Open the account with a first payment, or open a closed one again."""

    initial: Annotated[int, Meta(ge=0)] = 0


class Close(Command):
    """Take no deposits from now on. What the account holds stays its owner's, to be withdrawn at any time."""


class Deposit(Command):
    """Pay in. ``transfer`` names the transfer that the money belongs to, "" is cash at the counter."""

    amount: Cents
    transfer: str = ""


class Withdraw(Command):
    """Pay out. ``transfer`` as in `Deposit`."""

    amount: Cents
    transfer: str = ""


class Refund(Command):
    """Put back what a transfer took and could not deliver. No account refuses its own money, not even a closed one."""

    amount: Cents
    transfer: str


class Opened(Event):
    """The account takes deposits."""

    initial: int


class Closed(Event):
    """The account takes no deposits."""


class Deposited(Event):
    """Money came in."""

    amount: int
    transfer: str


class Withdrawn(Event):
    """Money went out."""

    amount: int
    transfer: str


class Refunded(Event):
    """Money came back."""

    amount: int
    transfer: str


class AlreadyOpen(Rejection):
    """There is nothing to open."""


class AccountClosed(Rejection):
    """The account was never opened, or is closed."""


class InsufficientFunds(Rejection):
    """There is less in the account than was asked for."""

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
    def close(self, _cmd: Close) -> Closed | AccountClosed:
        if not self.is_open:
            return AccountClosed()
        return Closed()

    @command
    def deposit(self, cmd: Deposit) -> Deposited | AccountClosed:
        if not self.is_open:
            return AccountClosed()
        return Deposited(amount=cmd.amount, transfer=cmd.transfer)

    @command
    def withdraw(self, cmd: Withdraw) -> Withdrawn | InsufficientFunds:
        if cmd.amount > self.balance:
            return InsufficientFunds(balance=self.balance)
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
