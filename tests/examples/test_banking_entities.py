"""The bank's entities, one at a time: every path through an account and a transfer, without a log."""

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
from examples.banking.transfers import (
    NotPossible,
    RefundRetried,
    RetryRefund,
    Stage,
    StartTransfer,
    Transfer,
    TransferCompleted,
    TransferDebited,
    TransferRefunded,
    TransferRefused,
    TransferStarted,
    TransferStranded,
    TransferUncredited,
)
from repertory import Command, Message, TestKit, Undelivered
from repertory.actors.collected import Tell
from repertory.actors.wire import DecodeError

START = StartTransfer(source="a-1", target="a-2", amount=30)


def account(balance: int = 0, *, is_open: bool = True) -> TestKit[Account]:
    return TestKit(Account(balance=balance, is_open=is_open))


def transfer(stage: Stage = Stage.NEW) -> TestKit[Transfer]:
    if stage is Stage.NEW:
        return TestKit(Transfer(), key="t-1")
    return TestKit(Transfer(source="a-1", target="a-2", amount=30, stage=stage), key="t-1")


def asked(sent: object) -> tuple[str, str, Message, str]:
    """Return the handler, key, message and ``about`` of the only ask."""
    (ask,) = sent  # type: ignore[misc]
    assert isinstance(ask, Tell)
    assert ask.asked
    return repr(ask.handler), ask.key, ask.message, ask.about


# --- accounts -----------------------------------------------------------------------------------------------------


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


# --- transfers ----------------------------------------------------------------------------------------------------


def test_a_transfer_begins_with_the_source() -> None:
    """The source is asked first."""
    outcome = transfer().run(START)
    assert outcome.events == (TransferStarted(source="a-1", target="a-2", amount=30),)
    debit = ("<@command Account.withdraw>", "a-1", Withdraw(amount=30, transfer="t-1"), "debit")
    assert asked(outcome.sent) == debit
    assert outcome.state.stage is Stage.DEBIT


def test_a_debited_transfer_goes_to_the_target() -> None:
    """The transfer completes with the deposit."""
    kit = transfer(Stage.DEBIT)
    outcome = kit.run(Withdrawn(amount=30, transfer="t-1"), about="debit")
    assert outcome.events == (TransferDebited(),)
    credit = ("<@command Account.deposit>", "a-2", Deposit(amount=30, transfer="t-1"), "credit")
    assert asked(outcome.sent) == credit
    outcome = kit.run(Deposited(amount=30, transfer="t-1"), about="credit")
    assert (outcome.events, outcome.sent) == ((TransferCompleted(),), ())
    assert outcome.state.stage is Stage.COMPLETED


def test_a_source_without_funds_refuses_the_transfer() -> None:
    """No money has moved, and nothing is asked."""
    outcome = transfer(Stage.DEBIT).run(InsufficientFunds(balance=7), about="debit")
    assert (outcome.events, outcome.sent) == ((TransferRefused(reason="the source holds 7 cents"),), ())
    assert outcome.state.stage is Stage.REFUSED


def test_a_closed_target_sends_the_money_back() -> None:
    """The transfer ends when the source has the money."""
    kit = transfer(Stage.CREDIT)
    outcome = kit.run(AccountClosed(), about="credit")
    assert outcome.events == (TransferUncredited(reason="the target is closed"),)
    refund = ("<@command Account.refund>", "a-1", Refund(amount=30, transfer="t-1"), "refund")
    assert asked(outcome.sent) == refund
    outcome = kit.run(Refunded(amount=30, transfer="t-1"), about="refund")
    assert (outcome.events, outcome.sent) == ((TransferRefunded(),), ())
    assert outcome.state.stage is Stage.REFUNDED


def test_an_undelivered_debit_refuses() -> None:
    """The debit was not applied and never will be."""
    outcome = transfer(Stage.DEBIT).run(Undelivered(reason="parked"), about="debit")
    assert (outcome.events, outcome.sent) == ((TransferRefused(reason="parked"),), ())


def test_an_undelivered_credit_is_refunded() -> None:
    """The deposit was not applied and never will be, so the refund is safe."""
    outcome = transfer(Stage.CREDIT).run(Undelivered(reason="parked"), about="credit")
    assert outcome.events == (TransferUncredited(reason="parked"),)
    assert asked(outcome.sent)[2] == Refund(amount=30, transfer="t-1")


def test_an_undelivered_refund_waits_for_an_operator() -> None:
    """The transfer holds the money until an operator retries the refund."""
    kit = transfer(Stage.REFUND)
    outcome = kit.run(Undelivered(reason="parked"), about="refund")
    assert (outcome.events, outcome.sent) == ((TransferStranded(reason="parked"),), ())
    assert outcome.state.stage is Stage.STRANDED
    outcome = kit.run(RetryRefund())
    assert outcome.events == (RefundRetried(),)
    assert asked(outcome.sent)[1:3] == ("a-1", Refund(amount=30, transfer="t-1"))
    assert kit.run(Refunded(amount=30, transfer="t-1"), about="refund").state.stage is Stage.REFUNDED


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.NEW])
def test_a_second_start_moves_nothing(stage: Stage) -> None:
    """A second start is rejected at every stage, also with other accounts."""
    outcome = transfer(stage).run(StartTransfer(source="a-9", target="a-8", amount=1))
    assert (outcome.reply, outcome.events, outcome.sent) == (NotPossible(stage=stage), (), ())


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.STRANDED])
def test_only_a_stranded_refund_is_retried(stage: Stage) -> None:
    """Otherwise the money could be refunded twice."""
    outcome = transfer(stage).run(RetryRefund())
    assert (outcome.reply, outcome.events, outcome.sent) == (NotPossible(stage=stage), (), ())


@pytest.mark.parametrize(
    "start",
    [
        StartTransfer(source="", target="a-2", amount=1),
        StartTransfer(source="a-1", target="a\0", amount=1),
        StartTransfer(source="a-1", target="a-2\n", amount=1),
        StartTransfer(source="a-1", target="a" * 65, amount=1),
        StartTransfer(source="a-1", target="a-2", amount=0),
    ],
)
def test_an_invalid_transfer_cannot_be_decoded(start: Command) -> None:
    """A transfer with an invalid account or amount is refused before any money moves."""
    with pytest.raises(DecodeError):
        transfer().run(start)
