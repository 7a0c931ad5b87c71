"""The bank's accounts, one at a time: every path through one, without a log."""

from __future__ import annotations

import pytest

from examples.banking.accounts import (
    Account,
    AccountClosed,
    AlreadyOpen,
    Close,
    Closed,
    Deposit,
    Deposited,
    InsufficientFunds,
    Open,
    Opened,
    Refund,
    Refunded,
    Withdraw,
    Withdrawn,
)
from repertory import TestKit
from repertory.actors.wire import DecodeError


def account(balance: int = 0, *, is_open: bool = True) -> TestKit[Account]:
    return TestKit(Account(balance=balance, is_open=is_open))


def test_an_account_opens_once() -> None:
    """Opening makes the first payment; an open account refuses to be opened again."""
    kit = TestKit(Account())
    assert kit.run(Open(initial=10)).events == (Opened(initial=10),)
    assert kit.state == Account(balance=10, is_open=True)
    outcome = kit.run(Open(initial=10))
    assert (outcome.reply, outcome.events, outcome.state.balance) == (AlreadyOpen(), (), 10)


def test_an_open_account_takes_deposits() -> None:
    """The event has the transfer of the deposit."""
    outcome = account(5).run(Deposit(amount=3, transfer="t-1"))
    assert outcome.events == (Deposited(amount=3, transfer="t-1"),)
    assert outcome.state.balance == 8


@pytest.mark.parametrize("balance", [0, 7])
def test_an_account_that_is_not_open_refuses_deposits(balance: int) -> None:
    """Whether it was never opened, or closed with money in it."""
    outcome = account(balance, is_open=False).run(Deposit(amount=3))
    assert (outcome.reply, outcome.state.balance) == (AccountClosed(), balance)


def test_an_account_pays_out_what_it_holds_and_no_more() -> None:
    """No balance is ever negative."""
    kit = account(10)
    assert kit.run(Withdraw(amount=11)).reply == InsufficientFunds(balance=10)
    assert kit.run(Withdraw(amount=10, transfer="t-1")).reply == Withdrawn(amount=10, transfer="t-1")
    assert kit.run(Withdraw(amount=1)).reply == InsufficientFunds(balance=0)


def test_a_closed_account_still_belongs_to_its_owner() -> None:
    """A closed account accepts refunds and pays out: closing it never locks money in."""
    kit = account(10)
    assert kit.run(Close()).events == (Closed(),)
    assert kit.run(Close()).reply == AccountClosed()
    assert kit.run(Refund(amount=5, transfer="t-1")).reply == Refunded(amount=5, transfer="t-1")
    assert kit.run(Withdraw(amount=15)).reply == Withdrawn(amount=15, transfer="")
    assert kit.state == Account(balance=0, is_open=False)


@pytest.mark.parametrize("amount", [0, -5])
@pytest.mark.parametrize("command", [Deposit, Withdraw])
def test_amounts_are_above_zero(command: type[Deposit | Withdraw], amount: int) -> None:
    """A deposit below 0 would be a withdrawal without funds: it cannot be decoded."""
    with pytest.raises(DecodeError, match="amount"):
        account(100).run(command(amount=amount))
